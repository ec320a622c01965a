"""Agreement across cells and batches of gradients with respect to mixtures and nodes, and of operation outputs.

    operator gradients  g_l = d L / d p_l, with p_l the mixture weights of cell l
    alignment           mean of cos(g_l, g_l') over pairs of cells
    signed alignment    mean of g_l . g_l' / (|g_l| . |g_l'|) over pairs of cells
    second order        the alignments of g_l = d/dp_l L2(w1(P), P), where P contains the mixture weights of all cells
                        and w1(P) = w - lr (momentum * buffer + d L1/dw (w, P) + wd w) is a step on the training batch
    split               running mean of d L2 / d p of each operation, summed over edges and over the first or last cells
    correlation         1 / (N M) sum over j in val, k in train of (G_j . G_k) (X_j . X_k) at one node, with X the value
                        of the node for a sample and G = d L / d X the gradient of the sample's loss (N times its part
                        of the mean loss); for single-level search, both j and k are in train
    node cosine         mean of cos(d L / d x_j, d L / d x'_j) over nodes j and pairs of cells of one kind and shape
    output cosine       mean of cos(o(x), o'(x')) over pairs of cells, with x and o the input and operation of an edge
                        in one cell, x' and o' in the other: the similarity of the features that mixture weights scale

A pass does not compute merged operations separately. Hooks therefore record the inputs of each bundle of edges, and the
operations of the bundle are run afterwards, one at a time, so that only the outputs of one operation are in memory.

Sources: alignment, Lambda-DARTS section 3.2, eqs. 5 and 24; second order, eq. 20 and figure 5; split, figures 2 and 7;
node and output cosine, appendix A.2.2; correlation and operator gradients, Single-DARTS eq. 8, figure 2, section 5.2.2.

Deviations
1. The correlation is a sum over N x M Gram matrices. It equals <G_val' X_val, G_train' X_train>, an inner product of
   d x d matrices, but needs less memory if a node has more than a few hundred values.
2. Lambda-DARTS averages the alignment over all steps of an epoch and splits the gradients of all steps; nasx does so
   with search.diagnose_steps=1. By default, the alignment is that of one batch, and the split is not computed.
3. The split compares the first with the last third of the cells of a type: five cells each out of the fifteen cells of
   NAS-Bench-201, as in the paper's figure.
4. Eq. 20 is interpreted as the per-cell gradients of second-order DARTS; the weight step is that of its released code
   (heavy ball, unclipped), and the product is computed by double backward, not by finite differences.
5. The running sum (decay 0.999) is divided by 1 - 0.999^t, so that it is a mean from the first step on.

Shapes: mix and its gradients (cells, edges, operations); node values (n, C, h, w).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nasx.core.bilevel import Batch, Problem, Search, Tree, detached, gradient
from nasx.core.plain import State
from nasx.spaces.mixed_cell import MixedEdges

DECAY = 0.999
"""Decay of the running sum of the split (Lambda-DARTS, figure 2)."""
Names = Mapping[str, Sequence[Sequence[str]]]
"""The operations of each edge, by mixture name."""


# ------------------------------------------------------------------------------------------------------ one pass
class BundleInput(NamedTuple):
    """Recorded arguments of a bundle of edges: its input, and the noise of each operation (None: no noise)."""

    bundle: MixedEdges
    x: Tensor
    noise: list[Tensor | None]


class PassGradients(NamedTuple):
    """Results of one pass: the mixture gradients and, for each watched cell, the node values and per-sample node
    gradients, (n, D) each, and the recorded inputs of the cell's bundles."""

    mix: Tree
    values: list[list[Tensor]]
    slopes: list[list[Tensor]]
    heard: list[list[BundleInput]]


