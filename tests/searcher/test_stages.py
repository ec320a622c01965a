"""Searches in stages: the settings and weights of each stage, kills in every stage, invalid stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from folders import equal
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nasx.cli import status
from nasx.config import check, paths, stages
from nasx.core import files
from nasx.core.schedules import cosine
from nasx.errors import UserError
from nasx.searcher import stage as search_stage
from nasx.searcher.problem import weights
from nasx.searcher.warm_start import warm_start
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import checkpoints, records

import small

TINY = (*jobs.TINY, "search.epochs=2", "search.updates_per_epoch=4", "search.arch_warmup=1")
PDARTS = (
    "search",
    "space=darts",
    "stages=pdarts",
    "stages.space.layers=[3,3,4]",
    "stages.keep=[3,2]",
    "space.operations=[none,skip_connect,avg_pool_3x3,sep_conv_3x3]",
    *TINY,
    "checkpoint_s=0.001",
)
DRNAS = (
    "search",
    "space=nb201",
    "space.layers=1",
    "stages=drnas_nb201",
    *TINY,
    "search.arch_lr=0.3",
    "checkpoint_s=0.001",
)


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        cfg: Any = OmegaConf.to_container(compose("search", list(words)), resolve=True)
    return {key: value for key, value in cfg.items() if key != "hydra"}


def faults(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        check.check(composed(*words), {}, words)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------- settings
def test_each_stage_has_its_own_values_and_all_share_the_rest() -> None:
    cfg = composed("space=darts", "stages=pdarts")
    found = [stages.stage_config(cfg, i) for i in range(stages.count(cfg))]
    assert [c["space"]["layers"] for c in found] == [5, 11, 17]
    assert [c["search"]["skip_dropout"] for c in found] == [0.1, 0.4, 0.7]
    for own in found:
        assert (own["search"]["epochs"], own["search"]["arch_warmup"], own["space"]["max_skips"]) == (25, 10, 2)
    assert all(stages.count(c) == 1 for c in found)
    check.check(cfg)
    one = composed("space=darts")
    assert stages.count(one) == 1
    assert stages.stage_config(one, 0) == {**one, "stages": stages.NONE} == one


def test_a_file_of_stages_may_leave_settings_out() -> None:
    cfg = composed("space=darts", "stages=pdarts", "~stages.search", "~stages.inherit", "dataset=digits")
    check.check(cfg)
    assert stages.stage_config(cfg, 2)["space"]["layers"] == 17
    check.check(composed("space=darts", "stages=pdarts", "~stages.space", "~stages.keep", "~stages.search"))


def test_without_priors_nothing_is_dropped_and_nothing_limited() -> None:
    cfg = composed("space=darts", "stages=pdarts_no_priors", "method=lambda")
    last = stages.stage_config(cfg, 2)
    assert (last["search"]["skip_dropout"], last["space"]["max_skips"], last["space"]["layers"]) == (0, None, 17)
    assert last["method"]["schedule"] == "epoch", "lambda grows from 0 again in each stage, with its epochs"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["stages.keep=[5]"], "has 3 values for 2 stages"),
        (
            ["space.layers=4"],
            r"space.layers=4: each stage needs its own value; set stages.space.layers=[...,...,...]",
        ),
        (["stages.keep=[5,6]"], "keeps 6 of 5 operations"),
        (["stages.keep=[9,3]"], "keeps 9 of 8 operations"),
        (["stages.space.layers=[3,0,4]"], "stages, stage 2: space.layers=0: must be at least 3"),
        (["stages=drnas_darts", "space.channels=18"], "stages, stage 2: space.partial=4: does not divide 18 channels"),
        (["+stages.space.layrs=3"], "stages, stage 1: space.layrs: Darts has no such setting"),
        (["stop=eigenvalue"], "stages run for a fixed number of epochs"),
        (["stages.inherit=3"], "must be true or false"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(words: list[str], fault: str) -> None:
    assert fault in faults("space=darts", "stages=pdarts", "dataset=digits", *words)


def test_skip_dropout_needs_skip_connections() -> None:
    assert "has no skip connections" in faults("space=nb1shot1_1", "search.skip_dropout=0.1", "dataset=digits")


# -------------------------------------------------------------------------------------------------- inheritance
class Pair:
    """A search on a wide space with some updates, and one on the narrowed space that goes on from it."""

    def __init__(self, wide: Space, **changes: Any) -> None:
        from dataclasses import replace

        self.wide, self.old = wide, small.search(wide, momentum=0.9)
        self.old.a_opt = torch.optim.Adam(self.old.a.values(), lr=0.1)
        for seed in range(2):
            self.old.update_w(small.batch(seed))
            self.old.update_a(small.batch(10 + seed))
        self.space = replace(wide.narrow(self.old.problem.relax(self.old.a), 2), **changes)
        self.new = small.search(self.space, seed=1, momentum=0.9)
        self.new.a_opt = torch.optim.Adam(self.new.a.values(), lr=0.1)
        net: Any = self.new.problem.supernet  # type: ignore[attr-defined]
        old: Any = self.old.problem.supernet  # type: ignore[attr-defined]
        state = {
            "w": {k: x.detach() for k, x in self.old.w.items()},
            "buffers": dict(old.named_buffers()),
            "a": {k: x.detach() for k, x in self.old.a.items()},
            "w_opt": self.old.w_opt.state_dict(),
            "a_opt": self.old.a_opt.state_dict(),
        }
        warm_start(self.new, net, self.space, wide, state, 10)


@pytest.mark.parametrize("wide", [Nb201(layers=1, channels=8, partial=2), Darts(layers=3, channels=8, partial=2)])
def test_a_stage_that_goes_on_takes_the_same_steps_on_what_is_left(wide: Space) -> None:
    """At a mixture of kept operations alone, the wide and the narrow supernet move alike, momentum included."""
    pair = Pair(wide)
    mix = small.mixture(pair.space, 3)
    full = {k: torch.zeros_like(x) for k, x in small.mixture(wide, 0).items()}
    for k in full:
        for e, (own, kept) in enumerate(zip(wide.edge_operations(k), pair.space.edge_operations(k), strict=True)):
            full[k][:, e, [own.index(name) for name in kept]] = mix[k][:, e].detach()
    for seed in range(3):
        data = small.batch(20 + seed)
        one, two = pair.old.update_w(data, full), pair.new.update_w(data, mix)
        torch.testing.assert_close(one.loss, two.loss, rtol=1e-10, atol=1e-12)


def test_architecture_and_its_moments_go_along() -> None:
    pair = Pair(Nb201(layers=1, channels=4))
    lists = zip(pair.wide.edge_operations("cell"), pair.space.edge_operations("cell"), strict=True)  # type: ignore[attr-defined]
    at = torch.tensor([[own.index(name) for name in kept] for own, kept in lists])
    old, new = pair.old.a["cell"], pair.new.a["cell"]
    torch.testing.assert_close(new.detach(), old.detach().gather(1, at), rtol=0, atol=0)
    before, after = pair.old.a_opt.state[old], pair.new.a_opt.state[new]
    assert after["step"] == before["step"] == 2
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(after[key], before[key].gather(1, at), rtol=0, atol=0)


@pytest.mark.parametrize("wide", [Nb201(layers=1, channels=8, partial=4), Darts(layers=3, channels=24, partial=6)])
def test_new_channels_are_copies_of_the_old_ones(wide: Space) -> None:
    """Kernels of each kept operation and edge: entry (i, j) is the old (i mod c, j mod c); momenta alike."""
    import itertools

    k = wide.partial // 2 if isinstance(wide, Nb201) else 4  # type: ignore[attr-defined]
    pair = Pair(wide, partial=k)
    found = 0
    for new, old in zip(pair.new.problem.supernet.cells, pair.old.problem.supernet.cells, strict=True):  # type: ignore
        for ours, theirs in zip(new.bundles, old.bundles, strict=True):
            names = {theirs.edges[m[0][0]].operations[m[0][1]]: j for j, m in enumerate(theirs.members)}
            for bank, members in zip(ours.banks, ours.members, strict=True):
                j = names[ours.edges[members[0][0]].operations[members[0][1]]]
                there = [local for local, _ in theirs.members[j]]
                for (name, x), (_, y) in zip(bank.named_parameters(), theirs.banks[j].named_parameters(), strict=True):
                    for get in (lambda opt, p: p, lambda opt, p: opt.state[p]["momentum_buffer"]):
                        a = get(pair.new.w_opt, x).unflatten(0, (len(members), -1))
                        b = get(pair.old.w_opt, y).unflatten(0, (len(there), -1))
                        for e, (local, _) in enumerate(members):
                            for o, i in itertools.product(range(a.shape[1]), range(a.shape[2])):
                                old_entry = b[there.index(local), o % b.shape[1], i % b.shape[2]]
                                assert torch.equal(a[e, o, i], old_entry), name
                                found += 1
    assert found > 100
    assert all(
        torch.equal(x, pair.old.w[name])
        for name, x in weights(pair.new.problem.supernet).items()  # type: ignore
        if name in pair.old.w and ".banks." not in name
    )


# ----------------------------------------------------------------------------------------------------- whole runs
def untouched(tmp: Path, words: tuple[str, ...]) -> Path:
    done = jobs.nasx(tmp, *words)
    assert done.code == 0, done
    return jobs.folder(tmp)


def all_equal(one: Path, two: Path, n: int) -> None:
    """Every stage's checkpoint, rows and result, and the last one's totals."""
    equal(one, two)
    for i in range(n - 1):
        equal(one / stages.name(i), two / stages.name(i))
    totals = [
        {k: v for k, v in (records.finished(folder) or {}).items() if k in ("updates", "passes", "genotype")}
        for folder in (one, two)
    ]
    assert totals[0] == totals[1]


@pytest.fixture(scope="module")
def drnas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of two stages, the second with the weights of the first."""
    return untouched(tmp_path_factory.mktemp("drnas"), (*DRNAS, "seed=1"))


