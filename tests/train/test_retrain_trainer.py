"""The training loop of retraining against its definition, and resume bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_retrain import PLAIN, images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasx.data.batch_stream import Batch
from nasx.errors import UserError
from nasx.spaces.base import Logits
from nasx.spaces.darts.network import dropped
from nasx.train import recipe
from nasx.train.trainer import Trainer


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
