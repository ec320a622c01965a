"""The verdict on synthetic rows and records, at both sides of each threshold."""

from __future__ import annotations

from typing import Any

import pytest
import space_variants
import torch

from nasx.diagnostics import structure
from nasx.diagnostics.verdict import skips as most
from nasx.diagnostics.verdict import verdict
from nasx.spaces.darts.space import Darts

GOOD = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
EVEN = {"cell": [[0.2] * 5] * 6}


def rows(count: int = 20, mix: Any = None, genotype: str = GOOD, **more: Any) -> list[dict[str, Any]]:
    return [{"epoch": e, "genotype": genotype, "mix": mix or EVEN, **more} for e in range(1, count + 1)]


def of(found: list[dict[str, Any]], genotype: str = GOOD, **more: Any) -> tuple[bool, bool, list[str]]:
    said = verdict(found, {"genotype": genotype, **more})
    return said["collapsed"], said["not_converged"], said["reasons"]


def test_a_healthy_search_that_has_settled() -> None:
    assert verdict(rows(), {"genotype": GOOD}) == {
        "not_converged": False,
        "collapsed": False,
        "warning": False,
        "reasons": [],
        "text": "No sign of collapse. It converged.",
    }


@pytest.mark.parametrize(("far", "settled"), [(0.001, False), (0.1, True)])
def test_a_mixture_that_has_hardly_left_its_start_has_not_converged(far: float, settled: bool) -> None:
    """A search of a few updates: the last epochs change little, and the cell is that of nearly equal weights."""
    left = {"cell": [[0.2 + far, 0.2 - far, 0.2, 0.2, 0.2]] * 6}
    _, unsettled, reasons = of([*rows(1), *rows(19, mix=left)])
    assert unsettled is not settled
    assert settled or "the mixture is still nearly uniform (saturation 3.1e-06, below 0.001)" in reasons


def test_what_is_said_of_error_bars() -> None:
    """Means over all comparisons, not over epochs; nothing where none was asked for."""
    found = rows(4)
    found[1]["probes"] = {}
    found[2]["probes"] = {"Hv": {"cosine": 0.5, "norm": 2.0, "count": 1}}
    found[3]["probes"] = {
        "Hv": {"cosine": 0.1, "norm": 6.0, "count": 3},
        "MHv": {"cosine": -0.002, "norm": 1234.0, "count": 3},
        "g-2K": {"cosine": 0.9, "norm": 0.8, "count": 3},
    }
    said = verdict(found, {"genotype": GOOD})
    assert said["text"] == (
        "No sign of collapse. It converged. Error bars of its gradient, on average: against double backward, Hv a "
        "cosine of 0.20 and 5 times the length (4 compared), MHv a cosine of -0.00 and 1.23e+03 times the length "
        "(3 compared); against twice the terms, g a cosine of 0.90 and 0.8 times the length (3 compared)."
    )
    assert not said["reasons"]
    assert verdict(found[:2], {"genotype": GOOD})["text"].endswith(
        "Its gradient has no approximation that search.probe_every could compare."
    )


def test_skip_connections_everywhere() -> None:
    assert of(rows(), SKIPS) == (
        True,
        False,
        [
            "6 of 6 operations of the cell are skip connections (more than half)",
            "no operation with weights lies on a path through the cell",
        ],
    )


def darts(normal: list[str], reduce: list[str]) -> str:
    cells = [[(name, i % 2) for i, name in enumerate(names)] for names in (normal, reduce)]
    return f"Genotype(normal={cells[0]}, normal_concat=range(2, 6), reduce={cells[1]}, reduce_concat=range(2, 6))"


@pytest.mark.parametrize(("skips", "collapsed"), [(4, False), (5, True)])
def test_half_of_a_cell_may_skip(skips: int, collapsed: bool) -> None:
    text = darts(["skip_connect"] * skips + ["sep_conv_3x3"] * (8 - skips), ["max_pool_3x3"] * 8)
    found = of(rows(), text)
    assert found[0] is collapsed
    assert found[2] == (["5 of 8 operations of cell normal are skip connections (more than half)"] if collapsed else [])


