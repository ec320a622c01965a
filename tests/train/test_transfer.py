"""Search on small images, retrain on large ones or on another dataset, with a width that a budget chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from composing import composed, faults
from own_images import own_images

from nasx.cli import invoke
from nasx.config import identity
from nasx.core import budgets
from nasx.spaces.cost import Cost, cost
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import records

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"
SHORT = ("retrain.layers=1", "retrain.epochs=1", "retrain.batch=8", "threads=1", "quiet=true", "out=runs")
GIVEN = ("space=nb201", f"genotype={CELL}", "dataset=digits", "dataset.size=8", *SHORT, "retrain.updates_per_epoch=2")
"""A retraining of two updates."""


def record(here: Path, name: str) -> dict[str, Any]:
    found = records.finished(here / "runs" / name)
    assert found is not None
    return found


def counted(genotype: str, classes: int, channels: int, side: int) -> Cost:
    space = Nb201()
    with torch.device("meta"):
        network = space.network(space.parse(genotype), classes, layers=1, channels=channels)
        return cost(network, space.example(1, (3, side, side)))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search on a tenth of the digits, at 8 x 8 pixels."""
    here = tmp_path_factory.mktemp("transfer")
    proxy = ("dataset.size=8", "dataset.split=classes", "dataset.fraction=0.1", "dataset.fraction_a=0.1")
    done = jobs.nasx(here, *jobs.TINY_NB201, *proxy, "name=small")
    assert done.code == 0, done
    return here


@pytest.mark.slow
def test_a_cell_of_a_proxy_is_retrained_on_all_images_at_full_size(searched: Path) -> None:
    budget = ("budget=macs", "budget.target=300k")
    words = ("from=small", "dataset.size=16", *budget, *SHORT, "retrain.batch=128")
    done = jobs.nasx(searched, "retrain", *words, "name=large")
    assert done.code == 0, done
    found = record(searched, "large")
    assert found["genotype"] == record(searched, "small")["genotype"]
    assert record(searched, "small")["images"]["shape"] == [3, 8, 8]
    assert found["images"]["shape"] == [3, 16, 16]
    assert found["updates"] == 12  # one pass over all 1,437 images in batches of 128
    neighbours = [counted(found["genotype"], 10, found["channels"] + more, 16) for more in (0, 2)]
    assert found["macs"] == neighbours[0].macs <= 300_000 < neighbours[1].macs
    said = jobs.nasx(searched, "info", "from=runs/large")
    assert f"multiply-adds  {found['macs']}\n" in said.out, said
    said = jobs.nasx(searched, "info", "from=runs/large", "channels=2")
    assert f"multiply-adds  {counted(found['genotype'], 10, 2, 16).macs}\n" in said.out, said
    done = jobs.nasx(searched, "export", "from=runs/large", "out=model")
    assert done.code == 0, done
    done = jobs.nasx(searched, "evaluate", "model")
    assert done.out.splitlines()[0].split()[1] == f"{100 * found['test_accuracy']:.2f}"


def test_a_cell_of_a_proxy_is_retrained_on_another_dataset(searched: Path) -> None:
    own_images(searched / "own", "flat")
    words = ("dataset=folder", "dataset.path=own", "dataset.size=12", "budget=params", "budget.target=20k")
    done = jobs.nasx(searched, "retrain", "from=small", *words, *SHORT, "name=own")
    assert done.code == 0, done
    found = record(searched, "own")
    assert (len(found["images"]["classes"]), found["images"]["shape"]) == (3, [3, 12, 12])
    neighbours = [counted(found["genotype"], 3, found["channels"] + more, 12) for more in (0, 2)]
    assert found["params"] == neighbours[0].params <= 20_000 < neighbours[1].params


@pytest.mark.slow
def test_a_budget_and_max_macs_are_one_limit(tmp_path: Path) -> None:
    lines = {
        "budget": ("budget=macs", "budget.target=60k"),
        "max_macs": ("retrain.max_macs=60000",),
        "both": ("budget=macs", "budget.target=1M", "retrain.max_macs=60000"),
    }
    for name, words in lines.items():
        done = jobs.nasx(tmp_path, "retrain", *GIVEN, *words, f"name={name}")
        assert done.code == 0, done
    [first, *others] = [record(tmp_path, name) for name in lines]
    assert counted(CELL, 10, first["channels"] + 2, 8).macs > 60_000 >= first["macs"]
    for other in others:
        for key in ("channels", "macs", "params", "test_accuracy", "train_loss"):
            assert other.get(key) == first.get(key), key


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("budget=macs", "budget.target=1k"), "budget.target=1k: is too low even for two channels, which cost "),
        (("retrain.max_macs=1000",), "retrain.max_macs=1000: is too low even for two channels, which cost "),
    ],
)
def test_an_impossible_target_is_reported_before_training(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, "retrain", *GIVEN, *words, "name=none")
    assert done.code == 2, done
    assert told in done.err
    assert f"raise {words[-1].partition('=')[0]}, or lower retrain.layers or dataset.size" in done.err
    assert not list(tmp_path.glob("runs/none/metrics.jsonl"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget=macs"], "budget.target=0.5: is a fraction of the mean, but the architecture is given"),
        (["budget=macs", "budget.quantity=watts"], "budget.quantity=watts"),
        (["budget=macs", "budget.target=20X"], "unit 'X' for multiply-adds; write a number with k, M or G"),
        (["budget=latency", "budget.target=3ms"], "budget=latency: cannot choose the width of a network"),
        (["budget=macs", "budget.target=1M", "budget.layers=3"], "budget.layers=3: applies only to searches"),
        (["budget=params", "budget.target=1M", "budget.enforce=true"], "budget.enforce=True: applies only to searches"),
        (
            ["budget=macs", "budget.target=1M", "retrain.channels=8"],
            "has no effect: budget=macs sets the number of channels",
        ),
        (
            ["retrain.max_macs=99999", "retrain.channels=8"],
            "has no effect: retrain.max_macs=99999 sets the number of",
        ),
        (["budget=macs", "budget.target=1M", "relaxed=true"], "budget=macs: has no effect on a supernet"),
        (
            ["space=darts_rnn", "genotype=DARTS", "budget=macs", "budget.target=1M"],
            "applies only to image networks",
        ),
    ],
)
def test_faults_of_the_line(words: list[str], told: str) -> None:
    given = [] if any(word.startswith("space=") for word in words) else ["space=nb201", f"genotype={CELL}"]
    found = "\n".join(faults(*given, *words, command="retrain"))
    assert told in found
    assert "or a fraction" not in found  # a given architecture has no mean


