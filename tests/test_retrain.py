"""Recipes against their formulas, the training loop against its definition, and resume bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hydra.types import RunMode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasx.cli import arguments, preflight
from nasx.config import check, instantiate, paths
from nasx.config import compose as composing
from nasx.config.settings import RetrainSettings
from nasx.data.batch_stream import Batch
from nasx.errors import UserError
from nasx.jobs import retrain
from nasx.spaces.base import Logits
from nasx.spaces.darts.network import dropped
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import records, run_folder
from nasx.train import recipe
from nasx.train.job import architecture, other_space, rehearse
from nasx.train.trainer import Trainer

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
PLAIN = RetrainSettings(
    recipe="test", layers=None, channels=None, stem="cifar", epochs=4, batch=12, lr=0.1, momentum=0.0
)
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
def images(n: int = 12, seed: int = 0) -> Batch:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 6, 6, generator=gen, dtype=torch.float64)
    return Batch(x, torch.randint(5, (n,), generator=gen), 2**61 + seed)


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
def test_mixup_mixes_images_and_labels_alike(seed: int) -> None:
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


# ------------------------------------------------------------------------------------------------------ loop
class Probe(nn.Module):
    """Two linear layers without batch norm, drop-path between them, and an auxiliary head in training."""

    def __init__(self, *, auxiliary: bool = False) -> None:
        super().__init__()
        gen = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(108, 7, dtype=torch.float64, generator=gen) / 10)
        self.last = nn.Parameter(torch.randn(7, 5, dtype=torch.float64, generator=gen))
        self.head = nn.Parameter(torch.randn(7, 5, dtype=torch.float64, generator=gen)) if auxiliary else None
        self.seen: list[float] = []

    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits:
        self.seen.append(drop_path)
        h = (x.flatten(1).to(self.first.dtype) @ self.first).tanh()
        if drop_path and self.training:
            h = dropped(h[:, :, None, None], drop_path, gen)[:, :, 0, 0]
        return Logits(h @ self.last, h @ self.head if self.training and self.head is not None else None)


class Batches:
    """The batches of seeds 0, 1, ..."""

    def __init__(self, size: int = 12) -> None:
        self.position, self.size = 0, size

    def __next__(self) -> Batch:
        self.position += 1
        return images(self.size, self.position - 1)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def trainer(*, auxiliary: bool = False, updates: int = 3, **changes: Any) -> Trainer:
    settings = replace(PLAIN, auxiliary=0.4 if auxiliary else 0.0, **changes)
    made: Any = Trainer(Probe(auxiliary=auxiliary), settings, Batches(), lambda: [images(20, 99)], updates)  # type: ignore[arg-type]
    return made


def weights(made: Trainer) -> dict[str, Tensor]:
    return {k: x.detach().clone() for k, x in made.network.named_parameters()}


def moves(made: Trainer) -> dict[str, Tensor]:
    """Change of the weights in one update."""
    before = weights(made)
    made.step(images(seed=3))
    return {k: x - before[k] for k, x in weights(made).items()}


def test_an_update_is_a_gradient_step_of_the_objective() -> None:
    made, batch = trainer(auxiliary=True, weight_decay=0.01, label_smoothing=0.1), images(seed=3)
    net, before = made.network, weights(made)
    logits = net.train()(batch.x)
    loss = sum(
        c * F.cross_entropy(s, batch.y, label_smoothing=0.1) for c, s in ((1.0, logits.main), (0.4, logits.auxiliary))
    )
    wanted = torch.autograd.grad(loss, list(net.parameters()))
    for (k, move), g in zip(moves(made).items(), wanted, strict=True):
        assert torch.allclose(move, -PLAIN.lr * (g + 0.01 * before[k]), rtol=1e-10, atol=1e-14), k


@pytest.mark.parametrize("pieces", [2, 3, 5, 12])
@pytest.mark.parametrize("changes", [{}, {"mixup": 1.0, "label_smoothing": 0.1, "clip": 0.05}])
def test_accumulation_gives_the_same_update(pieces: int, changes: dict[str, Any]) -> None:
    """Without batch norm (which sees each piece by itself) and drop-path (which draws piece by piece)."""
    whole, parts = (moves(trainer(auxiliary=True, accumulate=k, **changes)) for k in (1, pieces))
    assert all((whole[k] - parts[k]).abs().max() < 1e-12 for k in whole)


def test_pieces_of_a_batch_drop_different_paths() -> None:
    made, again = (trainer(drop_path=0.5, accumulate=2) for _ in range(2))
    made.updates = again.updates = made.total  # where drop-path has grown to its whole probability
    assert all(torch.equal(x, y) for x, y in zip(moves(made).values(), moves(again).values(), strict=True))
    gen = torch.Generator().manual_seed(images(seed=3).seed)
    masks = [dropped(torch.ones(6, 7, 1, 1), 0.5, gen) for _ in range(2)]
    assert not torch.equal(masks[0], masks[1])


def test_clipping_bounds_the_norm_of_the_update() -> None:
    free, bound = moves(trainer()), moves(trainer(clip=0.01))
    length = math.sqrt(sum((x**2).sum().item() for x in bound.values()))
    assert length == pytest.approx(PLAIN.lr * 0.01, rel=1e-3)
    assert math.sqrt(sum((x**2).sum().item() for x in free.values())) > length


def test_drop_path_and_rate_follow_the_epoch() -> None:
    made, rows = trainer(drop_path=0.2), []
    made.end_epoch = rows.append
    made.run()
    assert list(dict.fromkeys(made.network.seen)) == pytest.approx([0.0, 0.05, 0.1, 0.15])  # type: ignore[arg-type]
    assert [row["lr"] for row in rows] == pytest.approx([recipe.rate(made.settings, e) for e in range(4)])
    assert [row["updates"] for row in rows] == [3, 6, 9, 12]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_averaged_weights_follow_their_definition_and_are_tested() -> None:
    made = trainer(ema=0.9, epochs=1, updates=4)
    wanted: dict[str, Tensor] = {}

    def follow(t: Trainer) -> None:
        for k, x in weights(t).items():
            wanted[k] = 0.9 * wanted[k] + 0.1 * x if k in wanted else x

    made.tick = follow
    made.run()
    assert made.average is not None
    for k, x in made.average.module.named_parameters():
        assert torch.allclose(x, wanted[k], rtol=1e-12), k
    batch = images(20, 99)
    with torch.no_grad():
        loss = F.cross_entropy(made.average.module(batch.x).main, batch.y)
    assert made.tested["test_loss"] == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("decay", [0.9, None])
def test_averages_have_the_bits_of_torch_s_own(decay: float | None) -> None:
    """Which copies a count to the device at each update; batch norm's count of batches is an integer."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    own = recipe.averaged(network, decay)
    torch_s = AveragedModel(network, multi_avg_fn=own.multi_avg_fn, use_buffers=True)
    for i in range(4):
        network(torch.randn(5, 3, generator=torch.Generator().manual_seed(i)))
        with torch.no_grad():
            network[0].weight.add_(0.3 * i)
        own.update_parameters(network)
        torch_s.update_parameters(network)
    assert own.state_dict().keys() == torch_s.state_dict().keys()
    assert all(torch.equal(x, y) for x, y in zip(own.state_dict().values(), torch_s.state_dict().values(), strict=True))