@pytest.mark.parametrize(
    ("space", "skips", "collapsed"),
    [("s2", 6, False), ("s2", 7, True), ("s3", 6, False), ("s3", 7, True), ("darts", 5, True)],
)
@pytest.mark.sample(1)
def test_of_few_operations_chance_alone_gives_half(space: str, skips: int, collapsed: bool) -> None:
    """8 edges by a coin: 37 of 256 cells have six or more, 9 have seven or more, which is less than one in twenty."""
    whole, gen = space_variants.full(space), torch.Generator().manual_seed(0)
    text = darts(["skip_connect"] * skips + ["sep_conv_3x3"] * (8 - skips), ["sep_conv_3x3"] * 8)
    for found in (rows(), []):
        said = verdict(found, {"genotype": text}, lambda: str(whole.sample(gen)))
        assert said["collapsed"] is collapsed
    if space != "darts":
        lots = [most(structure.cells(str(whole.sample(gen))))["normal"] for _ in range(1000)]
        assert sum(lot >= skips / 8 for lot in lots) / 1000 == pytest.approx({6: 37, 7: 9}[skips] / 256, abs=0.05)


@pytest.mark.parametrize(("skips", "collapsed"), [(7, False), (8, True)])
def test_of_many_cells_one_is_skip_heavy_by_chance_alone(skips: int, collapsed: bool) -> None:
    """Six cells by a coin: 1 - (247 / 256)^6 = 19 % of architectures have one with seven or more, 2 % one of eight."""
    space, gen = Darts(untied=True, layers=6, operations=("sep_conv_3x3", "skip_connect")), torch.Generator()
    names = ["sep_conv_3x3"] * (8 - skips) + ["skip_connect"] * skips
    cells = [[(name, i % 2) for i, name in enumerate(each)] for each in (names, *[["sep_conv_3x3"] * 8] * 5)]
    text = f"Genotype(cells={cells}, concat=range(2, 6))"
    said = verdict([], {"genotype": text}, lambda: str(space.sample(gen)))
    assert any("skip connections" in reason for reason in said["reasons"]) is collapsed, said


@pytest.mark.parametrize(("every", "told"), [(1, True), (2, True), (5, False)])
def test_an_eigenvalue_taken_more_rarely_says_nothing(every: int, told: bool) -> None:
    """The windows of the rule are numbers of evaluations, made for one every second epoch."""
    found = [
        {**row, **({"eigenvalue": 1.06 ** row["epoch"]} if row["epoch"] % every == 1 % every else {})}
        for row in rows(60)
    ]
    assert any("eigenvalue" in reason for reason in verdict(found, {"genotype": GOOD})["reasons"]) is told


def test_a_cell_without_a_path_and_one_without_weights() -> None:
    cut = "|none~0|+|none~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    assert of(rows(), cut)[2] == ["no path leads through the cell"]
    dead = "|none~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|"
    assert of(rows(), dead)[2] == ["no operation with weights lies on a path through the cell"]
    pools = darts(["max_pool_3x3"] * 8, ["sep_conv_3x3"] * 8)
    assert of(rows(), pools)[2] == ["no operation with weights lies on a path through cell normal"]


@pytest.mark.parametrize(("weight", "collapsed"), [(0.5, False), (0.51, True)])
def test_none_may_hold_half_of_the_weight(weight: float, collapsed: bool) -> None:
    assert of(rows(none_weight=weight))[0] is collapsed


