"""Methods in a package of the user: edits between runs are reported, versions are marked, crashes name the line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import finished
import jobs
import pytest

from nasx.cli import compare, table
from nasx.config import instantiate, own_code
from nasx.report import checklist
from nasx.results.aggregate import summary
from nasx.results.collect import collect, rows_of

METHOD = """
from dataclasses import dataclass
from nasx.core.bilevel import Method, detached, gradient, logs
from mine.scales import SCALE

@dataclass(frozen=True, kw_only=True)
class Signed(Method):
    def step(self, search, train, val):
        validated = search.outcome(detached(search.w), search.a, val)
        search.descend_a({k: SCALE * x.sign() for k, x in gradient(validated.loss, search.a).items()})
        return logs(search.update_w(train[0]), validated)
"""
RAISING = METHOD.replace(
    "        return", "        if search.epoch == 1:\n            self.missing({})\n        return"
).replace(
    "class Signed(Method):\n", "class Signed(Method):\n    def missing(self, given):\n        return given['cell']\n\n"
)
WORDS = (*jobs.TINY_NB201, "--config-dir", "mine/conf", "allow=[mine]", "method=signed")
CHANGED = "mine/scales.py changed after"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The package `mine` with the method `signed`; returns its folder."""
    (tmp_path / "mine" / "conf" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "conf" / "method" / "signed.yaml").write_text("_target_: mine.signed.Signed\n")
    (tmp_path / "mine" / "signed.py").write_text(METHOD)
    (tmp_path / "mine" / "scales.py").write_text("SCALE = 1.0\n")
    (tmp_path / "mine" / "another.py").write_text("ANOTHER = 1\n")
    return tmp_path / "mine"


@pytest.mark.slow
def test_other_code_is_reported_and_changes_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = own.parent
    first = jobs.nasx(place, *WORDS, "seed=0")
    assert first.code == 0, first
    record = jobs.result(place)
    assert sorted(record["starts"][0]["code"]) == ["mine/scales.py", "mine/signed.py"]
    (own / "another.py").write_text("ANOTHER = 2\n")  # the method does not import it
    again = jobs.nasx(place, *WORDS, "seed=0")
    assert "changed" not in again.err
    (own / "scales.py").write_text("SCALE = -1.0\n")
    for words in ((), ("draw=epochs",)):  # without torch, and with it
        again = jobs.nasx(place, *WORDS, "seed=0", *words)
        assert again.code == 0, again
        [line] = [line for line in again.err.splitlines() if "changed" in line]
        assert f"{CHANGED} this result was computed; to run the new code, choose another name=..., or delete" in line
        assert jobs.result(place) == record
    other = jobs.nasx(place, *WORDS, "seed=1")
    assert other.code == 0, other
    assert "changed" not in other.err
    monkeypatch.chdir(place)
    shown = table.main({"out": "runs"})
    assert "mixed code" in shown
    assert "with different versions of mine/scales.py; delete the runs of the old code" in shown


def starts(*digests: str, file: str = "mine/signed.py") -> dict[str, Any]:
    return {"starts": [{"update": i, "threads": 1, "code": {file: text * 64}} for i, text in enumerate(digests)]}