@pytest.mark.parametrize(("every", "tested"), [(1, [1, 2, 3, 4]), (3, [3, 4]), (0, [4])])
def test_the_last_epoch_is_the_result(every: int, tested: list[int]) -> None:
    made, rows = trainer(evaluate_every=every, lr=3.0), []
    made.end_epoch = rows.append
    made.run()
    found = {row["epoch"]: row["test_accuracy"] for row in rows if "test_accuracy" in row}
    assert list(found) == tested
    assert made.tested["test_accuracy"] == found[4]
    assert made.tested["best_test_accuracy"] == max(found.values())
    assert made.tested["best_epoch"] == max(found, key=lambda e: (found[e], -e))


@pytest.mark.parametrize("stop", [1, 3, 4, 11])
def test_a_trainer_continues_bit_for_bit(stop: int) -> None:
    changes: dict[str, Any] = {
        "ema": 0.8,
        "momentum": 0.9,
        "nesterov": True,
        "drop_path": 0.3,
        "cutmix": 1.0,
        "evaluate_every": 2,
    }
    whole, first, second = (trainer(auxiliary=True, **changes) for _ in range(3))
    rows: list[list[dict[str, Any]]] = [[], []]
    whole.end_epoch = rows[0].append
    first.end_epoch = second.end_epoch = rows[1].append
    whole.run()

    class Stop(Exception):
        pass

    def leave(t: Trainer) -> None:
        if t.updates == stop:
            raise Stop

    first.tick = leave
    with pytest.raises(Stop):
        first.run()
    second.load({**first.state(), "rng": torch.get_rng_state()})
    second.run()
    assert rows[0] == rows[1]
    assert whole.tested == second.tested
    for part in ("network", "average"):
        assert all(torch.equal(x, second.state()[part][k]) for k, x in whole.state()[part].items())


