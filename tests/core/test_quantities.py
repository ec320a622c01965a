"""The table of recorded numbers: an added number appears in every output, and all recorded numbers are in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished import writer

from nasx.core import quantities
from nasx.core.quantities import COSINE, QUANTITIES, Quantity
from nasx.report import charts, curves
from nasx.results.aggregate import summary
from nasx.results.collect import collect

FIXTURES = Path(__file__).parents[1] / "versions"
NO_QUANTITY = {"epoch", "format", "seed", "layers", "channels", "processes", "together", "reference", "operations"}
NO_QUANTITY |= {"images", "changed", "hardware", "stages", "diagnostics", "warm_up_s", "best_epoch", "parent_lookup"}
NO_QUANTITY |= {"searched", "among", "mix", "cells"}
"""Keys of settings, of statistics of a table, of what is computed from a genotype, and of copies of other records."""
STATISTICS = ("_std", "_seeds", "train_s")
"""Endings of what a benchmark says next to an accuracy."""


def numbers(node: object, prefix: str = "") -> set[str]:
    """The dotted places of all numbers of a file."""
    if isinstance(node, dict):
        return {name for key, value in node.items() for name in numbers(value, f"{prefix}{key}.")}
    return {prefix.rstrip(".")} if isinstance(node, int | float) and not isinstance(node, bool) else set()


def known(name: str, kind: str) -> bool:
    from fnmatch import fnmatchcase

    return any(kind in quantity.kinds and fnmatchcase(name, quantity.name) for quantity in QUANTITIES)


@pytest.mark.parametrize("folder", sorted(path.parent for path in FIXTURES.glob("*/*/config.yaml")), ids=str)
def test_every_number_of_a_run_is_in_the_table(folder: Path) -> None:
    record = json.loads((folder / "result.json").read_text()) if (folder / "result.json").exists() else {}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = [(record.get("kind", ""), record), *(("epoch", row) for row in rows)]
    looked_at = 0
    for kind, content in files:
        for name in numbers(content):
            costs = kind == "epoch" and name in ("lookup.params", "lookup.flops")
            if name.partition(".")[0] not in NO_QUANTITY and not name.endswith(STATISTICS) and not costs:
                assert known(name, kind), (kind, name)
                looked_at += 1
    assert looked_at > 10


def test_a_number_that_is_added_is_a_column_an_objective_and_a_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Quantity(
        "supernet.calm", "Calm of the supernet", COSINE, ("search", "epoch"), scale=2.0, better=1,
        column="calm", head="calm", chart="inside", panel="Calm",
    )  # fmt: skip
    monkeypatch.setattr(quantities, "QUANTITIES", (*QUANTITIES, new))
    for module in (charts, curves):
        monkeypatch.setattr(module, "QUANTITIES", (*QUANTITIES, new))
    monkeypatch.setattr("nasx.tracking.result_file.QUANTITIES", (*QUANTITIES, new))
    quantities.of_column.cache_clear()
    try:
        make = writer(tmp_path)
        for seed, calm in enumerate((0.1, 0.3)):
            make(seed=seed, supernet={"valid_accuracy": 0.5, "calm": calm})
        frame = collect(make.root)
        assert list(frame["calm"]) == [0.2, 0.6]
        [row] = summary(frame, reference=False).to_dict("records")
        assert row["calm_mean"] == pytest.approx(0.4)
        assert row["calm_n"] == 2
        assert "supernet.calm" in {q.name for q in quantities.recorded(["search"], [])}
        assert quantities.better("supernet.calm") == quantities.better_column("calm") == 1
        assert new in charts.panels("inside")
        assert list(curves._inside([{"epoch": 1, "supernet": {"calm": 0.5}}])) == ["Calm"]
    finally:
        quantities.of_column.cache_clear()


def test_a_name_stands_once_for_each_kind_of_run_and_facts() -> None:
    places = [(q.name, kind, q.needs) for q in QUANTITIES for kind in q.kinds]
    assert len(set(places)) == len(places)
    assert all(q.head for q in QUANTITIES if q.printed != 1.0)
