"""Relaxed networks of every space: macro structure around the shared executor (bundle.py, banks.py).

All take the mixture as an argument and own no architecture parameter. Batch norm uses batch statistics and keeps no
buffers unless the space says `batch_norm=tracked`; a pass marked by `tracking` then moves the running ones.

Sources: DARTS (Liu et al. 2019) section 2 and appendix A; NAS-Bench-201 (Dong and Yang 2020) section 2.1;
NAS-Bench-1Shot1 (Zela et al. 2020) section 3. Shapes: x (n, 3, h, w) -> Logits (n, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Number
from nasx.spaces.banks import ConvNormReLU, Norm, Style, shifted, weight
from nasx.spaces.base import Logits, Supernet, Tree
from nasx.spaces.mixed_cell import Drawn, Edge, EdgeBundle, RelaxedCell

if TYPE_CHECKING:
    from nasx.spaces.darts.space import Darts
    from nasx.spaces.nb1shot1.space import Nb1Shot1
    from nasx.spaces.nb201.space import Nb201


@contextmanager
def tracking(supernet: nn.Module, on: bool) -> Iterator[None]:
    """Let running batch-norm statistics follow the passes inside the block, where the supernet keeps any."""
    norms = [m for m in supernet.modules() if isinstance(m, Norm) and m.tracked] if on else []
    for norm in norms:
        norm.tracking = True
    try:
        yield
    finally:
        for norm in norms:
            norm.tracking = False


@contextmanager
def evaluating(supernet: nn.Module, on: bool) -> Iterator[None]:
    """Eval mode inside the block where `on`: norms that keep running statistics normalize by them."""
    before = supernet.training
    if on:
        supernet.eval()
    try:
        yield
    finally:
        if on:
            supernet.train(before)


def wrap(supernet: nn.Module, how: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace how every cell is run: `how` takes a cell's body and returns one that gives the same values."""
    for cell in supernet.modules():
        if hasattr(cell, "run"):
            cell.run = how(cell.body)  # type: ignore[arg-type,assignment]


class ConvNorm(nn.Module):
    """[relu,] convolution, batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool, affine: bool,
                 tracked: bool) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        self.weight = weight(outputs, inputs, kernel)
        self.norm = Norm(outputs, affine=affine, tracked=tracked)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x) if self.relu else x
        return self.norm(F.conv2d(x, self.weight, stride=self.stride, padding=self.kernel // 2))


class FactorizedReduceNorm(nn.Module):
    """relu, two 1x1 stride-2 convolutions to half the channels (the second one pixel on), concat, batch norm."""

    def __init__(self, inputs: int, outputs: int, *, tracked: bool) -> None:
        super().__init__()
        self.weight1 = weight(outputs // 2, inputs, 1)
        self.weight2 = weight(outputs - outputs // 2, inputs, 1)
        self.norm = Norm(outputs, tracked=tracked)

    def forward(self, x: Tensor) -> Tensor:
        r = F.relu(x)
        return self.norm(torch.cat([F.conv2d(r, self.weight1, stride=2),
                                    F.conv2d(shifted(r), self.weight2, stride=2)], 1))


class Residual(nn.Module):
    """NAS-Bench-201's reduction block: two relu-conv-norm 3x3 (the first at stride 2), shortcut avgpool and 1x1."""

    def __init__(self, inputs: int, outputs: int, *, tracked: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, 2, relu=True, affine=True, tracked=tracked)
        self.conv2 = ConvNorm(outputs, outputs, 3, relu=True, affine=True, tracked=tracked)
        self.shortcut = weight(outputs, inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] % 2, x.shape[3] % 2  # odd maps: pad by repetition, as the network does (ops.py)
        pooled = F.avg_pool2d(F.pad(x, (0, w, 0, h), mode="replicate") if h or w else x, 2)
        return self.conv2(self.conv1(x)) + F.conv2d(pooled, self.shortcut)


