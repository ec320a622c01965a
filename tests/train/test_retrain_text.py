"""Training of language models: rates by length, split states, averaged SGD, test of the best weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasx.config.settings import TextRetrainSettings
from nasx.core import evaluate as core_evaluate
from nasx.core.bilevel import detached
from nasx.core.metrics import ACCURACY, PERPLEXITY
from nasx.data.base import Text
from nasx.data.segments import Read
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.recurrent.space import Recurrent
from nasx.train import recipe
from nasx.train.trainer import Trainer

import small

SPACE = Recurrent(channels=6, nodes=3)
GENOTYPE = SPACE.sample(torch.Generator().manual_seed(1))
PLAIN = TextRetrainSettings(
    recipe="test",
    channels=6,
    epochs=4,
    batch=6,
    lr=0.5,
    clip=None,
    bptt=5,
    short=0.3,
    jitter=0.0,
    dropout_embedding=0.0,
    dropout_input=0.0,
    dropout_x=0.0,
    dropout_hidden=0.0,
    dropout_output=0.0,
    activation=0.1,
    slowness=0.2,
    patience=None,
    valid_batch=3,
    test_batch=1,
)


def opened(bptt: int = 5) -> Read:
    draw = np.random.RandomState(0)
    train, valid, test = (draw.randint(0, 9, n).astype(np.int64) for n in (160, 70, 41))
    return Read(Text(train=train, valid=valid, test=test, words=tuple("abcdefghi")), "cpu", bptt=bptt, short=0.3)


def trainer(updates: int = 3, **changes: Any) -> Trainer:
    settings, data = replace(PLAIN, **changes), opened()
    torch.manual_seed(0)
    network = SPACE.network(GENOTYPE, 9, channels=6).double()
    with torch.no_grad():
        for x in network.parameters():
            x.mul_(8)
    own, held = data.split(0)
    return Trainer(
        network,
        settings,
        data.stream("retrain", own, batch=settings.batch, seed=1),
        lambda: data.ordered("test", batch=1),
        updates,
        lambda: data.ordered("train", held, batch=3),
        PERPLEXITY,
    )


def held(network: nn.Module) -> dict[str, Tensor]:
    return {k: x.detach().clone() for k, x in network.state_dict().items()}


def flat(tree: dict[str, Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tree.values()])


# ---------------------------------------------------------------------------------------------------------- updates
def test_an_update_is_a_gradient_step_at_the_rate_of_its_segment_s_length() -> None:
    made = trainer(weight_decay=0.01)
    batch: Any = next(made.stream)
    before = held(made.network)
    logits = made.network(batch.x)
    y = batch.y.flatten()
    states = []  # what is added to the loss, from states word by word
    state = None
    for word in batch.x.split(1, 1):
        state = made.network(word, state=state).state
        states.append(state)
    walked = torch.stack(states, 1)
    loss = (
        nn.functional.cross_entropy(logits.main, y)
        + 0.1 * walked.square().mean()
        + 0.2 * (walked[:, 1:] - walked[:, :-1]).square().mean()
    )
    slopes = torch.autograd.grad(loss, list(made.network.parameters()))
    told = made.step(batch)
    assert float(told["train_loss"]) == pytest.approx(nn.functional.cross_entropy(logits.main, y).item(), rel=1e-6)
    rate = 0.5 * batch.x.shape[1] / 5
    for (k, x), g in zip(made.network.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(x.detach(), before[k] - rate * (g + 0.01 * before[k]), rtol=1e-10, atol=1e-13)
    assert made.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("pieces", [2, 3, 6])
def test_pieces_of_a_batch_carry_their_own_states(pieces: int) -> None:
    whole, parts = trainer(), trainer(accumulate=pieces)
    for _ in range(4):
        for made in (whole, parts):
            made.step(next(made.stream))
    torch.testing.assert_close(flat(held(parts.network)), flat(held(whole.network)), rtol=1e-10, atol=1e-12)
    one, other = (made.stream.state_dict()["carried"] for made in (whole, parts))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)  # type: ignore[call-overload]


# --------------------------------------------------------------------------------------------------- a text unbroken
@pytest.mark.parametrize("bptt", [1, 4, 7])
def test_a_trained_network_reads_the_text_unbroken_whatever_the_segments(bptt: int) -> None:
    """The loss of the test text by hand: word by word, the state going on from the first to the last."""
    network, words, state, total = trainer().network.eval(), opened().test, None, 0.0
    for this, following in itertools.pairwise(words):
        logits = network(this.view(1, 1), state=state)
        state = logits.state
        total -= float(logits.main.log_softmax(1)[0, following].detach())
    found = core_evaluate.means(core_evaluate.sums(network, opened(bptt).ordered("test", batch=1), torch.device("cpu")))
    assert found.loss == pytest.approx(total / 40, rel=1e-12)
    assert found.images == 40
    assert PERPLEXITY.convert(found.row())["test_perplexity"] == pytest.approx(math.exp(total / 40), rel=1e-12)


def test_a_supernet_reads_the_text_unbroken_whatever_the_segments() -> None:
    net = small.build(SPACE).double()
    problem = RelaxedProblem(SPACE, net, small.softmax)
    mix = detached(problem.relax({"recurrent": torch.randn(6, 5, dtype=torch.float64)}))
    values = [
        problem.evaluate(weights(net), mix, opened(bptt).ordered("train", np.arange(60), batch=3))["loss"]
        for bptt in (1, 4, 19, 50)
    ]
    assert values == pytest.approx([values[0]] * 4, rel=1e-12)


# ---------------------------------------------------------------------------------------------------- averaged SGD
def released(losses: Sequence[float], patience: int) -> list[bool]:
    """The rule as the released code keeps its lists, after each validation."""
    best: list[float] = []
    found = []
    for loss in losses:
        found.append(len(best) > patience and loss > min(best[:-patience]))
        best.append(loss)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_the_switch_is_that_of_the_released_code(seed: int) -> None:
    losses = (np.linspace(5, 4, 25) + 0.2 * np.random.RandomState(seed).randn(25)).tolist()
    for patience in (1, 3, 5):
        ours = [recipe.stalled(losses[: n + 1], patience) for n in range(25)]
        assert ours == released(losses, patience)
        assert any(ours)
    assert not any(recipe.stalled(losses[: n + 1], None) for n in range(25))


def close_to_single(x: Tensor, y: Tensor) -> None:
    """torch's ASGD keeps its rates in single precision."""
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-8)