def test_right_lines_have_no_fault() -> None:
    given = ["space=nb201", f"genotype={CELL}", "dataset=digits"]
    limited = ["budget=params", "budget.target=1M"]
    assert not faults(*given, *limited, command="retrain")
    assert not faults(*given, *limited, "study=transfer", command="study")
    assert not faults("space=nb201", "dataset=digits", "budget=macs", "retrain.channels=8", command="run")


def test_only_a_budget_that_chooses_a_width_is_part_of_the_identity() -> None:
    given = ["space=nb201", f"genotype={CELL}", "dataset=digits"]
    for more in ([], ["retrain.max_macs=1000000"]):
        _, cfg, _ = invoke.composed("retrain", [*given, *more])
        before = {key: value for key, value in cfg.items() if key != "budget"}
        assert identity.identity(cfg) == identity.identity(before)
        assert identity.identifying(cfg) == identity.identifying(before)
    limited = ["budget=macs", "budget.target=1M"]
    assert identity.identity(invoke.composed("retrain", [*given, *limited])[1]) != identity.identity(cfg)
    free, of_search = (composed("search", "dataset=digits", *words)[0] for words in ([], limited))
    retrained = [identity.retrained(each, Path("runs/x")) for each in (free, of_search)]
    assert identity.identity(retrained[0]) == identity.identity(retrained[1])
    assert identity.changed(retrained[1], of_search) == {}


def test_a_search_and_its_retraining_keep_the_width_of_the_recipe(tmp_path: Path) -> None:
    """`nasx run` and `nasx study` search under the budget, which counts networks of this width."""
    words = [word for word in jobs.TINY_NB201[1:] if not word.startswith("out=")]
    budget = ("budget=macs", "budget.target=900M", "dataset.size=8", "search.epochs=1")
    both = (*words, *budget, *SHORT, "retrain.updates_per_epoch=2", "retrain.channels=4")
    done = jobs.nasx(tmp_path, "run", *both, "then=retrain")
    assert done.code == 0, done
    ended = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*/result.json"))]
    [trained] = [found for found in ended if found["kind"] == "retrain"]
    assert trained["channels"] == 4
    assert not [key for key in trained["changed"] if key.startswith("budget")]
    study = ("study=independent", "study.searches=1", "study.rank=none", "study.retrains=1")
    done = jobs.nasx(tmp_path, "study", *both, *study)
    assert done.code == 0, done
    assert len(list((tmp_path / "runs").glob("retrain-*/result.json"))) == 1  # both are the same run


def test_a_cost_and_its_target_share_the_unit() -> None:
    assert budgets.ratio_text(17_180_000, 2e7, "macs") == "17.18 M of 20.00 M multiply-adds"
    assert budgets.ratio_text(900, 2e6, "params") == "900 of 2.00 M parameters"
    assert budgets.ratio_text(0.81, 3, "latency") == "0.810 of 3.00 ms"


@pytest.mark.slow
def test_fit_searches_on_smaller_images_than_it_trains_on(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    own_images(tmp_path / "own", "flat")
    lengths = ("search.epochs=1", "search.updates_per_epoch=2", "retrain.epochs=1", "retrain.updates_per_epoch=2")
    sizes = ("dataset.size=24", "proxy=8", "macs=400k", "threads=1")
    done = jobs.nasx(tmp_path, "fit", "own", *sizes, *lengths)
    assert done.code == 0, done
    said = " ".join(done.out.split())
    assert "centred square at 24 x 24" in said
    assert "the search reads the images at 8 x 8 (proxy=8)" in said
    [small, large] = [json.loads(next(tmp_path.glob(f"outputs/*-{step}/result.json")).read_text()) for step in STEPS]
    assert small["images"]["shape"] == [3, 8, 8]
    assert large["images"]["shape"] == [3, 24, 24]
    neighbours = [counted(large["genotype"], 3, large["channels"] + more, 24).macs for more in (0, 2)]
    assert large["macs"] == neighbours[0] <= 400_000 < neighbours[1]
    assert jobs.nasx(tmp_path, "evaluate", "model.onnx", "path=own").code == 0


STEPS = ("search", "retrain")
