"""The recurrent space: published sizes, derivation, and both networks against the equations of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from nasx.core.regularizers import Regularizers
from nasx.errors import UserError
from nasx.spaces.base import Logits
from nasx.spaces.recurrent.genotype import OPERATIONS, RecurrentGenotype
from nasx.spaces.recurrent.space import Recurrent

from reference import recurrent as ref

SPACE = Recurrent(channels=5, nodes=4)
RATES = Regularizers(embedding=0.3, input=0.2, x=0.4, hidden=0.25, output=0.5, activation=0.7, slowness=0.9)
WORDS, N, STEPS = 11, 3, 6


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(seed: int = 1, steps: int = STEPS) -> Tensor:
    return torch.randint(WORDS, (N, steps), generator=generator(seed))


def supernet(*, naive: bool = False, scale: float = 10.0, **fields: Any) -> Any:
    """A small float64 supernet; weights are larger than published, so that every part of a cell matters."""
    torch.manual_seed(0)
    net = Recurrent(**{"channels": 5, "nodes": 4, **fields}).supernet(WORDS, naive=naive).double()
    with torch.no_grad():
        for x in net.parameters():
            x.mul_(scale).add_(0.1 * torch.randn(x.shape, generator=generator(9), dtype=x.dtype))
    return net


def network(genotype: RecurrentGenotype, scale: float = 10.0) -> Any:
    torch.manual_seed(1)
    net: Any = SPACE.network(genotype, WORDS, channels=5).double()
    with torch.no_grad():
        for x in net.parameters():
            x.mul_(scale).add_(0.1 * torch.randn(x.shape, generator=generator(8), dtype=x.dtype))
    return net


def weights(net: Any) -> ref.Weights:
    return ref.Weights(net.words.weight, net.words.bias, net.cell.first, list(net.cell.nodes))


def mixture(seed: int = 2) -> Tensor:
    rows = torch.softmax(torch.randn(*SPACE.shapes()["recurrent"], generator=generator(seed), dtype=torch.float64), -1)
    return rows.unsqueeze(0).requires_grad_()


def masks(rates: Regularizers, seed: int, n: int = N, width: int = 5) -> ref.Masks:
    """Drawn in the documented order."""
    gen = generator(seed)
    shapes = (
        (rates.embedding, (WORDS, 1)),
        (rates.input, (n, width)),
        (rates.x, (n, width)),
        (rates.hidden, (n, width)),
        (rates.output, (n, width)),
    )
    return ref.Masks(
        *(
            torch.empty(shape, dtype=torch.float64).bernoulli_(1 - rate, generator=gen) / (1 - rate) if rate else 1.0
            for rate, shape in shapes
        )
    )


def close(x: Tensor, y: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------------ sizes
def test_sizes_are_those_of_the_papers() -> None:
    space = Recurrent()
    assert space.shapes() == {"recurrent": (36, 5)}
    assert space.size() == prod(4 * node for node in range(1, 9)) == 2_642_411_520


@pytest.mark.parametrize(("width", "published"), [(300, 4_810_000), (850, 22_960_000)])
def test_parameters_of_the_published_widths(width: int, published: int) -> None:
    """Penn Treebank has 10,000 words; 22.960 M is the released code's own figure (README.md). Search and evaluation."""
    words = 10_000
    counted = words * width + words + 2 * width * 2 * width + 8 * width * 2 * width
    assert counted == published
    with torch.device("meta"):
        nets = [
            Recurrent(channels=width).supernet(words),
            *(
                Recurrent().network(Recurrent().parse(name), words, channels=width)
                for name in ("DARTS_RNN_V1", "DARTS_RNN_V2")
            ),
        ]
        assert [sum(x.numel() for x in net.parameters()) for net in nets] == [published] * 3
        plain = Recurrent().network(Recurrent().parse("DARTS_RNN_V2"), words)
    assert sum(x.numel() for x in plain.parameters()) == 22_960_000, "850 is the width unless given"


def test_initial_weights_are_small_and_uniform() -> None:
    torch.manual_seed(0)
    net = Recurrent(channels=40).supernet(500)
    for name, x in net.state_dict().items():
        if name == "words.bias":
            assert not bool(x.any())
        else:
            assert 0.039 < float(x.abs().max()) <= 0.04
            assert float(x.std()) == pytest.approx(0.08 / 12**0.5, rel=0.05)


