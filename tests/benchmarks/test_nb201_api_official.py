"""The official interface of NAS-Bench-201 after an import: equal to the official class and to a public table."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

import nas_201_api
import pytest
from nb201_files import PUBLIC, SPLITS, official, write_pth

from nasx.benchmarks import nb201_api
from nasx.benchmarks.isomorphism import cell_text, official_order
from nasx.benchmarks.nb201 import flops, params
from nasx.benchmarks.nb201_import import OFFICIAL, import_nb201

DATASETS = ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))


def test_an_imported_official_file_gives_the_answers_of_the_official_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On every field that both know; the file has the first six cells of the official order."""
    cells = tuple(cell_text(row) for row in official_order()[:6])
    content = official(cells)
    for index, budgets in content["arch2infos"].items():
        for state in budgets.values():
            for (dataset, _), result in state["all_results"].items():
                row = official_order()[index]
                result["arch_config"] |= {
                    "num_cells": 5,
                    "class_num": {"cifar100": 100, "ImageNet16-120": 120}.get(dataset, 10),
                }
                result["params"], result["flop"] = expected_costs(row, dataset)
                for key in list(result["eval_acc1es"]):
                    result["eval_losses"][key] = 0.5
    import_nb201(write_pth(tmp_path / "official.pth", content), tmp_path / "table.npz", complete=False)
    theirs = nas_201_api.NASBench201API(content, verbose=False)
    ours = nb201_api(str(tmp_path / "table.npz"), verbose=False)
    assert isinstance(ours, nas_201_api.NASBench201API)
    assert ours.evaluated_indexes == theirs.evaluated_indexes
    compared = 0
    for index in range(6):
        assert ours.arch(index) == theirs.arch(index)
        assert ours.query_index_by_arch(cells[index]) == theirs.query_index_by_arch(cells[index]) == index
        for dataset in DATASETS:
            assert ours.get_net_config(index, dataset) == theirs.get_net_config(index, dataset)
            for hp in ("12", "200"):
                seeds = theirs.query_meta_info_by_index(index, hp).get_dataset_seeds(dataset)
                assert ours.query_meta_info_by_index(index, hp).get_dataset_seeds(dataset) == seeds
                for chosen in (False, True, *seeds):
                    random.seed(index)
                    want = theirs.get_more_info(index, dataset, hp=hp, is_random=chosen)
                    random.seed(index)
                    got = ours.get_more_info(index, dataset, hp=hp, is_random=chosen)
                    assert got, (dataset, hp)
                    assert {key: want[key] for key in got} == pytest.approx(dict(got), abs=1e-9)
                    assert any(key.endswith("accuracy") for key in got)
                    compared += len(got)
                costs, want = ours.get_cost_info(index, dataset, hp), theirs.get_cost_info(index, dataset, hp)
                assert {key: want[key] for key in costs} == pytest.approx(dict(costs))
                assert costs.keys() >= {"flops", "params"}
                infos = [api.query_meta_info_by_index(index, hp) for api in (theirs, ours)]
                for setname in [s for s in SPLITS[dataset] if (dataset, s) in OFFICIAL]:
                    drawn = []
                    for info in infos:
                        random.seed(index)
                        drawn.append(info.get_metrics(dataset, setname, is_random=True)["accuracy"])
                    assert drawn[0] == pytest.approx(drawn[1])
                for seed, trial in theirs.query_by_index(index, dataset, hp=hp).items():
                    own = ours.query_by_index(index, dataset, hp=hp)[seed]
                    for setname in [s for s in SPLITS[dataset] if (dataset, s) in OFFICIAL]:
                        assert own.get_eval(setname)["accuracy"] == pytest.approx(trial.get_eval(setname)["accuracy"])
                        compared += 1
    assert compared > 6 * 4 * 2 * 4
    ours.show()
    printed = capsys.readouterr().out
    assert [printed.count(f"arch : {cell}\n") for cell in cells] == [1] * 6
    assert printed.count("200 epochs") == printed.count("012 epochs") == 6
    for dataset, setname in OFFICIAL:
        for bound in (None, 0.5):
            want = theirs.find_best(dataset, setname, Param_max=bound, hp="200")
            assert ours.find_best(dataset, setname, Param_max=bound, hp="200") == (want[0], pytest.approx(want[1]))


def expected_costs(row: int, dataset: str) -> tuple[float, float]:
    """MB and M of a network, by its layers' own numbers: the classifier has 64 weights and a bias for each class."""
    classes = {"cifar100": 100, "ImageNet16-120": 120}.get(dataset, 10)
    body = flops(row) - 10 * 65
    body = body / 4 if classes == 120 else body  # a quarter of the pixels
    return (params(row) + 65 * (classes - 10)) / 1e6, (body + classes * 65) / 1e6


def test_costs_equal_a_public_table() -> None:
    """But for the parameters of 150 cells, which that table states otherwise than the networks have them."""
    if not PUBLIC.is_file():
        pytest.skip(f"no table {PUBLIC.name} beside the repository")
    api, other = nb201_api(verbose=False), 0
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        for row in csv.DictReader(stream):
            for dataset, key in (("cifar10", "cifar10"), ("cifar100", "cifar100"), ("ImageNet16-120", "imagenet16")):
                flop, param = api.answers.costs(official_order()[int(row["arch_index"])], dataset)
                assert flop == pytest.approx(int(row[f"flops_{key}"]) / 1e6, abs=1e-9)
                other += param != pytest.approx(int(row[f"params_{key}"]) / 1e6, abs=1e-9)
    assert other == 3 * 150


@pytest.mark.slow
def test_an_imported_public_table_gives_its_values(tmp_path: Path) -> None:
    if not PUBLIC.is_file():
        pytest.skip(f"no table {PUBLIC.name} beside the repository")
    import_nb201(PUBLIC, tmp_path / "table.npz")
    api = nb201_api(str(tmp_path / "table.npz"), verbose=False)
    names = {
        "cifar10-valid": ("cifar10", ("valid",)),
        "cifar10": ("cifar10", ("test",)),
        "cifar100": ("cifar100", ("valid", "test")),
        "ImageNet16-120": ("imagenet16", ("valid", "test")),
    }
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[::25]:
        for dataset, (key, splits) in names.items():
            for prefix, hp in (("", "200"), ("ep12_", "12")):
                got = api.get_more_info(int(row["arch_index"]), dataset, hp=hp, is_random=False)
                for split in splits:
                    assert got[f"{split}-accuracy"] == pytest.approx(float(row[f"{prefix}{key}_{split}"]), abs=1e-4)
    best = max(rows, key=lambda row: float(row["cifar10_test"]))
    assert api.find_best("cifar10", "test", hp="200")[0] == int(best["arch_index"])