def test_averaged_sgd_is_torch_s() -> None:
    """The iterates are equal; torch's mean leaves out the first of them (recipe.py, deviation 5)."""
    made = trainer(weight_decay=0.01, short=0.0, patience=0)
    made.average = recipe.averaged(made.network, None)
    twin = trainer(weight_decay=0.01, short=0.0).network
    asgd = torch.optim.ASGD(twin.parameters(), lr=0.5, lambd=0.0, t0=0, weight_decay=0.01)
    stream, state, path = trainer().stream, None, []
    stream.short = 0.0  # type: ignore[attr-defined]
    made.stream.short = 0.0  # type: ignore[attr-defined]
    for i in range(5):
        made.step(next(made.stream))
        batch: Any = next(stream)
        logits = twin(batch.x, state=state, regularizers=made.settings.options(0)["regularizers"])
        state = logits.state.detach()
        asgd.zero_grad()
        (nn.functional.cross_entropy(logits.main, batch.y.flatten()) + logits.penalty).backward()
        asgd.step()
        assert batch.rate == 1.0, i
        close_to_single(flat(held(made.network)), flat(held(twin)))
        path.append(flat(held(twin)))
    mean = flat(held(made.average.module))
    close_to_single(mean, torch.stack(path).mean(0))
    theirs = torch.cat([asgd.state[x]["ax"].flatten() for x in twin.parameters()])
    close_to_single((5 * mean - path[0]) / 4, theirs)