# --------------------------------------------------------------------------------------------------------- genotype
@pytest.mark.parametrize("seed", range(20))
def test_derivation_equals_the_rule_written_out(seed: int) -> None:
    rows = torch.rand(1, 36, 5, generator=generator(seed), dtype=torch.float64)
    if seed % 2:  # many ties, among operations and among predecessors
        rows = (rows * 3).round() / 3
    assert list(Recurrent().discretize({"recurrent": rows}).nodes) == ref.derived(rows[0].tolist(), OPERATIONS, 8)


def test_none_is_never_chosen_and_still_competes() -> None:
    rows = torch.full((1, 3, 5), 0.01)
    rows[0, 0] = torch.tensor([0.9, 0.02, 0.05, 0.02, 0.01])
    rows[0, 1] = torch.tensor([0.8, 0.19, 0.01, 0.0, 0.0])
    rows[0, 2] = torch.tensor([0.1, 0.15, 0.18, 0.17, 0.18])
    found = Recurrent(nodes=2).discretize({"recurrent": rows})
    assert found.nodes == (("relu", 0), ("tanh", 0)), "0.19 of tanh on 0 -> 2 beats 0.18, for all that none has there"


def test_text_is_that_of_the_released_code() -> None:
    genotype = Recurrent().parse("DARTS_RNN_V2")
    assert str(genotype).startswith("Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ")
    assert str(genotype).endswith("concat=range(1, 9))")
    assert genotype.operations() == {"sigmoid": 2, "relu": 3, "identity": 1, "tanh": 1} | {"tanh": 2}
    assert (
        Recurrent().parse(
            "Genotype(recurrent=[['sigmoid', 0], ('relu', 1), ('relu', 1), ('identity', 1), "
            "('tanh', 2), ('sigmoid', 5), ('tanh', 3), ('relu', 5)], "
            "concat=[1, 2, 3, 4, 5, 6, 7, 8])"
        )
        == genotype
    )


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("Genotype(recurrent=[('relu', 0)], concat=range(1, 2))", "has 1 node,"),
        ("Genotype(recurrent=[('relu', 1)], concat=range(1, 2))", "is not an earlier node"),
        ("Genotype(recurrent=[('none', 0)], concat=range(1, 2))", "cannot be selected"),
        ("Genotype(recurrent=[('relu', 0), ('relu', 0)], concat=[2])", "combine nodes 1 to 2"),
        ("Genotype(recurrent=[], concat=[])", "has no .operation, predecessor. pairs|has no list 'recurrent'"),
        ("DARTS_V3", "no published cell"),
        ("DARTS_V2", "a cell of the space darts"),
        ("Genotype(normal=[], reduce=[])", "has no .operation, predecessor. pairs|has no list 'recurrent'"),
    ],
)
def test_faults_of_a_genotype_are_reported(given: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        Recurrent().parse(given)


@pytest.mark.parametrize("names", [("none",), ("tanh", "tanh"), (), ("sine",)])
def test_operations_without_a_choice_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"space\.operations"):
        Recurrent(operations=names)


# --------------------------------------------------------------------------------------------------------- networks
def compared(
    logits: Logits, found: tuple[Tensor, Tensor, Tensor], rates: Regularizers | None, leaves: Sequence[Tensor]
) -> None:
    """Scores, state, penalty and all gradients of a mixed objective are those of the reference."""
    scores, states, seen = found
    close(logits.main, scores.flatten(0, 1))
    assert logits.state is not None
    close(logits.state, states[:, -1])
    penalty = torch.zeros((), dtype=torch.float64)
    if not rates:
        assert logits.penalty is None
    else:
        penalty = rates.activation * (seen**2).mean() + rates.slowness * ((states[:, 1:] - states[:, :-1]) ** 2).mean()
        assert logits.penalty is not None
        close(logits.penalty, penalty)
    y = torch.randint(WORDS, (N * STEPS,), generator=generator(3))
    ours = torch.nn.functional.cross_entropy(logits.main, y) + (logits.penalty if rates else 0)
    theirs = -scores.flatten(0, 1).log_softmax(1)[torch.arange(len(y)), y].mean() + penalty
    for x, y in zip(*(torch.autograd.grad(loss, leaves) for loss in (ours, theirs)), strict=True):
        close(x, y, 1e-10)


@pytest.mark.parametrize("rates", [None, Regularizers(), RATES], ids=["plain", "zero", "all"])
@pytest.mark.parametrize("naive", [False, True])
def test_supernet_equals_the_reference(naive: bool, rates: Regularizers | None) -> None:
    net, mix, x = supernet(naive=naive), mixture(), text()
    state = torch.randn(N, 5, generator=generator(4), dtype=torch.float64)
    drawn = masks(rates or Regularizers(), 7)
    found = ref.scores(
        x, weights(net), lambda word, h: ref.relaxed(word, h, weights(net), mix[0], OPERATIONS, drawn), state, drawn
    )
    logits = net(x, {"recurrent": mix}, state=state, regularizers=rates, gen=generator(7))
    compared(logits, found, rates, [*net.parameters(), mix])


