"""Recipes of retraining: schedules, losses, mixup and CutMix against their formulas."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from small_retrain import PLAIN, images
from torch import Tensor

from nasx.config import instantiate, paths
from nasx.data.batch_stream import Batch
from nasx.spaces.base import Logits
from nasx.train import recipe

LINEAR = replace(PLAIN, epochs=250, lr=0.5, schedule="linear", warmup_epochs=5)
RECIPES = sorted((paths.conf_dir() / "retrain").glob("*.yaml"))


# ------------------------------------------------------------------------------------------------- schedules
def test_cosine_and_step() -> None:
    cosine = replace(PLAIN, epochs=600, lr=0.025, lr_min=0.001)
    assert [recipe.rate(cosine, e) for e in (0, 300, 600)] == pytest.approx([0.025, 0.013, 0.001], rel=1e-14)
    assert recipe.rate(cosine, 100) == pytest.approx(0.001 + 0.012 * (1 + math.cos(math.pi / 6)), rel=1e-14)
    step = replace(PLAIN, epochs=250, lr=0.1, schedule="step", decay=0.97)
    assert [recipe.rate(step, e) for e in (0, 1, 200)] == pytest.approx([0.1, 0.097, 0.1 * 0.97**200], rel=1e-14)


def test_linear_with_warm_up_and_a_flat_end() -> None:
    rates = [recipe.rate(LINEAR, e) for e in range(250)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], rel=1e-14)  # on the base rate
    assert rates[5] == pytest.approx(0.5 * 240 / 245, rel=1e-14)
    falls = [a - b for a, b in itertools.pairwise(rates[5:])]
    assert falls[:239] == pytest.approx([0.5 / 245] * 239, rel=1e-9)
    assert falls[239] == pytest.approx(0.0, abs=1e-15)  # the released code stays for one epoch
    assert falls[240:] == pytest.approx([0.5 / (5 * 245)] * 4, rel=1e-9)
    assert rates[-1] == pytest.approx(0.5 / (5 * 245), rel=1e-12)


def test_short_linear_schedules_fall_to_the_end() -> None:
    short = replace(LINEAR, epochs=4, warmup_epochs=0)
    assert [recipe.rate(short, e) for e in range(4)] == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert recipe.rate(replace(short, epochs=6, lr_min=0.1), 5) == pytest.approx(0.1 + 0.4 / 5)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_has_a_falling_positive_rate(path: Path) -> None:
    settings = instantiate.build(yaml.safe_load(path.read_text(encoding="utf-8")))
    rates = [recipe.rate(settings, e) for e in range(settings.epochs)]
    after = rates[settings.warmup_epochs :]
    assert min(rates) > 0
    assert max(rates) == settings.lr
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(after))
    given = [settings.options(e) for e in (0, settings.epochs // 2)]
    if settings.data == "images":
        assert given == [{"drop_path": 0.0}, {"drop_path": settings.drop_path / 2}]
    else:
        assert given[0] == given[1]


# ------------------------------------------------------------------------------------------------- objective
def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    return -(target * scores.log_softmax(1)).sum(1).mean()


def test_label_smoothing_is_its_definition() -> None:
    batch, scores = images(), torch.randn(12, 5, dtype=torch.float64)
    target = 0.9 * F.one_hot(batch.y, 5).double() + 0.1 / 5
    found = recipe.outcome(Logits(scores), recipe.mix(batch), smoothing=0.1)
    assert torch.allclose(found.objective, cross_entropy(scores, target), rtol=1e-13)
    assert torch.equal(found.accuracy, (scores.argmax(1) == batch.y).double().mean())


def test_auxiliary_loss_is_weighted_and_left_out_of_the_reported_one() -> None:
    batch, gen = images(), torch.Generator().manual_seed(1)
    main, head = (torch.randn(12, 5, dtype=torch.float64, generator=gen, requires_grad=True) for _ in range(2))
    found = recipe.outcome(Logits(main, head), recipe.mix(batch), auxiliary=0.4)
    assert torch.allclose(found.objective, F.cross_entropy(main, batch.y) + 0.4 * F.cross_entropy(head, batch.y))
    assert torch.equal(found.loss, F.cross_entropy(main, batch.y))
    found.objective.backward()
    own = torch.autograd.grad(F.cross_entropy(head, batch.y), head)[0]
    assert head.grad is not None
    assert torch.allclose(head.grad, 0.4 * own, rtol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_mixup_mixes_images_and_labels_equally(seed: int) -> None:
    batch = images(seed=seed)
    mixed = recipe.mix(batch, mixup=0.4)
    assert 0 <= mixed.share <= 1
    assert mixed.share != 1
    partner = [
        next(
            j
            for j in range(12)
            if torch.allclose(mixed.x[i], mixed.share * batch.x[i] + (1 - mixed.share) * batch.x[j], rtol=1e-9)
        )
        for i in range(12)
    ]
    assert sorted(partner) == list(range(12))
    assert torch.equal(mixed.other, batch.y[partner])
    scores = torch.randn(12, 5, dtype=torch.float64)
    first, second = (F.one_hot(y, 5).double() for y in (mixed.y, mixed.other))
    soft = mixed.share * first + (1 - mixed.share) * second
    assert torch.allclose(recipe.mean_loss(scores, mixed), cross_entropy(scores, soft), rtol=1e-12)
    assert torch.equal(recipe.mix(batch, mixup=0.4).x, mixed.x)  # from the batch's seed alone


def test_mixup_draws_from_a_beta_distribution() -> None:
    shares = torch.tensor(
        [
            recipe.mix(Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.int64), seed * 2**40), mixup=2.0).share
            for seed in range(2000)
        ],
        dtype=torch.float64,
    )
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / 20, abs=0.006)  # a b / ((a + b)^2 (a + b + 1))


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_share_is_that_of_the_pixels(seed: int) -> None:
    batch = images(seed=seed)
    batch = batch._replace(x=torch.arange(12.0, dtype=torch.float64)[:, None, None, None].expand(12, 3, 16, 16))
    mixed = recipe.mix(batch, cutmix=1.0)
    kept = mixed.x == batch.x
    partner = [int(mixed.x[i][~kept[i]][0]) if not bool(kept[i].all()) else i for i in range(12)]
    if mixed.share < 1:
        assert torch.equal(mixed.other, batch.y[partner])
    moved = [i for i in range(12) if partner[i] != i]
    assert all(kept[i].double().mean().item() == pytest.approx(mixed.share, abs=1e-12) for i in moved)
    assert len({tuple(kept[i].flatten().tolist()) for i in moved}) <= 1  # one box for the batch


def test_cutmix_box_has_the_side_of_the_definition() -> None:
    assert recipe.span(32, 16, 0.75) == (8, 24)  # sqrt(1 - 0.75) = 1/2
    assert recipe.span(32, 2, 0.75) == (0, 10)
    assert recipe.span(32, 31, 0.75) == (23, 32)
    assert recipe.span(32, 16, 1.0) == (16, 16)


def test_both_mixtures_take_turns() -> None:
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    mixed = [recipe.mix(Batch(x, torch.arange(4), seed), mixup=1.0, cutmix=1.0).x for seed in range(40)]
    cut = [bool((m[:, None] == x[None]).any(1).all()) for m in mixed]  # every pixel is one of some image
    assert 10 <= sum(cut) <= 30
