"""Language models that read text word by word: embedding, one recurrent cell, and a decoder tied to the embedding.

    e_t = E[x_t],  h_t = cell(e_t, h_{t-1}),  scores_t = E h_t + b                    E (words, width), tied

Training applies dropout at rates given by the caller: to whole words in E (`embedding`); then, with one mask for all
steps (locked or variational dropout), to e_t (`input`), to e_t and every state inside the cell (`x`, `hidden`), and to
h_t before the decoder (`output`). All masks are drawn from `gen` in this order and scaled by 1 / (1 - rate).

`Logits.penalty` is added to the training loss: activation mean(drop(h)^2) + slowness mean((h_t - h_{t-1})^2).

Source: DARTS' released code, rnn/model.py and rnn/model_search.py, which follows AWD-LSTM (Merity et al. 2018): weights
are initialized uniformly in +-0.04, the decoder's bias to 0. Tied embedding: Inan et al. 2017.

Shapes: x (n, steps) word indices, state (n, width) or None for zeros; scores (n * steps, words), ordered by item,
then by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Number, Tree
from nasx.spaces.base import Logits, Network, Supernet
from nasx.spaces.blocks import Cell
from nasx.spaces.cost import no_drop_path
from nasx.spaces.edge_operations import Norm

if TYPE_CHECKING:
    from nasx.core.regularizers import Regularizers
    from nasx.spaces.recurrent.genotype import RecurrentGenotype

SPREAD = 0.04
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
Step = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""(word embedding, state, mask for words, mask for states) -> next state."""


def uniform(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-SPREAD, SPREAD))


