"""engine=auto: paths are measured, compared and kept; runs have the bits of the path that they are on."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
import variants
from fakecuda.searches import composed, configuration

from nasx.cli import main
from nasx.config.job_info import JobInfo
from nasx.config.settings import EngineSettings
from nasx.errors import UserError
from nasx.searcher import calibration
from nasx.searcher.problem import RelaxedProblem
from nasx.tracking import checkpoints, run_folder

AUTO = ("engine=auto", "engine.calibrate=1e6")
"""A share that lets a run of seconds be measured."""
LAST = {"channels_last": True}
TRAINED = [n for n in variants.METHODS if n not in ("grasp", "naswot", "random", "snip", "synflow", "zen")]
"""Methods that train a supernet."""


def row(path: dict[str, Any], ratio: float, refused: str | None = None) -> dict[str, Any]:
    return {"path": path, "ratio": ratio, "apart": 0.0, "refused": refused}


# ------------------------------------------------------------------------------------------------------- choice
def test_every_path_that_the_configuration_leaves_open_is_a_candidate() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert calibration.candidates(EngineSettings(), cpu) == [LAST, {**LAST, "compile": "on"}, {"compile": "on"}]
    found = calibration.candidates(EngineSettings(), cuda)
    assert len(found) == 7
    assert ["compile" in path for path in found] == [False] * 3 + [True] * 4, "those that take minutes come last"
    assert calibration.candidates(EngineSettings(compile="on", channels_last=True), cpu) == []


def test_the_fastest_that_was_not_refused_is_taken_where_it_is_worth_it() -> None:
    rows = [row(LAST, 1.2), row({"compile": "on"}, 3.0, "wrong"), row({"graphs": "auto"}, 1.4)]
    assert calibration.fastest(rows) == {"graphs": "auto"}
    assert calibration.fastest([row(LAST, 1.02)]) == calibration.fastest([]) == {}
    assert calibration.choice_text({"graphs": "auto"}, rows, "measured in 3s") == (
        "engine.graphs=auto, 1.40 times as fast as eager (measured in 3s; 3 paths, 1 refused)"
    )
    assert calibration.choice_text({}, [row(LAST, 0.8)], "measured in 3s").startswith("eager, no other path is faster")
    assert calibration.choice_text({}, [], "measured in 3s").startswith("eager, the time was too short")
    on = calibration.configured_text(EngineSettings(compile="on"))
    assert calibration.choice_text({}, [row(LAST, 0.8)], "measured in 3s", on).startswith("engine.compile=on, no other")
    assert calibration.configured_text(EngineSettings()) == "eager"


@pytest.mark.parametrize(
    "held",
    [
        '{"path": {"precision": "bf16"}}',
        '{"path": {"precision": null}}',
        '{"path": {"compile": 1}}',
        '{"path": 3}',
        "{}",
    ],
)
def test_a_file_that_holds_no_path_is_refused(held: str, tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(held)
    with pytest.raises(UserError, match=r"engine\.json: is damaged"):
        calibration.saved_path(tmp_path)
    assert calibration.saved_path(tmp_path / "other") is None


# -------------------------------------------------------------------------------------------------- measurement
def built(path: dict[str, Any], *words: str) -> Any:
    """A job of a small search on a path, in this process."""
    cfg = configuration(*jobs.TINY_NB201[1:], "device=cpu", "search.arch_optimizer=sgd", *words)
    return calibration.build_job(cfg, {"choices": {}, "overrides": [], "command": ""}, Path("none"), "cpu", path)


def wrong(monkeypatch: pytest.MonkeyPatch, by: float, path: str) -> None:
    """Problems on a path scale the gradient of one weight by 1 + `by`."""
    whole = RelaxedProblem.outcome

    def outcome(self: Any, w: Any, mix: Any, batch: Any, **more: Any) -> Any:
        last = batch.x.is_contiguous(memory_format=torch.channels_last)
        if self.compiled if path == "compile" else last:
            name, x = list(w.items())[-3]
            w = {**w, name: x + by * (x - x.detach())}
        return whole(self, w, mix, batch, **more)

    monkeypatch.setattr(RelaxedProblem, "outcome", outcome)


@pytest.mark.slow
def test_a_right_path_is_measured_and_a_wrong_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = calibration.measure_paths(built, [LAST])
    assert found["refused"] is None
    assert found["ratio"] > 0
    assert 0 <= found["apart"] <= 1e-10
    assert torch.get_default_dtype() == torch.float32
    wrong(monkeypatch, 0.05, "channels_last")
    rows = list(calibration.measure_paths(built, [LAST, {"graphs": "auto"}]))
    assert "its torch.float64 step differs" in rows[0]["refused"]
    assert rows[0]["ratio"] == 0
    assert "CUDA graphs need a CUDA device" in rows[1]["refused"], "a path that fails does not stop the others"


@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_a_path_that_is_wrong_in_single_precision_only_is_refused(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RelaxedProblem.outcome

    def outcome(self: Any, w: Any, mix: Any, batch: Any, **more: Any) -> Any:
        found = whole(self, w, mix, batch, **more)
        last = batch.x.is_contiguous(memory_format=torch.channels_last) and batch.x.dtype == torch.float32
        return found._replace(loss=found.loss * factor) if last else found

    monkeypatch.setattr(RelaxedProblem, "outcome", outcome)
    [row] = calibration.measure_paths(built, [LAST])
    assert row["apart"] <= calibration.EXACT
    assert row["ratio"] == 0
    assert "its torch.float32 step differs" in row["refused"]


@pytest.mark.slow
def test_a_compiled_path_is_measured_and_a_wrong_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = calibration.measure_paths(built, [{"compile": "on"}])
    assert found["refused"] is None
    assert 0 <= found["apart"] <= 1e-10
    wrong(monkeypatch, 0.05, "compile")
    [found] = calibration.measure_paths(built, [{"compile": "on"}])
    assert "its torch.float64 step differs" in found["refused"]


def test_nothing_is_measured_if_the_configuration_leaves_no_path_open() -> None:
    assert calibration.can_choose(built({}, *AUTO, "engine.compile=on"))
    assert not calibration.can_choose(built({}, *AUTO, "engine.compile=on", "engine.channels_last=true"))


def test_rehearsed_steps_leave_nothing_behind() -> None:
    job = built({}, "space.batch_norm=tracked")
    before, random = job.loop.state(), torch.get_rng_state()
    before = {k: {n: x.clone() for n, x in before[k].items()} for k in ("w", "a", "buffers")} | {
        k: before[k] for k in ("train", "val", "w_opt", "a_opt", "updates")
    }
    assert calibration.time_step(job) > 0
    after = job.loop.state()
    for kind in ("w", "a", "buffers"):
        assert all(torch.equal(x, after[kind][name]) for name, x in before[kind].items())
    assert {k: after[k] for k in ("train", "val", "updates")} == {k: before[k] for k in ("train", "val", "updates")}
    assert after["w_opt"]["state"] == before["w_opt"]["state"] == {}
    assert after["a_opt"]["state"] == {}
    assert torch.equal(torch.get_rng_state(), random)
    assert job.problem.passes == 0


# --------------------------------------------------------------------------------------------------------- runs
def chosen() -> None:
    """The only candidate is channels_last, and it is taken however fast it is."""
    calibration.candidates = lambda engine, device: [LAST]  # type: ignore[assignment]
    calibration.FASTER = 0.0  # type: ignore[misc]
    calibration.SHORTEST_S = 0.0  # type: ignore[misc]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoints.last(folder)
    assert state is not None
    return {**{f"w {k}": x for k, x in state["w"].items()}, **{f"a {k}": x for k, x in state["a"].items()}}


def same(one: Path, other: Path) -> bool:
    expected, found = weights(one), weights(other)
    return all(torch.equal(x, found[k]) for k, x in expected.items())


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with channels_last by its configuration."""
    here = tmp_path_factory.mktemp("fixed")
    assert jobs.nasx(here, *jobs.TINY_NB201, "engine.channels_last=true").code == 0
    return jobs.folder(here)