def test_a_growing_eigenvalue() -> None:
    found = [{**row, "eigenvalue": 1.0 if row["epoch"] < 20 else 2.0} for row in rows(40)]
    assert of(found)[:2] == (False, False)
    assert "eigenvalue grew" in of(found)[2][0]
    said = verdict(found, {"genotype": GOOD})
    assert said["warning"]
    assert said["text"].startswith("No sign of collapse in the cell, but a warning: the dominant eigenvalue grew 1.")
    assert said["text"].endswith("(DARTS-ES would have kept the cell of epoch 11). It converged.")
    steady = [{**row, "eigenvalue": 1.0} for row in rows(40)]
    assert of(steady) == (False, False, [])
    short = [{**row, "eigenvalue": float(row["epoch"])} for row in rows(6)]
    assert of(short)[2] == [], "the rule needs seven evaluations and ten epochs before them"


def test_an_eigenvalue_that_came_down_again_gives_no_warning() -> None:
    back = [{**row, "eigenvalue": 2.0 if 20 <= row["epoch"] < 26 else 1.0} for row in rows(50)]
    assert of(back) == (False, False, [])


@pytest.mark.parametrize("every", [1, 2])
def test_the_rule_sees_every_second_epoch_however_often_the_eigenvalue_is_taken(every: int) -> None:
    found = [
        {**row, "eigenvalue": 1.0 if row["epoch"] < 20 else 2.0} if row["epoch"] % every == 1 % every else row
        for row in rows(40)
    ]
    assert "between epochs 11 and 23" in of(found)[2][0]


def test_warnings_of_a_collapsed_search_are_reported_too() -> None:
    found = [{**row, "eigenvalue": 1.0 if row["epoch"] < 20 else 2.0} for row in rows(40)]
    said = verdict(found, {"genotype": SKIPS})
    assert (said["collapsed"], said["warning"]) == (True, False)
    assert said["text"].startswith("The search collapsed: 6 of 6 operations")
    assert "the dominant eigenvalue grew" in said["text"]


def test_a_stopped_search_gives_an_earlier_cell_and_is_not_called_collapsed() -> None:
    found = [{**row, "eigenvalue": 1.0 if row["epoch"] < 20 else 2.0} for row in rows(40)]
    stopped = {"epoch": 18, "at": 24, "ratio": 1.4, "simulated": False}
    assert verdict(found, {"genotype": GOOD, "stopped": stopped})["text"] == (
        "No sign of collapse. Stopped after epoch 24, when the dominant eigenvalue had grown 1.40-fold; the result is "
        "the cell of epoch 18. It converged."
    )
    assert verdict(found, {"genotype": GOOD, "stopped": {**stopped, "simulated": True}})["warning"]


def test_a_mixture_that_was_saturated_early() -> None:
    hot = {"cell": [[1.0, 0, 0, 0, 0]] * 6}
    assert of(rows(mix=hot))[2] == ["the mixture was saturated (1.00 of 1) in the first half of the epochs"]
    late = rows(10) + [{**row, "epoch": row["epoch"] + 10} for row in rows(10, mix=hot)]
    assert of(late) == (False, False, []), "to end one-hot is no fault"


def test_a_search_that_still_moves() -> None:
    found = [*rows(19), {"epoch": 20, "genotype": SKIPS, "mix": {"cell": [[0.22, 0.18, 0.2, 0.2, 0.2]] * 6}}]
    assert of(found)[1:] == (
        True,
        [
            "the genotype changed in the last 2 epochs",
            "the mixture moved by 0.020 per edge and epoch in the last 2 epochs (above 0.01)",
        ],
    )
    assert of(rows(1))[2] == ["one epoch is too short to converge"]


def test_of_a_method_that_trains_nothing_no_collapse_is_reported() -> None:
    assert verdict([], {"genotype": GOOD})["text"] == "Nothing was trained."
    told = verdict([], {"genotype": SKIPS})["text"]
    assert told.startswith("Nothing was trained. Its cell: ")
    assert "collapse" not in told


def test_what_is_missing_is_not_judged() -> None:
    assert verdict([{"epoch": 1}, {"epoch": 2}], {"genotype": "something of a user's space"})["collapsed"] is False