@contextmanager
def watching(cells: Sequence[nn.Module]) -> Iterator[tuple[list[list[Tensor]], list[list[BundleInput]]]]:
    """Record the nodes of each cell and the inputs of its bundles during a pass within the block.

    The modules that return the nodes are the cell's `node_modules` if it has this attribute, otherwise the cell itself.
    """
    nodes: list[list[Tensor]] = [[] for _ in cells]
    heard: list[list[BundleInput]] = [[] for _ in cells]

    def watch(i: int, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(lambda _, __, out: nodes[i].extend([out] if type(out) is Tensor else out))

    def listen(i: int, bundle: nn.Module) -> RemovableHandle:
        return bundle.register_forward_pre_hook(
            lambda module, given: heard[i].append(BundleInput(module, given[0].detach(), [own for own, _ in given[2]]))
        )

    hooks = [watch(i, module) for i, cell in enumerate(cells) for module in getattr(cell, "node_modules", [cell])]
    hooks += [listen(i, m) for i, cell in enumerate(cells) for m in cell.modules() if isinstance(m, MixedEdges)]
    try:
        yield nodes, heard
    finally:
        for hook in hooks:
            hook.remove()


def look(problem: Problem, w: Tree, mix: Tree, batch: Batch, cells: Sequence[nn.Module] = ()) -> PassGradients:
    """Compute the gradients of the loss on one batch with respect to the mixture and the nodes of `cells`.

    Cost: one forward and one backward pass.
    """
    leaves = detached(mix, requires_grad=True)
    with watching(cells) as (nodes, heard):
        loss = problem.outcome(detached(w), leaves, batch).loss
    flat = list(chain.from_iterable(nodes))
    found = torch.autograd.grad(loss, [*leaves.values(), *flat], allow_unused=True)
    zeros = [torch.zeros_like(x) if g is None else g for x, g in zip([*leaves.values(), *flat], found, strict=True)]
    own, rest = dict(zip(leaves, zeros, strict=False)), iter(zeros[len(leaves) :])
    slopes = [[next(rest).flatten(1) * len(batch.y) for _ in cell] for cell in nodes]
    return PassGradients(own, [[node.detach().flatten(1) for node in cell] for cell in nodes], slopes, heard)


def second_order(search: Search, mix: Tree, train: Batch, val: Batch) -> Tree:
    """Compute the gradients of L2 with respect to the mixture (cells, edges, operations) through one weight step.

    Cost: two forward and three backward passes, one of them through the first backward pass.
    """
    leaves, w = detached(mix, requires_grad=True), detached(search.w, requires_grad=True)
    g = gradient(search.problem.outcome(w, leaves, train).loss, w, create=True)
    w1 = search.virtual_step(g, train.rate, create=True)
    return gradient(search.problem.outcome(w1, leaves, val).loss, leaves)


# -------------------------------------------------------------------------------------------------------- layers
def pairwise(g: Tensor, *, signed: bool = False) -> Tensor | None:
    """Return the mean cosine or signed ratio () over pairs of rows of g (L, D); None for fewer than two rows."""
    layers = g.shape[0]
    if layers < 2:
        return None
    g = g.double()
    tiny = torch.finfo(g.dtype).tiny
    if signed:
        size = g.abs()
        ratio = (g @ g.T) / (size @ size.T).clamp_min(tiny)
    else:
        u = g / g.norm(dim=1, keepdim=True).clamp_min(tiny**0.5)
        ratio = u @ u.T
    return (ratio.sum() - ratio.diagonal().sum()) / (layers * (layers - 1))


def alignment(g: Tree, groups: Sequence[Sequence[str]], *, signed: bool = False) -> Tensor | None:
    """Return the alignment () of mixture gradients (cells, edges, operations) between cells, averaged over groups.

    Each group lists the mixtures of one cell type. Types with a single cell are omitted; None if no type remains.
    """
    found = [pairwise(torch.cat([g[name].flatten(1) for name in names], 1), signed=signed) for names in groups]
    known = [value for value in found if value is not None]
    return sum(known[1:], known[0]) / len(known) if known else None


def alignments(g: Tree, groups: Sequence[Sequence[str]], part: str) -> dict[str, Tensor | None]:
    """Return both alignments of gradients under their names in metrics rows; `part` is train, val or second."""
    return {f"alignment_{part}": alignment(g, groups), f"signed_{part}": alignment(g, groups, signed=True)}


def by_operation(g: Tree, names: Names) -> dict[str, dict[str, Tensor]]:
    """Return mixture gradients summed over edges: mixture name -> operation -> (cells,)."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, lists in names.items():
        sums = found.setdefault(name, {})
        for edge, own in zip(g[name].unbind(1), lists, strict=True):
            for operation, value in zip(own, edge.unbind(1), strict=True):
                sums[operation] = sums[operation] + value if operation in sums else value
    return found


class Running:
    """Accumulator of the split (a running sum over the whole search) and of the alignments (means over an epoch)."""

    def __init__(self, groups: Sequence[Sequence[str]], names: Names) -> None:
        self.groups, self.names = groups, names
        self.looks = 0
        self.split: dict[str, dict[str, Tensor]] = {}
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, train: Tree, val: Tree, second: Tree | None = None) -> None:
        """Add the mixture gradients on a training and a validation batch and, if given, the second-order gradients."""
        values = alignments(train, self.groups, "train") | alignments(val, self.groups, "val")
        values |= {} if second is None else alignments(second, self.groups, "second")
        self.sums = {
            name: self.sums[name] + value if name in self.sums else value
            for name, value in values.items()
            if value is not None
        }
        self.count, self.looks = self.count + 1, self.looks + 1
        for name, sums in by_operation(val, self.names).items():
            held = self.split.setdefault(name, {})
            for operation, g in sums.items():
                before = held.get(operation, torch.zeros_like(g, dtype=torch.float64))
                held[operation] = DECAY * before + (1 - DECAY) * g.double()

    def entries(self) -> dict[str, object]:
        """Return the means of this epoch, which are reset, and the split: name -> operation -> [first, last cells]."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        known, split = 1 - DECAY**self.looks, {}
        for name, sums in self.split.items():
            part = max(len(next(iter(sums.values()))) // 3, 1)
            split[name] = {
                operation: [float(g[:part].sum()) / known, float(g[-part:].sum()) / known]
                for operation, g in sums.items()
                if len(g) > 1
            }
        self.sums, self.count = {}, 0
        return {"over_steps": means, "split": {name: sums for name, sums in split.items() if sums}}

    def state(self) -> State:
        """Return the tensors and plain values from which `load` resumes."""
        return {"looks": self.looks, "split": self.split, "sums": self.sums, "count": self.count}

    def load(self, state: State) -> None:
        self.looks, self.split, self.sums, self.count = (state[key] for key in ("looks", "split", "sums", "count"))


# --------------------------------------------------------------------------------------------------------- nodes
def correlation(grad_val: Tensor, x_val: Tensor, grad_train: Tensor, x_train: Tensor) -> float:
    """Return 1/(N M) sum over j, k of (g_j . g_k) (x_j . x_k), given per-sample gradients and values (n, ...)."""
    g = grad_val.flatten(1).double() @ grad_train.flatten(1).double().T
    x = x_val.flatten(1).double() @ x_train.flatten(1).double().T
    return float((g * x).sum() / g.numel())


def correlations(one: PassGradients, other: PassGradients) -> dict[str, list[float]]:
    """Return the correlation between two passes for each node of the first, the middle and the last cell."""
    count = len(one.values)
    places = {"first": 0, "middle": count // 2, "last": count - 1}
    return {
        place: [
            correlation(*four)
            for four in zip(one.slopes[i], one.values[i], other.slopes[i], other.values[i], strict=True)
        ]
        for place, i in places.items()
    }


def stages(seen: PassGradients) -> list[list[int]]:
    """Return lists of the indices of cells with equal edges, operations and node shapes; single cells are omitted."""
    found: dict[object, list[int]] = {}
    for i, (nodes, heard) in enumerate(zip(seen.values, seen.heard, strict=True)):
        kind = tuple(own.bundle.edges for own in heard), tuple(node.shape for node in nodes)
        found.setdefault(kind, []).append(i)
    return [cells for cells in found.values() if len(cells) > 1]


def node_cosine(seen: PassGradients) -> list[float]:
    """Return the mean cosine of node gradients over pairs of cells and over nodes, for each stage."""
    found = []
    for cells in stages(seen):
        nodes = zip(*(seen.slopes[i] for i in cells), strict=True)
        found.append(_mean([value for same in nodes if (value := _cosine(same)) is not None]))
    return found


@torch.no_grad()
def output_cosine(seen: PassGradients) -> list[dict[str, float]]:
    """Return the mean cosine of each operation's outputs over pairs of cells and over edges, for each stage.

    Runs each operation once, with the current weights.
    """
    found: list[dict[str, float]] = []
    for cells in stages(seen):
        values: dict[str, list[float]] = {}
        for bundles in zip(*(seen.heard[i] for i in cells), strict=True):
            apart = (own.bundle.apart(own.x, [(noise, None) for noise in own.noise]) for own in bundles)
            for same in zip(*apart, strict=True):
                local, column, _ = same[0]
                name = bundles[0].bundle.edges[local].operations[column]
                if name != "noise" and (value := _cosine([y for _, _, y in same])) is not None:
                    values.setdefault(name, []).append(value)
        found.append({name: _mean(own) for name, own in sorted(values.items())})
    return found


def _cosine(tensors: Sequence[Tensor]) -> float | None:
    found = pairwise(torch.stack([x.flatten() for x in tensors]))
    return None if found is None else float(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