def test_mixed_precision_widens_the_loss() -> None:
    plain, half = trainer(), trainer(amp=True)
    for made in (plain, half):
        made.network.float()
    values = [made.step(images(seed=3)) for made in (plain, half)]
    assert values[1]["train_loss"].dtype == torch.float32
    assert values[0]["train_loss"].item() == pytest.approx(values[1]["train_loss"].item(), rel=0.02)


def test_broken_numbers_stop_the_run() -> None:
    made = trainer(lr=math.inf)
    made.step(images())
    with pytest.raises(UserError, match=r"retrain, update 1: a weight became NaN or infinite; lower retrain\.lr"):
        made.guard({"train_loss": 1.0}, weights=True)
    made.tick = lambda t: t.guard(t.meter.means())
    with pytest.raises(UserError, match="train_loss became NaN"):
        made.run()


# -------------------------------------------------------------------------------------------------- a real run
def composed(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(configuration, info) of a command line, as the command gives them to nasx.jobs.search."""
    line = preflight.normalize("retrain", arguments.split_options(list(overrides)))
    loader = preflight.make_loader()
    cfg, choices = preflight.resolved(loader.load_configuration("retrain", list(line.overrides), RunMode.RUN))
    check.check(cfg, choices, line.overrides, "retrain")
    return cfg, {
        "choices": choices,
        "overrides": list(overrides),
        "command": "nasx retrain",
        "argv": [],
        "published": composing.published("retrain", choices, cfg, None),
    }


def digits(out: Path, *overrides: str) -> tuple[str, ...]:
    return (
        "space=nb201",
        "dataset=digits",
        f"genotype={CELL}",
        f"out={out}",
        "retrain.layers=1",
        "retrain.channels=8",
        "retrain.batch=32",
        "threads=1",
        "device=cpu",
        "quiet=true",
        *overrides,
    )


def test_a_network_learns_the_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = digits(tmp_path, "retrain.epochs=1", "retrain.lr=0.05", "retrain.evaluate_every=0")
    result = retrain.retrain(*composed(*words))
    folder = tmp_path / result["name"]
    assert result["test_accuracy"] > 0.3  # chance is 0.1
    assert "test accuracy" in capsys.readouterr().out
    network = Nb201().network(Nb201().parse(CELL), 10, layers=1, channels=8)
    assert result["params"] == result["params_with_auxiliary"] == sum(x.numel() for x in network.parameters())
    assert result["macs"] > 0
    assert result["updates"] == result["passes"] == 45  # 1437 images in batches of 32
    assert result["genotype"] == CELL == (folder / "genotype.txt").read_text().strip()
    assert result["protocol"] == "nb201"
    assert result["kind"] == "retrain"
    assert result["parent"] is None
    assert result["changed"]["retrain.epochs"] == [200, 1]
    assert json.loads((folder / "result.json").read_text()) == result
    [row] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert set(row) == {
        "epoch",
        "updates",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "wall_s",
    }
    assert row["test_accuracy"] == result["test_accuracy"]


FULL = (
    "space=darts",
    "dataset=digits",
    "genotype=DARTS_V2",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.batch=16",
    "retrain.epochs=3",
    "retrain.updates_per_epoch=3",
    "retrain.evaluate_every=2",
    "retrain.ema=0.9",
    "retrain.mixup=0.2",
    "retrain.cutmix=1",
    "retrain.accumulate=2",
    "retrain.label_smoothing=0.1",
    "retrain.drop_path=0.2",
    "retrain.momentum=0.9",
    "threads=1",
    "device=cpu",
    "quiet=true",
)
KILLED = """
import os, signal, sys
from nasx.tracking import checkpoints
from nasx.cli import main as cli; from nasx.train import trainer as retrain

def end(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

moment, lines = sys.argv[1], sys.argv[2:]
if moment == "update":            # the second epoch's second update: neither saved nor logged
    step = retrain.Trainer.step
    def killed(self, batch):
        found = step(self, batch)
        return end() if self.updates == 5 else found
    retrain.Trainer.step = killed
if moment == "checkpoint":        # the row of epoch 2 is written, its checkpoint half
    write = checkpoints.write_atomic
    def torn(path, data):
        if path.name == "000000006.ckpt":
            path.with_name("." + path.name + ".part").write_bytes(data[:1000])
            end()
        write(path, data)
    checkpoints.write_atomic = torn
cli.main(["retrain", *lines])
"""


def final(folder: Path) -> dict[str, Any]:
    held = run_folder.Run.__new__(run_folder.Run)
    held.folder = folder
    state = held.load()
    assert state is not None
    return state


def same(x: Any, y: Any) -> bool:
    """Equality of nested state, bit for bit."""
    if isinstance(x, Tensor):
        return torch.equal(x, y)
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[k], y[k]) for k in x)
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(same, x, y))
    return bool(x == y)


@pytest.mark.slow
def test_a_killed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = retrain.retrain(*composed(*FULL, f"out={tmp_path / 'whole'}"))
    words = [*FULL, f"out={tmp_path / 'killed'}"]
    folder = tmp_path / "killed" / whole["name"]
    for moment in ("update", "checkpoint"):
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, moment, *words],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (folder / "result.json").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert final(folder)["updates"] == 3
    again = retrain.retrain(*composed(*words))
    told = ("test_accuracy", "test_loss", "best_test_accuracy", "best_epoch", "updates", "params", "macs")
    assert {k: again[k] for k in told} == {k: whole[k] for k in told}
    states = [final(tmp_path / out / whole["name"]) for out in ("whole", "killed")]
    for state in states:
        for key in ("elapsed_s", "started"):
            state.pop(key)
    assert same(*states)
    rows = [
        [json.loads(line) for line in (tmp_path / out / whole["name"] / "metrics.jsonl").read_text().splitlines()]
        for out in ("whole", "killed")
    ]
    assert [{**row, "wall_s": 0} for row in rows[0]] == [{**row, "wall_s": 0} for row in rows[1]]
    assert again["params"] < again["params_with_auxiliary"]
    again.pop("name")
    finished = retrain.retrain(*composed(*words))
    assert finished["finished"] == again["finished"]  # at once


def test_a_signal_at_an_epochs_end_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = digits(tmp_path, "retrain.epochs=2", "retrain.updates_per_epoch=2", "retrain.batch=8")
    step = Trainer.step

    def asked(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        found = step(self, batch)
        if self.updates == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(Trainer, "step", asked)
    with pytest.raises(KeyboardInterrupt):
        retrain.retrain(*composed(*words))
    result = retrain.retrain(*composed(*words))
    assert [
        json.loads(line)["updates"] for line in (tmp_path / result["name"] / "metrics.jsonl").read_text().splitlines()
    ] == [2, 4]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        raise error

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(UserError, match=r"retrain\.batch=32: does not fit.*accumulate=2"):
        retrain.retrain(*composed(*digits(tmp_path)))


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def burst(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        return step(self, batch._replace(x=batch.x * math.inf) if self.updates == 3 else batch)

    monkeypatch.setattr(Trainer, "step", burst)
    words = digits(tmp_path, "retrain.epochs=2", "retrain.updates_per_epoch=2", "retrain.batch=8", "checkpoint_s=1e-9")
    with pytest.raises(UserError, match=r"update 4: .*train_loss.*became NaN"):
        retrain.retrain(*composed(*words))
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    state = final(folder)
    assert state["updates"] == 3
    assert all(bool(x.isfinite().all()) for x in state["network"].values())


# ------------------------------------------------------------------------------------------------- whose cell
def parent(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "found"
    folder.mkdir(exist_ok=True)
    record = {
        "kind": "search",
        "status": "finished",
        "name": "found",
        "genotype": CELL,
        "lookup": {"benchmark": "nb201", "cifar10": {"valid": 90.0}},
        "choices": {"space": "nb201"},
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(record))
    space = {
        "_target_": "nasx.spaces.nb201.space.Nb201",
        "operations": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"choices": {"space": "nb201"}, "space": space}))
    return folder


def asked(tmp_path: Path, name: str | Path | None, genotype: str | None = None) -> dict[str, Any]:
    return {
        "from": None if name is None else str(name),
        "genotype": genotype,
        "out": str(tmp_path),
        "space": {"_target_": "nasx.spaces.nb201.space.Nb201", "operations": ["none", "skip_connect"]},
    }


@pytest.mark.parametrize("name", ["found", "folder"])
def test_a_search_is_named_by_its_folder_or_its_name(tmp_path: Path, name: str) -> None:
    folder = parent(tmp_path)
    genotype, found = architecture(asked(tmp_path, folder if name == "folder" else name), Nb201())
    assert str(genotype) == CELL
    assert found is not None
    assert found["name"] == "found"


def test_the_record_names_its_parent(tmp_path: Path) -> None:
    folder = parent(tmp_path)
    words = [
        w
        for w in digits(tmp_path, "retrain.epochs=1", "retrain.updates_per_epoch=1", "retrain.batch=8")
        if not w.startswith("genotype=")
    ]
    result = retrain.retrain(*composed(*words, f"from={folder}"))
    assert result["parent"] == "found"
    assert result["parent_lookup"]["cifar10"]["valid"] == 90.0
    assert result["lookup"] is None
    assert result["genotype"] == CELL


def test_a_folder_that_holds_a_run_goes_before_one_that_only_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "outputs" / "photos").mkdir(parents=True)
    assert records.locate("photos", "outputs") == Path("photos")
    (tmp_path / "outputs" / "photos" / "config.yaml").touch()
    assert records.locate("photos", "outputs") == Path("outputs/photos")
    assert records.locate("nothing", "outputs") is None


def faults(tmp_path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    yield asked(tmp_path, "nowhere"), r"from=nowhere: run not found"
    yield asked(tmp_path, None), r"retrain: no architecture is given"
    parent(tmp_path, status="running")
    yield asked(tmp_path, "found"), r"from=found: .*holds no finished run.*resumes"
    parent(tmp_path, kind="retrain", parent="first")
    yield asked(tmp_path, "found"), r"is a run of nasx retrain, not a search; use from=first"
    parent(tmp_path, genotype="|nor_conv_3x3~0|")
    yield asked(tmp_path, "found"), r"is not in the space"


def test_a_parent_that_cannot_be_used(tmp_path: Path) -> None:
    for cfg, message in faults(tmp_path):
        with pytest.raises(UserError, match=message):
            architecture(cfg, Nb201())


def test_a_cell_of_another_space_says_which_settings_differ(tmp_path: Path) -> None:
    parent(tmp_path)
    message = r"the search had .*space\.operations=\[none,skip_connect,nor_conv_1x1,nor_conv_3x3\]: use the same"
    with pytest.raises(UserError, match=message):
        architecture(asked(tmp_path, "found"), Nb201(operations=("none", "skip_connect")))
    assert other_space({"_target_": "a.B"}, {"_target_": "a.C"}) == "use the space of the search"


def test_settings_that_the_network_cannot_take_are_told_before_training() -> None:
    network = Nb201().network(Nb201().parse(CELL), 10, layers=1, channels=4)

    def whole(n: int) -> Tensor:
        return Nb201().example(n, (3, 32, 32))

    with pytest.raises(UserError, match=r"retrain\.drop_path=0\.2"):
        rehearse(network, replace(PLAIN, drop_path=0.2), whole)
    with pytest.raises(UserError, match=r"retrain\.batch=12, retrain\.accumulate=12: pieces of 1 images"):
        rehearse(network, replace(PLAIN, accumulate=12), lambda n: Nb201().example(n, (3, 4, 4)))
    rehearse(network, PLAIN, whole)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(
        (Path(os.environ.get("NASX_DATA", "/nowhere")) / f"cifar-10-batches-{kind}").is_dir() for kind in ("bin", "py")
    ),
    reason="CIFAR-10 is not there (NASX_DATA)",
)
def test_real_images_train(tmp_path: Path) -> None:
    words = [
        w
        for w in digits(tmp_path, "retrain.epochs=1", "retrain.updates_per_epoch=4", "retrain.channels=4")
        if w != "dataset=digits"
    ]
    result = retrain.retrain(*composed(*words, "dataset=cifar10"))
    assert result["updates"] == 4
    assert 0 <= result["test_accuracy"] <= 1
