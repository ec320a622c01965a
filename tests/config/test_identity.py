"""The identity of a run, and what differs from the published settings."""

from __future__ import annotations

from composing import composed

from nasx.config import compose as composing
from nasx.config import identity


def test_identity_is_what_changes_the_numbers() -> None:
    cfg, choices = composed("search")
    name = identity.run_name(cfg, choices)
    assert name == f"darts-nb201-cifar10-s0-{identity.identity(cfg)[:8]}"
    assert len(identity.identity(cfg)) == 32, "128 bits: a name may be shared, an identity is not"
    for where in (
        {"out": "x"},
        {"device": "cuda:1"},
        {"threads": 3},
        {"checkpoint_s": 1.0},
        {"quiet": True},
        {"allow": ["a"]},
    ):
        assert identity.identity({**cfg, **where}) == identity.identity(cfg)
    for what in ({"seed": 1}, {"deterministic": True}, {"search": {**cfg["search"], "epochs": 51}}):
        assert identity.identity({**cfg, **what}) != identity.identity(cfg)
    whole = {**cfg, "search": {**cfg["search"], "epochs": 50.0}}
    assert identity.identity(whole) == identity.identity(cfg), "50 and 50.0 are one setting"
    assert identity.identity(dict(reversed(cfg.items()))) == identity.identity(cfg), "the order of keys is none"
    assert identity.run_name({**cfg, "name": "mine"}, choices) == "mine"


def test_a_family_is_of_the_setting_alone() -> None:
    cfg, choices = composed("search")
    held = {"kind": "search", "choices": choices, "identity": "x", **identity.identifying(cfg, "search")}
    assert len(identity.family(cfg, "search")) == 32
    for same in ({**cfg, "seed": 3}, {**cfg, "from": "x"}, held):
        assert identity.family(same, "search") == identity.family(cfg, "search")
    assert identity.family({**cfg, "deterministic": True}, "search") != identity.family(cfg, "search")


def test_a_search_is_the_same_by_search_and_by_run() -> None:
    run = composed("run", "then=retrain", "retrain.epochs=3")[0]
    assert identity.identity(composed("search")[0]) == identity.identity(run)


def test_a_retraining_is_known_by_its_parent_and_recipe_alone() -> None:
    one = composed("retrain", "from=a/b")[0]
    assert identity.kind_of(one) == "retrain"
    assert identity.identity(one) == identity.identity({**one, "from": "elsewhere/b", "search": {}})
    assert identity.identity(one) != identity.identity({**one, "from": "a/c"})
    assert identity.run_name(one, {"space": "s", "dataset": "d", "method": "darts"}).startswith("retrain-s-d-s0-")


def test_changed_names_what_departs_from_the_published() -> None:
    cfg, choices = composed("search", "search.epochs=3", "space.layers=1", "dataset=digits", "seed=4")
    published = composing.published("search", choices, cfg, None)
    assert identity.changed(cfg, published) == {"search.epochs": [50, 3], "space.layers": [5, 1]}
    experiment, choices = composed("search", "experiment=quickstart")
    assert "space.channels" in identity.changed(experiment, composing.published("search", choices, experiment, None))


def test_what_a_published_experiment_sets_is_published() -> None:
    cfg, choices = composed("search", "experiment=lambda/nb201_50", "search.batch=8")
    published = composing.published("search", choices, cfg, None)
    assert identity.changed(cfg, published) == {"search.batch": [64, 8]}