def times(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


class Masks(NamedTuple):
    """Dropout masks; None without dropout.

    Shapes: `embedding` (words, 1), `input` and `output` (n, 1, width), `x` and `hidden` (n, width).
    """

    embedding: Tensor | None = None
    input: Tensor | None = None
    x: Tensor | None = None
    hidden: Tensor | None = None
    output: Tensor | None = None


class Words(nn.Module):
    """Embedding and decoder with shared weights."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.weight = uniform(words, width)
        self.bias = nn.Parameter(torch.zeros(words))

    def read(
        self, x: Tensor, step: Step, state: Tensor | None, rates: Regularizers | None, gen: torch.Generator | None
    ) -> Logits:
        """Apply `step` to one word after another and return next-word scores; `rates` are used only in training."""
        masks = self.masks(len(x), rates, gen) if self.training and rates else Masks()
        inputs = times(F.embedding(x, times(self.weight, masks.embedding)), masks.input)
        h = torch.zeros_like(inputs[:, 0]) if state is None else state.to(inputs.dtype)
        found = []
        for word in inputs.unbind(1):
            h = step(word, h, masks.x, masks.hidden)
            found.append(h)
        states = torch.stack(found, 1)
        seen = times(states, masks.output)
        penalty = self.penalty(states, seen, rates) if self.training and rates else None
        return Logits(F.linear(seen, self.weight, self.bias).flatten(0, 1), penalty=penalty, state=h)

    def masks(self, n: int, rates: Regularizers, gen: torch.Generator | None) -> Masks:
        words, width = self.weight.shape

        def drawn(rate: float, *shape: int) -> Tensor | None:
            if not rate:
                return None
            kept = torch.empty(shape, dtype=self.weight.dtype, device=self.weight.device)
            return kept.bernoulli_(1 - rate, generator=gen) / (1 - rate)

        return Masks(
            drawn(rates.embedding, words, 1),
            drawn(rates.input, n, 1, width),
            drawn(rates.x, n, width),
            drawn(rates.hidden, n, width),
            drawn(rates.output, n, 1, width),
        )

    def penalty(self, states: Tensor, seen: Tensor, rates: Regularizers) -> Tensor:
        """Return the scalar penalty of the training loss; `seen` is `states` (n, steps, width) after output dropout."""
        slow = (states[:, 1:] - states[:, :-1]).square().mean() if states.size(1) > 1 else states.new_zeros(())
        return rates.activation * seen.square().mean() + rates.slowness * slow


def gated(first: Tensor, weight: Tensor, s: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return s + sigmoid(c) (activation(g) - s), where [c, g] = first @ weight."""
    c, g = (first @ weight).chunk(2, -1)
    return s + torch.sigmoid(c) * (activation(g) - s)


def entered(word: Tensor, h: Tensor, weight: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
    """Return the first state s_0 of a cell, given the word embedding and the previous state h."""
    return gated(torch.cat([times(word, x_mask), times(h, h_mask)], 1), weight, h, torch.tanh)


# ----------------------------------------------------------------------------------------------------- discrete
class RecurrentCell(nn.Module):
    """A discrete recurrent cell."""

    def __init__(self, genotype: RecurrentGenotype, width: int) -> None:
        super().__init__()
        self.pairs = genotype.nodes
        self.first = uniform(2 * width, 2 * width)
        self.nodes = nn.ParameterList([uniform(width, 2 * width) for _ in self.pairs])

    def forward(self, word: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
        states = [entered(word, h, self.first, x_mask, h_mask)]
        for weight, (name, source) in zip(self.nodes, self.pairs, strict=True):
            states.append(gated(times(states[source], h_mask), weight, states[source], ACTIVATIONS[name]))
        return torch.stack(states[1:]).mean(0)


class RecurrentNetwork(Network):
    """A language model built from one discrete cell."""

    def __init__(self, genotype: RecurrentGenotype, words: int, width: int) -> None:
        super().__init__()
        self.words = Words(words, width)
        self.cell = RecurrentCell(genotype, width)

    def forward(
        self,
        x: Tensor,
        *,
        drop_path: float = 0.0,
        gen: torch.Generator | None = None,
        state: Tensor | None = None,
        regularizers: Regularizers | None = None,
    ) -> Logits:
        no_drop_path(drop_path, "darts_rnn")
        return self.words.read(x, self.cell, state, regularizers, gen)


# ------------------------------------------------------------------------------------------------------ relaxed
class RelaxedRecurrentCell(Cell[Tensor]):
    """A relaxed recurrent cell with mixed edges.

    Edge biases (`Space.biased`) are ignored, because the batch norm after each node would cancel them.
    """

    def __init__(self, names: Sequence[tuple[int, str]], into: Sequence[slice], width: int, tracked: bool) -> None:
        """Build the cell. `names`: (mixture column, operation) pairs; `into`: slice of the edges into each node."""
        super().__init__()
        self.names, self.into = names, into
        self.first = uniform(2 * width, 2 * width)
        self.nodes = nn.ParameterList([uniform(width, 2 * width) for _ in self.into])
        self.norm = Norm(width, tracked=tracked)

    def body(
        self, word: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None, mix: Tensor, naive: bool
    ) -> Tensor:
        """Return the state after one word; `mix` has shape (edges, operations)."""
        node = self.single if naive else self.merged
        states = [self.norm(entered(word, h, self.first, x_mask, h_mask))]
        for weight, edges in zip(self.nodes, self.into, strict=True):
            states.append(self.norm(node(states, weight, mix[edges], h_mask)))
        return torch.stack(states[1:]).mean(0)

    def merged(self, states: list[Tensor], weight: Tensor, rows: Tensor, h_mask: Tensor | None) -> Tensor:
        """Compute a node with one product for all sources and one gate for all operations.

        Returns the sum over sources of p s + sigmoid(c) (sum_k p_k f_k(g) - p s), where p = sum_k p_k.
        """
        s = torch.stack(states)
        c, g = (times(s, h_mask) @ weight).chunk(2, -1)
        rows = rows[:, :, None, None]
        value = torch.stack([rows[:, k] * ACTIVATIONS[name](g) for k, name in self.names]).sum(0)
        kept = torch.stack([rows[:, k] for k, _ in self.names]).sum(0) * s
        return (kept + torch.sigmoid(c) * (value - kept)).sum(0)

    def single(self, states: list[Tensor], weight: Tensor, rows: Tensor, h_mask: Tensor | None) -> Tensor:
        """Compute a node edge by edge and operation by operation, directly from its definition."""
        return torch.stack(
            [
                row[k] * gated(times(s, h_mask), weight, s, ACTIVATIONS[name])
                for s, row in zip(states, rows.unbind(), strict=True)
                for k, name in self.names
            ]
        ).sum(0)


class RecurrentSupernet(Supernet):
    """A language model built from one relaxed cell."""

    def __init__(
        self,
        names: Sequence[tuple[int, str]],
        into: Sequence[slice],
        width: int,
        words: int,
        *,
        tracked: bool,
        naive: bool,
    ) -> None:
        super().__init__()
        self.naive = naive
        self.words = Words(words, width)
        self.cell = RelaxedRecurrentCell(names, into, width, tracked)

    def forward(
        self,
        x: Tensor,
        mix: Tree,
        *,
        drop_path: Number = 0.0,
        gen: torch.Generator | None = None,
        state: Tensor | None = None,
        regularizers: Regularizers | None = None,
    ) -> Logits:
        no_drop_path(drop_path, "darts_rnn")
        (rows,) = mix["recurrent"].unbind(0)

        def step(word: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
            return self.cell.run(word, h, x_mask, h_mask, rows, self.naive)

        return self.words.read(x, step, state, regularizers, gen)
