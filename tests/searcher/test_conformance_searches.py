"""Requirements of searches in all spaces: updates, resume, and whole searches with every method.

Spaces and methods are those of conf/, so a new one is covered automatically.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import texts
import torch
import variants
from search_jobs import Killed, search
from space_variants import SPACES, TEXT, VARIANTS, composed, full, size, tiny
from variants import METHODS

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Search
from nasx.jobs import search as jobs_search
from nasx.searcher.loop import Loop
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Space
from nasx.tracking import run_folder

import small


# ------------------------------------------------------------------------------------------------------- searches
class Batches:
    """An endless stream of small float64 batches."""

    def __init__(self, space: Space, first: int, size: int) -> None:
        self.space, self.at, self.size = space, first, size

    def __next__(self) -> Batch:
        self.at += 1
        return small.given(self.space, self.at, n=2, size=self.size)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def looped(name: str, method: Any, engine: EngineSettings | None = None) -> Loop:
    space = tiny(name)
    problem = RelaxedProblem(space, small.build(space), method.activate, engine=engine)
    a = {k: x.double().requires_grad_() for k, x in method.start(space.init(torch.Generator().manual_seed(0))).items()}
    w = weights(problem.supernet)
    state = Search(
        problem,
        w,
        a,
        torch.optim.SGD(w.values(), lr=0.05, momentum=0.9),
        torch.optim.Adam(a.values(), lr=3e-3),
        clip=5.0,
    )
    return Loop(
        state,
        method,
        problem.supernet,
        Batches(space, 0, size(name) // 2),
        Batches(space, 1000, size(name) // 2),
        small.protocol(epochs=2, lr=0.05),
        updates_per_epoch=1,
    )


def method_of(name: str) -> Any:
    return variants.method_of(name, "~pair")


@pytest.mark.parametrize("method", ["darts", "gdas", "lambda"])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.sample(6)
def test_two_updates_of_a_search_and_a_resume_between_them(name: str, method: str) -> None:
    if compares(name, method):
        pytest.skip("a method that compares cells needs two of them")
    whole = looped(name, method_of(method))
    start = {k: x.detach().clone() for k, x in whole.search.a.items()}
    whole.run()
    assert whole.search.updates == 2
    moved = {k for k, x in whole.search.a.items() if not torch.equal(x, start[k])}
    assert moved == start.keys() or (method == "gdas" and moved), "a sampled path may leave a block out"
    assert all(bool(x.isfinite().all()) for x in (*whole.search.a.values(), *whole.search.w.values()))

    first, kept = looped(name, method_of(method)), io.BytesIO()

    def end(row: dict[str, Any]) -> None:
        first.stopped = True
        torch.save(first.state(), kept)

    first.end_epoch = end
    first.run()
    assert first.search.updates == 1
    second = looped(name, method_of(method))
    kept.seek(0)
    second.load(torch.load(kept, weights_only=True))
    second.run()
    for k, x in {**whole.search.w, **whole.search.a}.items():
        assert torch.equal(x, {**second.search.w, **second.search.a}[k]), k


def test_checkpointed_search_of_untied_cells_ends_in_the_same_bits() -> None:
    plain, lean = (
        looped("amended_s2 searched", method_of("darts"), EngineSettings(checkpoint=on)) for on in (False, True)
    )
    plain.run()
    lean.run()
    for k, x in {**plain.search.w, **plain.search.a}.items():
        assert torch.equal(x, {**lean.search.w, **lean.search.a}[k]), k


# ----------------------------------------------------------------------------------- every space with every method


def compares(space: str, method: str) -> bool:
    """Whether a method compares cells, of which the space has one alone."""
    return bool(method_of(method).needs_two_cells and full(space).single)


def words_for(space: str, method: str, out: Path) -> list[str]:
    if space in TEXT:
        return [
            f"space={space}",
            f"method={method}",
            f"dataset.path={texts.write(out.parent / 'text')}",
            "space.channels=6",
            "search.batch=8",
            "search.epochs=2",
            "search.updates_per_epoch=3",
            "search.evaluate_every=0",
            "search.clip=0.25",
            "quiet=true",
            "device=cpu",
            "threads=1",
            f"out={out}",
            "name=run",
            *(["method.tune=1", "method.batches=2"] if method == "darts_pt" else []),
        ]
    layers = {"nb201": 1, "nb1shot1": 3}.get(composed(space)["space"]["_target_"].split(".")[2], 3)
    changes = ["space.layers=4", "space.auxiliary=false"] if space == "amended_s2" else [f"space.layers={layers}"]
    if method == "amended" and "edges" in composed(space)["space"]:
        changes = [*dict.fromkeys([*changes, "space.auxiliary=false"])]
    if method == "darts_pt":
        changes += ["method.tune=1", "method.batches=2"]
    if hasattr(method_of(method), "candidates"):
        changes.append("method.candidates=4")
    return [
        f"space={space}",
        f"method={method}",
        "dataset=digits",
        *changes,
        "space.channels=4",
        "search.batch=8",
        "search.epochs=2",
        "search.updates_per_epoch=3",
        "search.evaluate_every=0",
        "search.auxiliary=0",
        "search.drop_path=0",
        "search.cutout=0",
        "quiet=true",
        "device=cpu",
        "threads=1",
        f"out={out}",
        "name=run",
        "dataset.size=8",
    ]


def rows(out: Path) -> list[dict[str, Any]]:
    file = out / "run" / "metrics.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{k: v for k, v in row.items() if k not in ("wall_s", "diagnostics")} for row in found]


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(jobs_search, "pictures", lambda folder: None)
    return monkeypatch


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", SPACES)
def test_every_space_with_every_method_searches_and_resumes(
    space: str, method: str, tmp_path: Path, without_pictures: pytest.MonkeyPatch
) -> None:
    if method == "pc_darts" and "edge_norm" not in composed(space)["space"]:
        pytest.skip("PC-DARTS is a property of a space")
    if compares(space, method):
        pytest.skip("a method that compares cells needs two of them")
    if method_of(method).reads not in (None, full(space).data):
        pytest.skip("a method for networks that read something else")
    if method == "darts_minus" and not any(x.any() for x in full(space).mask("skip_connect").values()):
        pytest.skip("DARTS- needs skip connections")
    whole = search(words_for(space, method, tmp_path / "whole"))
    assert whole["status"] == "finished"
    depth = {"layers": 4 if space == "amended_s2" else 3} if "layers" in composed(space)["space"] else {}
    parsed = full(space, **depth).parse(whole["genotype"])
    assert str(parsed) == whole["genotype"]

    append, left = run_folder.Run.append, [1]

    def dying(self: run_folder.Run, row: Any) -> None:
        if not left[0]:
            raise Killed  # at the end of the second epoch: its updates are lost, the first epoch's are kept
        left[0] -= 1
        append(self, row)

    with without_pictures.context() as patched:
        patched.setattr(run_folder.Run, "append", dying)
        try:
            search(words_for(space, method, tmp_path / "broken"))
        except Killed:
            assert len(rows(tmp_path / "broken")) == 1
        else:
            assert not method_of(method).trains, "only a method that trains nothing has no epochs"
    again = search(words_for(space, method, tmp_path / "broken"))
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    same = ("genotype", "operations", "updates", "passes", "supernet", "lookup", "verdict")
    assert {k: again[k] for k in same} == {k: whole[k] for k in same}