@pytest.mark.slow
def test_killed_in_every_stage_and_started_again_it_ends_with_the_same_bits(drnas: Path, tmp_path: Path) -> None:
    killed_everywhere((*DRNAS, "seed=1"), 2, drnas, tmp_path)


@pytest.mark.slow
def test_killed_in_every_one_of_three_stages_that_start_again(tmp_path: Path) -> None:
    for part in ("whole", "killed"):
        (tmp_path / part).mkdir()
    killed_everywhere(PDARTS, 3, untouched(tmp_path / "whole", PDARTS), tmp_path / "killed")


def killed_everywhere(words: tuple[str, ...], n: int, whole: Path, here: Path) -> None:
    """Kill a search of n stages in each of them, resume it, and compare it with `whole`, which was never killed."""
    for i in range(n):

        def reached(i: int = i) -> bool:
            found = list(
                (here / "runs").glob(
                    f"*/{stages.name(i)}/checkpoints/[0-9]*.ckpt" if i + 1 < n else "*/checkpoints/[0-9]*.ckpt"
                )
            )
            return any(int(path.stem) >= 3 for path in found)

        job = jobs.Job(here, *words)
        job.until(reached)
        job.kill()
        assert not (jobs.folder(here) / "result.json").exists()
        if i + 1 < n:
            [run] = [status.state(Path(f), here / "runs", 0.0) for f in records.run_folders(here / "runs")]
            assert run.name.endswith(f"/{stages.name(i)}")
            assert run.state == "stopped"
    done = jobs.nasx(here, *words)
    assert done.code == 0, done
    all_equal(jobs.folder(here), whole, n)
    assert len(list(records.run_folders(here))) == 1, "the stages are no runs of their own"

    record = records.finished(whole) or {}
    each = [records.finished(whole / stages.name(i)) or {} for i in range(n - 1)]
    assert record["updates"] == 8 * n
    assert record["passes"] > sum(r["passes"] for r in each) > 0
    assert record["wall_s"] > sum(r["wall_s"] for r in each)
    assert [r["name"] for r in record["stages"]] == [stages.name(i) for i in range(n - 1)]
    again = jobs.nasx(whole.parents[1], *words)
    assert again.code == 0, again
    assert "stage 1" not in again.err