@pytest.mark.parametrize("rates", [None, RATES], ids=["plain", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_network_equals_the_reference(seed: int, rates: Regularizers | None) -> None:
    genotype = SPACE.sample(generator(seed))
    net, x, drawn = network(genotype), text(), masks(rates or Regularizers(), 7)
    found = ref.scores(
        x,
        weights(net),
        lambda word, h: ref.discrete(word, h, weights(net), genotype.nodes, drawn),
        torch.zeros(N, 5, dtype=torch.float64),
        drawn,
    )
    compared(net(x, regularizers=rates, gen=generator(7)), found, rates, list(net.parameters()))


@pytest.mark.parametrize("naive", [False, True])
def test_supernet_at_a_one_hot_mixture_is_the_network_without_norms(naive: bool) -> None:
    net, x = supernet(naive=naive), text()
    net.cell.norm = torch.nn.Identity()
    for seed in range(5):
        genotype = SPACE.sample(generator(seed))
        plain = network(genotype)
        with torch.no_grad():
            for ours, theirs in zip(plain.parameters(), net.parameters(), strict=True):
                ours.copy_(theirs)
        one_hot = {k: v.double() for k, v in SPACE.encode(genotype).items()}
        close(net(x, one_hot).main, plain(x).main)


def test_dropout_and_penalty_are_for_training_and_follow_the_generator() -> None:
    net, mix, x = supernet(), {"recurrent": mixture().detach()}, text()
    first, again, other = (net(x, mix, regularizers=RATES, gen=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.main, again.main)
    assert not torch.equal(first.main, other.main)
    plain = net(x, mix)
    assert plain.penalty is None
    net.eval()
    quiet = net(x, mix, regularizers=RATES, gen=generator(1))
    assert quiet.penalty is None
    assert torch.equal(quiet.main, plain.main)


def test_a_segment_of_one_word_has_no_slowness() -> None:
    net, rates = supernet(), Regularizers(slowness=1.0)
    logits = net(text(steps=1), {"recurrent": mixture()}, regularizers=rates, gen=generator(1))
    assert logits.penalty is not None
    assert float(logits.penalty.detach()) == 0.0


@pytest.mark.parametrize("cuts", [(2, 4), (1, 1, 1, 1, 1, 1), (5, 1)])
def test_handing_the_state_on_reads_the_text_unbroken(cuts: tuple[int, ...]) -> None:
    """Values, of both networks; gradients stop at the borders by the caller's choice alone."""
    mix, x = {"recurrent": mixture()}, text()
    for net, given in ((supernet(), (mix,)), (network(SPACE.sample(generator(5))), ())):
        whole, state, parts = net(x, *given), None, []
        for segment in x.split(list(cuts), 1):
            logits = net(segment, *given, state=state)
            state = logits.state
            parts.append(logits.main.view(N, -1, WORDS))
        close(torch.cat(parts, 1).flatten(0, 1), whole.main)
        close(state, whole.state)


def test_image_settings_are_refused() -> None:
    genotype, net = SPACE.sample(generator(0)), supernet()
    for settings in ({"stem": "imagenet"}, {"auxiliary": True}, {"layers": 3}):
        with pytest.raises(UserError):
            SPACE.network(genotype, 10, **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="drop_path"):
        net(text(), {"recurrent": mixture()}, drop_path=0.1)


@pytest.mark.parametrize("how", ["checkpoint", "compile"])
@pytest.mark.slow
def test_wrapped_cells_give_the_same_numbers(how: str) -> None:
    from nasx.spaces.activation_checkpointing import recompute
    from nasx.spaces.blocks import wrap

    plain, other, mix, x = supernet(), supernet(), mixture(), text()
    if how == "checkpoint":
        recompute(other)
    else:
        wrap(other, lambda body: torch.compile(body, backend="aot_eager", fullgraph=True, dynamic=False))
    losses = [
        net(x, {"recurrent": mix}, regularizers=RATES, gen=generator(3)).main.square().sum() for net in (plain, other)
    ]
    close(*losses)
    for one, two in zip(
        *(
            torch.autograd.grad(loss, [*net.parameters(), mix])
            for loss, net in zip(losses, (plain, other), strict=True)
        ),
        strict=True,
    ):
        close(one, two, 1e-10)