@pytest.mark.parametrize(
    ("codes", "mixed"), [(("a", "a"), False), (("a", "b"), True), (("ab", "b"), True), (("a", ""), False)]
)
def test_rows_that_mix_versions_are_marked(
    codes: tuple[str, str], mixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    make = finished.writer(tmp_path)
    monkeypatch.chdir(tmp_path)
    for seed, code in enumerate(codes):
        make("signed", seed, 90.0 + seed, **starts(*code))
        make("darts", seed, 91.0 + seed)
    shown = table.main({"out": "runs"})
    assert ("mixed code" in shown) == mixed
    assert "several environments" not in shown
    compare.main(["method=signed", "method=darts", "runs=runs"])
    note = "method=signed contains runs of different versions of mine/signed.py (mixed code)"
    assert (note in capsys.readouterr().out) == mixed


def test_a_run_that_continues_with_other_code_is_reported_and_marked(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = own.parent
    (own / "signed.py").write_text(RAISING)
    failed = jobs.nasx(place, *WORDS)
    assert failed.code == 2, failed
    line = RAISING.splitlines().index("        return given['cell']") + 1
    said = (
        f"method signed: raised KeyError: 'cell' in missing at update 6 (mine/signed.py:{line}); correct it and run the"
    )
    assert said in failed.err.splitlines()[-1]
    assert "Traceback" not in failed.err
    folder = jobs.folder(place)
    assert said in (folder / "fault.txt").read_text()
    log = (folder / "log.txt").read_text()
    assert log.count("Traceback") == 1
    assert "in missing\n    return given['cell']" in log
    assert said in jobs.nasx(place, "status", "runs").out
    (own / "signed.py").write_text(METHOD)
    done = jobs.nasx(place, *WORDS)
    assert done.code == 0, done
    assert "resuming at update 6 of 12" in done.err
    assert "mine/signed.py changed after this run began; the run continues with the new code" in done.err
    record = jobs.result(place)
    assert [start["update"] for start in record["starts"]] == [0, 6]
    assert own_code.mixed([own_code.labels(record["starts"])]) == ("mine/signed.py",)
    monkeypatch.chdir(place)
    shown = table.main({"out": "runs"})
    assert "mixed code" in shown
    assert "several environments" not in shown


def test_a_retraining_is_marked_where_its_searches_had_other_code(tmp_path: Path) -> None:
    make = finished.writer(tmp_path)
    for seed, code in enumerate("ab"):
        search = make("signed", seed, family="f", **starts(code))
        finished.retrained(make, search.name, 0.9, seed)
    found = finished.only(summary(collect(tmp_path / "runs")), kind="retrain")
    assert found["mixed_code"] == "mine/signed.py"


def test_the_checklist_leaves_the_own_code_to_the_user(tmp_path: Path) -> None:
    make = finished.writer(tmp_path)

    def items() -> dict[int, checklist.Item]:
        frame = collect(tmp_path / "runs")
        runs, groups = rows_of(frame), rows_of(summary(frame, reference=False))
        return {item.number: item for item in checklist.items(runs, groups, anytime=False)}

    search = make("darts", 0, family="d", commit="0123456789ab")
    assert items()[2].state == "yes"
    for seed in (0, 1):
        search = make("signed", seed, family="s", commit="0123456789ab", **starts("a"))
        finished.retrained(make, search.name, 0.9, seed, commit="0123456789ab")
    found = items()
    assert found[2].state == "yours"
    assert found[2].says == (
        "the code of mine is your own (SHA-256: mine/signed.py aaaaaaaa); the rest: nasx search, commit 0123456789ab"
    )
    assert found[1].state == "yes", "the retrainings are of nasx alone"
    assert found[3].says == "publish the commit and your own code (mine) with the results"
    assert found[11].says == "one device, one set of versions, one commit of nasx, one version of your own code"
    finished.retrained(make, search.name, 0.9, 2, commit="0123456789ab", **starts("b", file="mine/data.py"))
    assert items()[1].state == "yours"
    make("signed", 2, family="s", commit="0123456789ab", **starts("b"))
    assert items()[11].state == "partly"
    assert "different versions of mine/signed.py" in items()[11].says


def test_a_code_is_a_module_and_what_it_imports_from_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "closure_for_test" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("from . import deep\n")
    (inner / "deep.py").write_text("def late():\n    from ..top import x\n")
    (inner / "method.py").write_text("import torch, other_package\nfrom closure_for_test.inner.broken import A\n")
    (inner / "broken.py").write_text("def f(:\n")
    (inner.parent / "top.py").write_text("x = 1\n")
    (inner / "unrelated.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["__init__", "inner/__init__", "inner/broken", "inner/deep", "inner/method", "top"]
    node = {"_target_": "nasx.methods.sdarts.Sdarts", "inner": {"_target_": "closure_for_test.inner.method.A"}}
    found = own_code.recorded({"method": node, "space": {"_target_": "nasx.spaces.nb201.space.Nb201"}})
    assert list(found) == [f"closure_for_test/{name}.py" for name in names]
    assert own_code.recorded({"method": {"_target_": "nasx.methods.darts.Darts"}}) == {}


def test_a_process_records_the_code_that_it_has_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edited_for_test.py").write_text("class A:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "edited_for_test.A"}
    before = own_code.recorded({"method": node})
    instantiate.build(node, ["edited_for_test"])
    (tmp_path / "edited_for_test.py").write_text("class A:\n    x = 1\n")
    try:
        assert own_code.recorded({"method": node}) == before
    finally:
        del sys.modules["edited_for_test"]
    assert own_code.changed(before, own_code.recorded({"method": node})) == ["edited_for_test.py"]


class Part:
    """Raises in several ways."""

    def empty(self) -> None:
        raise AssertionError

    def system(self) -> None:
        Path("/does/not/exist").read_text()


def test_the_component_that_raised_is_named() -> None:
    cfg = {"method": {"_target_": f"{__name__}.Part"}, "space": {"_target_": "nasx.spaces.nb201.space.Nb201"}}
    for call, text in (("empty", "AssertionError"), ("system", "FileNotFoundError: [Errno 2] No such file")):
        with pytest.raises(Exception) as caught:
            getattr(Part(), call)()
        found = own_code.fault(caught.value, cfg, {"method": "part"}, " at update 3")
        assert found is not None
        assert found[0] == "method part"
        assert found[1].startswith(f"raised {text}")
        assert f" in {call} at update 3 ({__name__}.py:" in found[1]
        assert own_code.fault(caught.value, {"space": cfg["space"]}, {}, "") is None
        two = own_code.fault(caught.value, {**cfg, "dataset": cfg["method"]}, {}, "")
        assert two is not None
        assert two[0] == f"module {__name__}"


def test_records_without_code_warn_of_nothing() -> None:
    for record in ({}, {"starts": 3}, {"starts": []}, {"starts": [{"threads": 1}]}, {"starts": [{"code": "x"}]}):
        assert own_code.changed_since(record, {"mine/a.py": "1"}) == ""