def test_a_killed_measurement_and_a_killed_run_end_with_the_bits_of_the_path(fixed: Path, tmp_path: Path) -> None:
    """kill -9 while another process measures; kill -9 after the choice; the end; and a second run from the cache."""
    words = (*jobs.TINY_NB201, *AUTO, "checkpoint_s=0.001")
    start = functools.partial(jobs.Job, tmp_path, *words, env={"XDG_CACHE_HOME": str(tmp_path)}, prepare=chosen)
    log = tmp_path / "runs"

    def said(text: str) -> bool:
        return any(text in path.read_text() for path in log.glob("*/log.txt"))

    job = start()
    job.until(lambda: said("measuring for at most"))
    time.sleep(0.5)
    job.kill()
    assert not list(log.glob("*/engine.json"))
    assert not list(log.glob("*/checkpoints/*.ckpt"))
    job = start()
    job.until(lambda: len(list(log.glob("*/checkpoints/*.ckpt"))) > 1)
    job.kill()
    folder = jobs.folder(tmp_path)
    held = json.loads((folder / "engine.json").read_text())
    assert held["path"] == LAST
    assert held["measured"][0]["refused"] is None
    assert start().wait().code == 0
    assert same(folder, fixed)
    assert (folder / "log.txt").read_text().count("measuring for at most") == 2

    assert jobs.nasx(tmp_path, *words, "out=again", env={"XDG_CACHE_HOME": str(tmp_path)}, prepare=chosen).code == 0
    again = jobs.folder(tmp_path, "again")
    assert "measured before" in (again / "log.txt").read_text()
    assert same(again, fixed)