class Ordered(nn.Module):
    """Brings a mixture (cells, edges, operations) into the executor's edge order, one kernel for all cells.

    Leaves out the first `skip` operations: a leading `none` is never computed, and its gradient is zero.
    """

    def __init__(self, order: Sequence[int], skip: int = 0) -> None:
        super().__init__()
        self.skip = skip
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)

    def forward(self, mix: Tensor) -> tuple[Tensor, ...]:
        return self.sort(mix)[..., self.skip:].unbind(0)

    def sort(self, mix: Tensor) -> Tensor:
        """(cells, edges, ...) in the executor's order."""
        return mix.index_select(1, self.get_buffer("order"))

    def edges(self, mix: Tree, name: str, cells: int) -> Iterator[Tensor | None]:
        """One number for each edge of each cell, (edges,), from `mix[name]` (cells, 1, edges); None where it is absent.
        """
        return iter(self.sort(mix[name].squeeze(1)).unbind(0) if name in mix else [None] * cells)


class Nb201Supernet(Supernet):
    """NAS-Bench-201: stem, three stages of N relaxed cells with residual reductions between, norm-relu-pool-linear."""

    def __init__(self, space: Nb201, classes: int, *, naive: bool = False) -> None:
        super().__init__()
        self.naive = naive
        tracked, c = space.batch_norm == "tracked", space.channels
        style = Style(tracked=tracked, affine=space.affine)
        lists = space.edge_operations("cell")
        skip = int(all(names[0] == "none" for names in lists))
        pairs = [(s, t) for t in range(1, 4) for s in range(t)]
        edges = [Edge(e, s, t, 1, names) for e, ((s, t), names) in enumerate(zip(pairs, lists, strict=True))]
        self.stem = ConvNorm(3, c, 3, relu=False, affine=True, tracked=tracked)
        self.cells = nn.ModuleList()
        self.reductions = nn.ModuleDict()
        for stage in range(3):
            if stage:
                self.reductions[str(len(self.cells))] = Residual(c, 2 * c, tracked=tracked)
                c *= 2
            for _ in range(space.layers):
                self.cells.append(RelaxedCell(edges, 1, 3, c, style, space.partial, skip))
        self.ordered = Ordered(self.cells[0].order, skip)  # type: ignore[arg-type]
        self.norm = Norm(c, affine=True, tracked=tracked)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor, mix: Tree, *, drop_path: Number = 0.0, skip_dropout: Number = 0.0,
                gen: torch.Generator | None = None) -> Logits:
        x = self.stem(x)
        shares, biases = (self.ordered.edges(mix, f"cell.{each}", len(self.cells)) for each in ("edge", "bias"))
        each_cell = zip(self.cells, self.ordered(mix["cell"]), shares, biases, strict=True)
        for i, (cell, rows, share, bias) in enumerate(each_cell):
            if str(i) in self.reductions:
                x = self.reductions[str(i)](x)
            x = cell([x], rows, share, drop_path, gen, self.naive, skip_dropout, bias)[-1]
        x = F.relu(self.norm(x)).mean((2, 3))
        return Logits(self.classifier(x))


