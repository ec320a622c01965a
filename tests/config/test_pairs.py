"""Published settings of a method on a space: conf/pair has only deltas, each with its source, and each composes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import texts
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nasx.config import check, identity, paths
from nasx.errors import UserError

PAIRS = sorted((paths.conf_dir() / "pair").glob("*.yaml"))
METHODS = sorted(file.stem for file in (paths.conf_dir() / "method").glob("*.yaml"))


def split(pair: str) -> tuple[str, str]:
    """(space, method) of a pair's name."""
    (found,) = [
        (pair.removesuffix(f"_{method}"), method)
        for method in METHODS
        if pair.endswith(f"_{method}")
        and (paths.conf_dir() / "space" / f"{pair.removesuffix(f'_{method}')}.yaml").is_file()
    ]
    return found


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose("search", list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def at(cfg: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        cfg = cfg[key]
    return cfg


@pytest.mark.parametrize("file", PAIRS, ids=lambda file: file.stem)
@pytest.mark.sample(4)
def test_composes_without_fault_and_changes_what_it_says(file: Path, tmp_path: Path) -> None:
    space, method = split(file.stem)
    data = f"dataset.path={texts.write(tmp_path)}" if space == "darts_rnn" else "dataset=digits"
    chosen = (f"space={space}", f"method={method}", data)
    cfg, without = composed(*chosen), composed(*chosen, "~pair")
    check.check(cfg, {"space": space, "method": method})
    own = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(own, dict)
    deltas = dict(leaves(own))
    assert deltas
    for path, value in deltas.items():
        assert at(cfg, path) == value
        assert at(without, path) != value, f"{path} is no delta"
    assert identity.identity(cfg) != identity.identity(without)


@pytest.mark.parametrize("file", PAIRS, ids=lambda file: file.stem)
def test_every_value_names_its_source(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    above = ""
    for line in lines[1:]:
        _, colon, value = line.partition("#")[0].partition(":")
        if colon and value.strip():
            assert "#" in line or "#" in above, line
        above = line


@pytest.mark.slow
def test_every_method_checks_on_the_spaces_of_the_papers() -> None:
    """pc_darts needs partial channels and edge normalization, which NAS-Bench-1Shot1 has not; the fault says so."""
    for space in ("nb201", "darts", "nb1shot1_1", "s3"):
        for method in METHODS:
            cfg = composed(f"space={space}", f"method={method}", "dataset=digits")
            if method == "darts_minus" and space == "nb1shot1_1":
                with pytest.raises(UserError, match="which this space does not have"):
                    check.check(cfg)
            elif method == "pc_darts" and space == "nb1shot1_1":
                with pytest.raises(UserError, match=r"space\.edge_norm"):
                    check.check(cfg)
            else:
                check.check(cfg)


PUBLISHED: dict[str, dict[str, Any]] = {  # the published settings, as composed
    "space=nb201 method=darts": {
        "search.epochs": 50,
        "search.lr": 0.025,
        "search.lr_min": 0.001,
        "search.clip": 5,
        "search.nesterov": True,
        "search.weight_decay": 5e-4,
        "method.first": "weights",
    },
    "space=nb201 method=idarts": {
        "search.epochs": 30,
        "search.lr": 0.01,
        "search.lr_min": 0.001,
        "search.batch": 64,
        "search.nesterov": True,
        "search.weight_decay": 5e-4,
        "search.arch_lr": 3e-4,
        "method.T": 4,
        "method.K": 2,
        "method.products": "released",
    },
    "space=nb1shot1_1 method=idarts": {"method.products": "exact"},
    "space=nb201 method=gdas": {"search.epochs": 250, "method.gradient": "released", "method.tau_max": 10},
    "space=darts method=gdas": {"search.epochs": 50, "method.gradient": "sampled"},
    "experiment=baselines/sdarts_adv": {
        "method.perturbation": "adversarial",
        "method.random_start": True,
        "method.ascent": "eval",
        "space.batch_norm": "tracked",
    },
    "space=nb1shot1_2 method=idarts": {"method.T": 5, "method.K": 2, "search.batch": 96, "search.epochs": 50},
    "space=nb201 method=single": {
        "search.lr": 0.005,
        "search.lr_min": 0,
        "search.weight_decay": 3e-4,
        "search.arch_weight_decay": 0,
        "search.epochs": 50,
        "method.activation": "sigmoid",
    },
    "space=nb201 method=tse": {
        "search.clip": None,
        "search.lr": 0.025,
        "search.weight_decay": 5e-4,
        "search.epochs": 50,
        "space.batch_norm": "batch",
        "space.affine": False,
        "method.T": 100,
    },
    "space=darts method=tse": {"search.clip": None, "search.batch": 64, "search.epochs": 50, "space.layers": 8},
    "space=nb1shot1_3 method=tse": {"search.batch": 96, "search.epochs": 50, "search.weight_decay": 3e-4},
    "space=nb201 method=lambda": {
        "search.epochs": 100,
        "search.arch_lr": 1e-4,
        "search.arch_weight_decay": 1e-3,
        "method.strength": 0.125,
        "method.eps0": 1e-4,
        "search.weight_decay": 5e-4,
    },
    "space=darts method=lambda": {"method.strength": 0.25, "search.epochs": 50, "search.arch_lr": 3e-4},
    "space=s4 method=lambda": {"method.strength": 0.25, "search.batch": 64, "method.eps0": 1e-4},
    "experiment=lambda/robust_small space=s2 dataset=svhn": {
        "search.batch": 96,
        "method.eps0": 1e-3,
        "method.strength": 0.25,
        "retrain.layers": 8,
    },
    "experiment=lambda/pm_darts": {"method.alignment": "signed", "method.strength": 0.125},
    "space=darts method=amended": {
        "search.batch": 96,
        "search.epochs": 100,
        "search.cutout": 16,
        "method.eta": 0.1,
        "search.drop_path": 0.2,
        "search.auxiliary": 0.4,
        "space.auxiliary": True,
    },
    "space=s2 method=darts": {"method.order": 2, "search.weight_decay": 3e-4},
    "space=darts method=darts": {"method.order": 1, "search.epochs": 50, "search.nesterov": False},
    "space=darts method=pc_darts": {
        "search.batch": 256,
        "search.lr": 0.1,
        "search.lr_min": 0,
        "search.arch_lr": 6e-4,
        "search.arch_warmup": 15,
        "space.partial": 4,
        "space.edge_norm": True,
    },
    "space=nb201 method=pc_darts": {
        "search.batch": 256,
        "search.lr": 0.1,
        "search.lr_min": 0,
        "search.arch_lr": 6e-4,
        "search.arch_weight_decay": 1e-3,
        "search.arch_warmup": 0,
        "search.epochs": 50,
        "search.weight_decay": 3e-4,
        "search.nesterov": False,
        "space.partial": 4,
        "space.edge_norm": False,
        "method.first": "weights",
    },
    **{
        f"experiment=baselines/{name}_darts_c10_200": {
            "retrain.recipe": "darts-cifar",
            "retrain.batch": 96,
            "retrain.drop_path": 0.2,
        }
        for name in ("p", "pc")
    },  # rows of one table
    "experiment=single/table5": {
        "search.arch_optimizer": "sgd",
        "search.arch_lr": 0.005,
        "search.arch_momentum": 0.9,
        "search.arch_weight_decay": 3e-4,
        "search.lr": 0.005,
        "search.momentum": 0.9,
        "search.weight_decay": 3e-4,
        "method.activation": "sigmoid",
    },
    "experiment=single/table4 method.mode=other_split": {
        "search.arch_optimizer": "sgd",
        "search.arch_lr": 0.005,
        "search.arch_momentum": 0.9,
        "search.arch_weight_decay": 3e-4,
        "search.lr": 0.005,
        "method.activation": "softmax",
        "method.mode": "other_split",
    },
}


@pytest.mark.parametrize("words", PUBLISHED)
@pytest.mark.sample(9)
def test_published_values(words: str) -> None:
    cfg = composed(*words.split())
    assert {path: at(cfg, path) for path in PUBLISHED[words]} == PUBLISHED[words]


@pytest.mark.parametrize("method", ["lambda", "sdarts"])
def test_the_space_without_none_is_the_same_by_either_name(method: str) -> None:
    by_pair, by_space = composed("space=darts", f"method={method}"), composed("space=darts_no_none", f"method={method}")
    assert by_pair == by_space
    assert len(by_pair["space"]["operations"]) == 7