def test_a_branch_is_on_the_path_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, folder = tmp_path / "parent", tmp_path / "branch"
    (parent / "checkpoints").mkdir(parents=True)
    folder.mkdir()
    seen: list[Any] = []
    monkeypatch.setattr(calibration, "SearchJob", lambda ctx, path: seen.append(path))

    class Context:
        info = JobInfo(choices={}, origin=str(parent / "checkpoints" / "epoch-1.ckpt"))
        run = run_folder.ReadOnlyRun(folder)

    for held in (None, LAST):
        if held is not None:
            (parent / "engine.json").write_text(json.dumps({"path": held}))
        calibration.calibrated(Context)  # type: ignore[arg-type]
    assert seen == [{}, LAST]


@pytest.mark.slow
def test_a_short_run_has_the_bits_of_an_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[Any] = []
    rehearse = calibration.time_step
    monkeypatch.setattr(calibration, "time_step", lambda job: rehearsed.append(job) or rehearse(job))
    for name, more in (("default", ()), ("measured", ("engine.calibrate=0.5",)), ("fused", ("engine=fused",))):
        main.dispatch([*jobs.TINY_NB201, "device=cpu", f"out={tmp_path / name}", *more])
    default, some, fused = (jobs.folder(tmp_path, name) for name in ("default", "measured", "fused"))
    assert len(rehearsed) == 1, "a run of twelve steps does not take three more"
    assert default.name == some.name == fused.name
    for folder in (default, some):
        assert not (folder / "engine.json").exists()
        assert same(folder, fused)


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.sample(4)
def test_the_first_steps_of_every_method_are_those_without_a_rehearsal(method: str) -> None:
    """Rehearsed steps leave nothing in the method, the problem, the optimizers or the streams."""
    found = []
    for rehearsed in (True, False):
        name, *more = variants.VARIANTS[method]
        job = built({}, f"method={name}", *more, "search.batch=4")
        if rehearsed:
            calibration.time_step(job)
        steps = calibration.Steps(job)
        for _ in range(2):
            steps.seconds()
        found.append(job.loop.state())
    one, other = found
    for kind in ("w", "a", "buffers"):
        assert all(torch.equal(x, other[kind][name]) for name, x in one[kind].items()), kind
    assert one["train"] == other["train"]
    assert one["val"] == other["val"]


def test_the_setting_is_not_a_part_of_the_identity_of_a_run() -> None:
    from nasx.config import identity

    node = {"_target_": "nasx.config.settings.EngineSettings", "supernet": "fused"}
    for share in (0, 0.03):
        assert identity.identity({"engine": {**node, "calibrate": share}}) == identity.identity({"engine": node})
    assert composed(groups=("engine",))[0].calibrate == 0.03, "the default"