def scripted(losses: Sequence[float], **changes: Any) -> tuple[Trainer, list[dict[str, Any]], list[Any]]:
    """A training whose validations give these losses; its rows, and what was evaluated: (part, weights)."""
    made, rows, seen = trainer(epochs=len(losses), **changes), [], []
    rest = iter(losses)

    def evaluate(network: nn.Module, part: str) -> dict[str, float]:
        seen.append((part, held(network)))
        return PERPLEXITY.convert({f"{part}_loss": next(rest) if part == "valid" else 1.5})

    made.evaluate = evaluate  # type: ignore[method-assign]
    made.end_epoch = rows.append
    made.run()
    return made, rows, seen


def test_the_weights_that_validate_best_are_tested_once() -> None:
    made, rows, seen = scripted([3.0, 2.0, 2.5, 2.2])
    assert [part for part, _ in seen] == ["valid"] * 4 + ["test"]
    assert torch.equal(flat(seen[-1][1]), flat(seen[1][1]))
    assert not torch.equal(flat(seen[-1][1]), flat(seen[3][1]))
    assert made.tested == {
        "valid_loss": 2.0,
        "valid_perplexity": math.exp(2.0),
        "best_epoch": 2,
        "averaged": False,
        "test_loss": 1.5,
        "test_perplexity": math.exp(1.5),
    }
    assert (rows[-1]["valid_loss"], rows[-1]["test_loss"]) == (2.2, 1.5)
    assert [row["valid_loss"] for row in rows] == [3.0, 2.0, 2.5, 2.2]
    assert not [key for row in rows for key in row if "accuracy" in key]


def test_weights_are_averaged_from_the_stall_on() -> None:
    """Validations 3.0 2.0 2.5 stall at the third (2.5 > 3.0 is false, 2.5 > min(3.0, 2.0) with patience 0)."""
    made, _, seen = scripted([3.0, 2.0, 2.5, 1.9, 2.4], patience=0)
    walk = trainer(epochs=6)  # one more, at whose end the best weights would be put back
    path: list[Tensor] = []
    walk.tick = lambda t: path.append(flat(held(t.network)))
    walk.evaluate = lambda network, part: {f"{part}_loss": 1.0, f"{part}_perplexity": 1.0}  # type: ignore[method-assign]
    walk.run()
    for epoch, (_, found) in enumerate(seen[:5]):
        end = 3 * (epoch + 1)
        expected = path[end - 1] if epoch < 3 else torch.stack(path[9:end]).mean(0)
        torch.testing.assert_close(flat(found), expected, rtol=1e-12, atol=1e-14)
    assert made.tested["best_epoch"] == 4
    assert made.tested["averaged"]
    assert torch.equal(flat(seen[5][1]), flat(seen[3][1])), "the averaged weights are tested"


def test_the_stall_of_that_test_is_the_third() -> None:
    assert [recipe.stalled([3.0, 2.0, 2.5, 1.9][:n], 0) for n in range(1, 5)] == [False, False, True, False]


# --------------------------------------------------------------------------------------------------------- metrics
def test_metrics_are_reported_and_compared() -> None:
    row = {"train_loss": 2.0, "train_accuracy": 0.5, "lr": 0.1, "val_loss": 800.0}
    assert ACCURACY.convert(row) == row
    assert PERPLEXITY.convert(row) == {
        "train_loss": 2.0,
        "train_perplexity": math.exp(2.0),
        "lr": 0.1,
        "val_loss": 800.0,
    }
    assert ACCURACY.better(0.6, 0.5)
    assert not ACCURACY.better(0.5, 0.5)
    assert PERPLEXITY.better(50.0, 60.0)
    assert PERPLEXITY.better(50.0, None)
    assert (ACCURACY.text(0.9421), PERPLEXITY.text(58.1)) == ("94.21 %", "58.10")