def test_a_stage_gets_the_space_that_the_one_before_has_narrowed(drnas: Path, tmp_path: Path) -> None:
    """The lists of stage 2, recomputed from the checkpoint of stage 1; learning rates go on along one cosine."""
    state, cfg = checkpoints.last(drnas / "stage-1"), files.read_yaml(drnas / "config.yaml")
    assert state is not None
    assert cfg is not None
    rows = torch.softmax(state["a"]["cell"], -1).tolist()
    stage = search_stage.stage(cfg, drnas, 1)
    operations = cfg["space"]["operations"]
    expected = [[name for name, p in zip(operations, row, strict=True) if p in sorted(row)[-3:]] for row in rows]
    assert stage.config["space"]["cell"] == expected
    assert len({str(row) for row in expected}) > 1
    assert stage.config["space"]["partial"] == 2
    assert stage.last
    rates = [row["lr"] for part in (drnas / "stage-1", drnas) for row in records.read_rows(part)]
    assert rates == [cosine(0.025, 0.001, epoch, 4) for epoch in range(4)]
    first = records.read_rows(drnas)[0]
    assert all(len(row) == 3 for row in first["mix"]["cell"])

    broken = tmp_path / "broken"
    shutil.copytree(drnas, broken)
    shutil.rmtree(broken / "stage-1" / "checkpoints")
    with pytest.raises(UserError, match="stage-1: is missing the last checkpoint"):
        search_stage.stage(cfg, broken, 1)


@pytest.mark.slow
def test_edges_first_then_operations(tmp_path: Path) -> None:
    words = (
        "search",
        "space=amended_s2",
        "method=darts",
        "stages=edges",
        "space.layers=3",
        "space.auxiliary=false",
        "search.auxiliary=0",
        *TINY,
    )
    folder = untouched(tmp_path, words)
    cfg, found = files.read_yaml(folder / "config.yaml"), (folder / "stage-1" / "genotype.txt").read_text().strip()
    assert cfg is not None
    space = search_stage.stage(cfg, folder, 1).config["space"]
    assert (space["edges"], space["keep"]) == ("fixed", found)
    assert records.read_rows(folder)[0]["lr"] == records.read_rows(folder / "stage-1")[0]["lr"], "from scratch"


@pytest.mark.slow
def test_several_seeds_in_one_process(drnas: Path, tmp_path: Path) -> None:
    words = tuple(word for word in DRNAS if not word.startswith("checkpoint_s"))
    done = jobs.nasx(tmp_path, *words, "seed=0", "seeds_per_job=2")
    assert done.code == 0, done
    [folder] = [p.parent for p in (tmp_path / "runs").glob("*/result.json") if json.loads(p.read_text())["seed"] == 1]
    all_equal(folder, drnas, 2)