class DartsSupernet(Supernet):
    """DARTS: stem, L relaxed two-input cells (reductions at L // 3 and 2 L // 3), pool, linear.

    Each cell's output concatenates its four nodes; both inputs pass a 1x1 preprocess (a factorized reduction where
    the cell before was a reduction). Serves S1-S4, PC-DARTS and untied cells: they differ in data, not here.
    """

    def __init__(self, space: Darts, classes: int, *, naive: bool = False) -> None:
        super().__init__()
        self.naive = naive
        tracked, c = space.batch_norm == "tracked", space.channels
        self.stem0, self.stem1, width, halved = stem(space.stem, c, tracked)
        before, last = width, width
        self.cells, self.pre0, self.pre1 = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.kinds: list[str] = [space.kind(i) for i in range(space.layers)]
        self.auxiliary: nn.Module | None = None
        pairs = [(s, t) for t in range(2, 6) for s in range(t)]
        skip = int(all(names[0] == "none" for kind in set(self.kinds) for names in space.edge_operations(kind)))
        for i, kind in enumerate(self.kinds):
            reduction = kind == "reduce"
            c = 2 * c if reduction else c
            self.pre0.append(FactorizedReduceNorm(before, c, tracked=tracked) if halved else
                             ConvNorm(before, c, 1, relu=True, affine=False, tracked=tracked))
            self.pre1.append(ConvNorm(last, c, 1, relu=True, affine=False, tracked=tracked))
            edges = [Edge(e, s, t, 2 if reduction and s < 2 else 1, tuple(names))
                     for e, ((s, t), names) in enumerate(zip(pairs, space.edge_operations(kind), strict=True))]
            self.cells.append(RelaxedCell(edges, 2, 4, c, Style(tracked=tracked, pool_norm=True), space.partial,
                                          skip))
            before, last, halved = last, 4 * c, reduction
            if space.auxiliary and i == 2 * space.layers // 3:
                self.auxiliary = space.auxiliary_head(last, classes)
        self.ordered = Ordered(self.cells[0].order, skip)  # type: ignore[arg-type]
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor, mix: Tree, *, drop_path: Number = 0.0, skip_dropout: Number = 0.0,
                gen: torch.Generator | None = None) -> Logits:
        rows: dict[str, Iterator[Tensor]] = {kind: iter(self.ordered(mix[kind])) for kind in set(self.kinds)}
        shares, biases = ({kind: self.ordered.edges(mix, f"{kind}.{each}", len(mix[kind])) for kind in rows}
                          for each in ("edge", "bias"))
        before = self.stem0(x)
        last = self.stem1(before)
        auxiliary = None
        for i, (kind, cell, pre0, pre1) in enumerate(zip(self.kinds, self.cells, self.pre0, self.pre1, strict=True)):
            nodes = cell([pre0(before), pre1(last)], next(rows[kind]), next(shares[kind]), drop_path, gen, self.naive,
                         skip_dropout, next(biases[kind]))
            before, last = last, torch.cat(nodes, 1)
            if self.auxiliary is not None and self.training and i == 2 * len(self.cells) // 3:
                auxiliary = self.auxiliary(last)
        return Logits(self.classifier(last.mean((2, 3))), auxiliary)


class ChoiceCell(nn.Module):
    """NAS-Bench-1Shot1's relaxed cell of B choice blocks.

    Block b sees its own projection of the cell's input and all earlier blocks, each scaled by its input weight
    (unscaled where the block has no choice of inputs), and applies a mixed operation. The output adds o_0 times a
    projection of the input to the concatenation of o_b times block b. All projections are one convolution.
    """

    def __init__(self, space: Nb1Shot1, inputs: int, channels: int, style: Style) -> None:
        super().__init__()
        self.blocks = space.blocks
        self.project = ConvNormReLU(2 * self.blocks, channels, kernel=1, style=style, inputs=inputs)
        self.bundles = nn.ModuleList([EdgeBundle([Edge(b, b, b, 1, tuple(space.operations))], channels, style)
                                      for b in range(self.blocks)])
        self.still: list[Drawn] = [(None, None)] * len(space.operations)  # nothing in this space is random
        self.run: Callable[..., Tensor] = self.body

    @property
    def node_modules(self) -> list[nn.Module]:
        """The modules that put out the cell's nodes; a cell without this puts them out itself."""
        return list(self.bundles)

    def projections(self, x: Tensor, naive: bool) -> list[Tensor]:
        """The input as each block sees it (B times C channels), and the output's own (B C channels)."""
        if naive:
            pieces = [self.project.single(x, i, None) for i in range(2 * self.blocks)]
        else:
            pieces = list(self.project.value(x).unbind(1))
        return [*pieces[:self.blocks], torch.cat(pieces[self.blocks:], 1)]

    def forward(self, x: Tensor, ops: Tensor, output: Tensor, inputs: Sequence[Tensor | None], naive: bool,
                bias: Tensor | None = None) -> Tensor:
        """`ops` (B, 3), `output` (B + 1,), `inputs[b]` (b + 1,) or None, `bias` (B,) of the blocks' results or None."""
        return self.run(x, ops, output, list(inputs), naive, bias)

    def body(self, x: Tensor, ops: Tensor, output: Tensor, inputs: list[Tensor | None], naive: bool,
             bias: Tensor | None = None) -> Tensor:
        *projected, direct = self.projections(x, naive)
        shares = output.unbind()
        nodes: list[Tensor] = []
        shifts = [None] * self.blocks if bias is None else bias.unbind()
        for bundle, seen, weights, rows, by in zip(self.bundles, projected, inputs, ops.split(1), shifts, strict=True):
            sources = [seen, *nodes]
            if weights is not None:
                sources = [s * p for s, p in zip(sources, weights.unbind(), strict=True)]
            node = bundle(sum(sources[1:], sources[0]), rows, self.still, naive)[0]
            nodes.append(node if by is None else node + by)
        return shares[0] * direct + torch.cat([s * node for s, node in zip(shares[1:], nodes, strict=True)], 1)


