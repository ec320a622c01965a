"""Benchmark values in the record of a run, on the screen, in tables, and next to a paper's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_commands import TINY, said
from composing import composed, faults
from finished import CELL, writer
from nb201_files import TABLES, foreign_csv, needs_public

from nasx.benchmarks.columns import Table, column, merged
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_text, official_order
from nasx.benchmarks.nb201 import EMBEDDED, Nb201
from nasx.cli import bench, table
from nasx.config import identity, objectives
from nasx.core import quantities
from nasx.errors import UserError

LATENCIES = np.arange(CELLS) / 100 + 1


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "benchmarks" / "nb201.npz"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def timed(cache: Path) -> None:
    """A table with made-up latencies of a phone."""
    phone = {"latency.phone": column("latency.phone", LATENCIES, "a stopwatch")}
    cache.write_bytes(Table(merged(Table.read(EMBEDDED).columns, phone, print)).packed())


@pytest.fixture
def make(tmp_path: Path) -> Any:
    return writer(tmp_path)


# ------------------------------------------------------------------------------------------------ which devices
def test_devices_are_checked_before_anything_starts(timed: None) -> None:
    assert not faults("space=nb201", "dataset=digits", "benchmark.devices=[phone]")
    [fault] = faults("space=nb201", "dataset=digits", "benchmark.devices=[phone,raspi4]")
    assert "benchmark.devices=[phone,raspi4]: " in fault
    assert " has no latencies for raspi4" in fault
    assert "the table has phone; `nasx bench get nb201-latency devices=raspi4` downloads those for raspi4" in fault
    [fault] = faults("space=nb201", "dataset=digits", "benchmark.devices=[toaster]")
    assert "`nasx bench get nb201-latency` downloads those for 1080ti_1, " in fault


def test_what_is_looked_up_changes_no_run(timed: None) -> None:
    plain, _ = composed("search", "space=nb201")
    asked, _ = composed("search", "space=nb201", "benchmark.devices=[phone]")
    assert identity.identity(asked) == identity.identity(plain)
    assert identity.identifying(asked) == identity.identifying(plain)


def test_a_latency_may_be_an_objective_and_lower_is_better(timed: None) -> None:
    cfg, _ = composed("search", "space=nb201", "dataset=digits", "benchmark.devices=[phone]")
    known = {quantity.name for quantity in objectives.recorded(cfg, "search", Nb201(devices=("phone",)))}
    assert {"lookup.latency.phone", "rank.cifar10.valid", "below_optimum.imagenet16.valid"} <= known
    assert not {name for name in known if "test" in name}
    names = ("lookup.latency.phone", "rank.cifar10.valid", "lookup.cifar10.valid")
    assert [quantities.better(name) for name in names] == [-1, -1, 1]


# ------------------------------------------------------------------------------------------------ the record
def test_rank_and_distance_agree_with_a_count_over_all_cells() -> None:
    benchmark, statistics = Nb201(), Table.read(EMBEDDED).statistics("cifar100", "valid")[:, 0]
    edges = (("skip_connect", "nor_conv_1x1", "nor_conv_3x3"),) * 6
    inside = [code for code in range(CELLS) if all(int(digit) in (1, 2, 3) for digit in np.base_repr(code, 5).zfill(6))]
    for code in [*range(0, CELLS, 501), int(statistics.argmax()), int(statistics.argmin())]:
        score = benchmark.query(cell_text(code))
        assert score is not None
        for among, others in (((), statistics), (edges, statistics[inside])):
            found = benchmark.ranked(score, among)
            better = sum(other > statistics[code] + 1e-9 for other in others.tolist())
            assert found["rank"]["cifar100"] == {"valid": 1 + better}
            below = others.max() - statistics[code]
            assert found["below_optimum"]["cifar100"]["valid"] == pytest.approx(below, abs=1e-4)


def test_latencies_are_asked_for_by_device(timed: None) -> None:
    benchmark = Nb201(devices=("phone",))
    score = benchmark.query(cell_text(77))
    assert score is not None
    assert score.latency == {"phone": LATENCIES[77]}
    assert score.as_record()["latency"] == {"phone": LATENCIES[77]}
    assert score.source.endswith("; a stopwatch")
    plain = Nb201().query(cell_text(77))
    assert plain is not None
    assert "latency" not in plain.as_record()
    assert "a stopwatch" not in plain.source
    assert bench.bench_query(cell_text(77))["facts"]["latency in ms"] == {"phone": f"{LATENCIES[77]:.3f}"}


def test_fill_adds_what_the_table_knows_by_now_and_takes_nothing(
    timed: None, make: Any, cache: Path, tmp_path: Path
) -> None:
    file = make() / "result.json"

    def fill(*words: str) -> dict[str, Any]:
        assert bench.main(["fill", str(make.root), *words]) == 0
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    first = fill()
    assert "latency" not in first["lookup"]
    assert first["rank"]["cifar10"] == {"valid": 2}
    ms = float(LATENCIES[cell_code(CELL)])
    assert fill("devices=phone")["lookup"]["latency"] == {"phone": ms}
    bench.bench_import("nb201", str(foreign_csv(tmp_path / "tests.csv")))
    last = fill()
    assert last["lookup"]["latency"] == {"phone": ms}, "the run's own devices are asked again"
    assert last["lookup"]["cifar10"]["test"] is not None
    assert set(last["rank"]["imagenet16"]) == {"valid", "test"}
    cache.unlink()
    assert fill() == last, "a table that knows less takes nothing"
    with pytest.raises(UserError, match="has no latencies for toaster"):
        bench.main(["fill", str(make.root), "devices=toaster"])
    with pytest.raises(UserError, match="takes one folder, but 2 are given"):
        bench.main(["fill", "a", "b"])


# ------------------------------------------------------------------------------------------------ tables
def found(code: int, **latency: float) -> dict[str, Any]:
    score = Nb201().query(cell_text(code))
    assert score is not None
    lookup = score.as_record()
    return {
        "genotype": cell_text(code),
        "lookup": lookup | ({"latency": latency} if latency else {}),
        **Nb201().ranked(score),
    }


def test_a_table_shows_where_the_cells_stand(make: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (code, ms) in enumerate(((7777, 10.0), (8888, 12.0))):
        make(seed=seed, **found(code, raspi4=ms))
    ask = {"runs": str(make.root), "format": "markdown"}  # type: ignore[attr-defined]
    text = table.main(ask)
    sheet = text[text.index("Ranks of these cells in nb201") :]
    head, row = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in [line for line in sheet.splitlines() if line.startswith("|")][0:3:2]
    )
    shown = dict(zip(head, row, strict=True))
    ranks = [Nb201().ranked(Nb201().query(cell_text(code)))["rank"]["cifar10"]["valid"] for code in (7777, 8888)]
    assert shown["CIFAR-10 valid rank"] == f"{np.mean(ranks):.0f} ± {np.std(ranks, ddof=1):.0f}"
    assert shown["raspi4 ms"] == "11.00 ± 1.41"
    assert "mult-adds (M)" in shown
    assert "cost" not in shown
    assert not any("test" in name for name in shown), "what nobody knows has no column"
    text = table.main({**ask, "format": "csv"})
    for name in ("latency.raspi4_mean", "cifar10.valid_rank_mean", "cifar100.valid_below_std", "macs_mean"):
        assert name in text.splitlines()[0].split(",")


def test_records_of_earlier_versions_give_the_tables_that_they_gave(make: Callable[..., Path]) -> None:
    make()
    text = table.main({"runs": str(make.root), "format": "markdown"})  # type: ignore[attr-defined]
    assert "Ranks of these cells" not in text
    assert "latency" not in text


def test_test_accuracies_that_fill_has_added_stand_next_to_the_papers(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    make("idarts", seed=0)
    ask = {"runs": str(make.root), "paper": "idarts", "format": "markdown"}  # type: ignore[attr-defined]
    assert "n/a: `nasx bench get nb201-test`" in table.main(ask)
    bench.bench_import("nb201", str(foreign_csv(tmp_path / "tests.csv")))
    bench.main(["fill", str(make.root)])  # type: ignore[attr-defined]
    text = table.main(ask)
    [ours] = [line for line in text.splitlines() if "↳ nasx idarts" in line]
    head = next(line for line in text.splitlines() if "CIFAR-10 test %" in line)
    shown = dict(zip(map(str.strip, head.split("|")), map(str.strip, ours.split("|")), strict=True))
    for dataset, name in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"), ("imagenet16", "ImageNet16-120")):
        score = Nb201().query(CELL)
        assert score is not None
        assert shown[f"{name} test %"] == f"{score.datasets[dataset]['test']:.2f}"
    assert "n/a" not in text


# ------------------------------------------------------------------------------------------------ a whole search
@needs_public
@pytest.mark.slow
def test_a_search_ends_with_test_accuracies_and_the_latencies_of_five_devices(tmp_path: Path) -> None:
    import torch

    devices = ["raspi4", "pixel3", "eyeriss", "1080ti_256", "gold_6226"]
    words = ["search", "space=nb201", "method=random", *TINY, "name=run"]
    before = said(tmp_path, *words)
    assert before.rstrip().splitlines()[-1] == "nasx bench get nb201-test"
    bench.main(["get", "nb201-test", f"from={TABLES / 'nats_bench.csv'}"])
    bench.main(["get", "nb201-latency", f"devices={','.join(devices)}", f"from={TABLES / 'help-latency'}"])
    shown = said(tmp_path, *words[:-1], "name=timed", f"benchmark.devices=[{','.join(devices)}]")
    assert "nasx bench get" not in shown
    result = json.loads((tmp_path / "outputs" / "timed" / "result.json").read_text())
    row = list(official_order()).index(cell_code(result["genotype"]))
    for device in devices:
        expected = torch.load(TABLES / "help-latency" / f"{device}.pt", weights_only=True)[row]
        assert result["lookup"]["latency"][device] == round(expected, 6)
        assert f"{device} {expected:.2f} ms" in shown
    for dataset in ("cifar10", "cifar100", "imagenet16"):
        for part, told in (("valid", "validation"), ("test", "test")):
            assert result["lookup"][dataset][part] > 0
            assert 1 <= result["rank"][dataset][part] <= CELLS
            assert told in shown
    assert said(tmp_path, "bench", "fill", "outputs").endswith("1 of 2 runs filled\n")
    old = json.loads((tmp_path / "outputs" / "run" / "result.json").read_text())
    assert old["genotype"] == result["genotype"], "devices change no search"
    assert {**old["lookup"], "source": ""} == {
        key: "" if key == "source" else value for key, value in result["lookup"].items() if key != "latency"
    }
    # "run" may have the times of "timed" to the second, and would then stand for both
    assert "raspi4 ms" in said(tmp_path, "table", "runs=outputs/timed", "format=markdown")