class Nb1Shot1Supernet(Supernet):
    """NAS-Bench-1Shot1: stem, three stacks of choice cells with padded pooling between, projection, pool, linear."""

    def __init__(self, space: Nb1Shot1, classes: int, *, naive: bool = False) -> None:
        super().__init__()
        self.naive, self.inputs = naive, list(space.inputs.values())
        style = Style(tracked=space.batch_norm == "tracked", momentum=space.bn_momentum)
        c = width = space.channels
        self.stem = ConvNormReLU(1, c, kernel=3, style=style, inputs=3)
        self.down = (space.cells_per_stack, 2 * space.cells_per_stack)
        self.cells = nn.ModuleList()
        for i in range(space.layers):
            c = 2 * c if i in self.down else c
            self.cells.append(ChoiceCell(space, width, c, style))
            width = space.blocks * c
        self.last = ConvNorm(width, c, 1, relu=True, affine=False, tracked=style.tracked)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor, mix: Tree, *, drop_path: Number = 0.0, gen: torch.Generator | None = None) -> Logits:
        x = self.stem.value(x)[:, 0]  # as a slice of its weights, their gradient would lose their memory layout
        names = [mix[name].flatten(1).unbind(0) if name else [None] * len(self.cells) for name in self.inputs]
        biases = mix["ops.bias"].squeeze(1).unbind(0) if "ops.bias" in mix else [None] * len(self.cells)
        rows = zip(mix["ops"].unbind(0), mix["output"].flatten(1).unbind(0), zip(*names, strict=True), biases,
                   strict=True)
        for i, (cell, (ops, output, inputs, bias)) in enumerate(zip(self.cells, rows, strict=True)):
            if i in self.down:
                x = F.max_pool2d(x, 2, 2, 1)
            x = cell(x, ops, output, inputs, self.naive, bias)
        return Logits(self.classifier(self.last(x).mean((2, 3))))


def stem(kind: str, channels: int, tracked: bool) -> tuple[nn.Module, nn.Module, int, bool]:
    """Both input paths of cell 0, their width, and whether the first is twice as large as the second.

    cifar: 3x3 convolution to 3 C and norm, for both inputs. imagenet: 1/4 and 1/8 resolution at width 3 C (PC-DARTS'
    search network). single: three stride-2 convolutions, 1/8 resolution (Single-DARTS, section 5.1).
    """
    width = 3 * channels
    if kind == "cifar":
        return ConvNorm(3, width, 3, relu=False, affine=True, tracked=tracked), nn.Identity(), width, False
    half = [ConvNorm(3, width // 2, 3, 2, relu=False, affine=True, tracked=tracked),
            ConvNorm(width // 2, width, 3, 2, relu=True, affine=True, tracked=tracked)]
    third = ConvNorm(width, width, 3, 2, relu=True, affine=True, tracked=tracked)
    if kind == "imagenet":
        return nn.Sequential(*half), third, width, True
    if kind == "single":
        return nn.Sequential(*half, third), nn.Identity(), width, False
    raise ValueError(f"no stem {kind!r}")
