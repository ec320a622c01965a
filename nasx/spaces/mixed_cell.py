"""Mixed edges and relaxed cells, shared by the supernets of all image spaces.

`MixedEdges` holds all edges that leave one node: each operation runs once for all of them, and the output of edge e,
sum_o mix[e, o] op_o(x), is added to the partial sum of its target node. `RelaxedCell` evaluates the nodes in order; a
node is complete once all its predecessors have contributed. `none` is never computed.

Shapes: states (n, C, h, w); mix (edges, operations); edge weights (edges,) if partial channels are used.
Source: DARTS (Liu et al. 2019), eq. 2; PC-DARTS (Xu et al. 2020), eqs. 1-2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Number, vanishes
from nasx.spaces import compiled_ops
from nasx.spaces.blocks import Cell
from nasx.spaces.edge_operations import EdgeOperations, Style, Wrapper
from nasx.spaces.operations import merge


class Edge(NamedTuple):
    """An edge from node `source` to node `target`, with its operations in order; `row` is its row in the mixture."""

    row: int
    source: int
    target: int
    stride: int
    operations: tuple[str, ...]


RandomTensors = tuple[Tensor | None, Tensor | None]
"""Random tensors of one operation for a pass: its noise (first axis E), and a mask that multiplies its output,
(n, E, 1, 1, 1) for drop-path or (n, E, C, h', w') for dropout on skip connections."""


def drop_mask(shape: tuple[int, ...], rate: Number, like: Tensor, gen: torch.Generator | None) -> Tensor:
    """Draw a dropout mask, Bernoulli(1 - rate) / (1 - rate), from `gen`."""
    keep = 1.0 - rate
    uniform = torch.rand(shape, device=like.device, dtype=like.dtype, generator=gen)
    return (uniform < keep).to(like.dtype) / keep


class MixedEdges(nn.Module):
    """All edges that leave one node, with a common stride and operations on `channels` channels.

    `forward` takes the mixture without its first `skip` columns, which no edge computes.
    """

    def __init__(self, edges: Sequence[Edge], channels: int, style: Style, skip: int = 0) -> None:
        super().__init__()
        self.edges, self.stride, self.skip = tuple(edges), edges[0].stride, skip
        members: dict[str, list[tuple[int, int]]] = {}
        for local, edge in enumerate(edges):
            for column, name in enumerate(edge.operations):
                if name != "none":
                    members.setdefault(name, []).append((local, column))
        self.members = list(members.values())
        banks = [merge(name, len(pairs), channels, self.stride, style) for name, pairs in members.items()]
        self.banks = nn.ModuleList(banks)
        self.rectifies = any(op.rectifies for op in banks)
        # Mixture column of an operation that is in the same column on every edge; None if its weights must be gathered.
        self.columns = [
            pairs[0][1] - skip if len({c for _, c in pairs}) == 1 and len(pairs) == len(edges) else None
            for pairs in self.members
        ]
        widest = max(len(edge.operations) for edge in edges) - skip
        for i, pairs in enumerate(self.members):
            self.register_buffer(f"pick{i}", torch.tensor([p * widest + c - skip for p, c in pairs]), persistent=False)
        # One product blends all operations without weights; its scales have shape (blended edges, operations).
        self.plain = [i for i, op in enumerate(banks) if op.plain]
        self.blended = tuple(sorted({p for i in self.plain for p, _ in self.members[i]}))
        absent = widest * len(edges)
        places = [[dict(self.members[i]).get(p) for i in self.plain] for p in self.blended]
        flat = [
            absent if c is None else p * widest + c - skip
            for p, row in zip(self.blended, places, strict=True)
            for c in row
        ]
        self.register_buffer("pick_plain", torch.tensor(flat, dtype=torch.int64), persistent=False)
        for i in self.plain:
            at = torch.tensor([self.blended.index(p) for p, _ in self.members[i]])
            self.register_buffer(f"place{i}", at, persistent=False)

    def scale(self, i: int, rows: Tensor, columns: Sequence[Tensor]) -> Tensor:
        """Return the mixture weights of operation i on its edges, from `rows` (E, operations) and their `columns`."""
        at = self.columns[i]
        return rows.flatten().index_select(0, self.get_buffer(f"pick{i}")) if at is None else columns[at]

    def draws(
        self, shape: torch.Size, like: Tensor, drop_path: Number, skip_dropout: Number, gen: torch.Generator | None
    ) -> list[RandomTensors]:
        """Draw the random tensors of each operation for a pass over an input of this shape.

        `drop_path` is the rate at which whole outputs are dropped, except for the identity; `skip_dropout` is the rate
        at which elements of the identity's output are dropped.
        """
        drawn = []
        for op in self.banks:
            assert isinstance(op, EdgeOperations)
            rate = skip_dropout if op.identity else drop_path
            size = (shape[0], op.edges, *(shape[1:] if op.identity else (1, 1, 1)))
            mask = None if vanishes(rate) else drop_mask(size, rate, like, gen)
            drawn.append((op.draw(shape, like, gen), mask))
        return drawn

    def forward(self, x: Tensor, rows: Tensor, drawn: list[RandomTensors], naive: bool = False) -> list[Tensor | None]:
        """Return each edge's weighted sum of operations, (n, C, h', w'); None for an edge that has only `none`.

        `rows` (E, operations) are the mixture weights, in the order of `edges`.
        """
        if naive:
            return self.edgewise(x, rows, drawn)
        out: list[Tensor | None] = [None] * len(self.edges)
        for where, y in self.merged(x, rows, drawn).items():
            for local, piece in zip(where, y.unbind(1), strict=True):
                out[local] = add(out[local], piece)
        return out

    def merged(self, x: Tensor, rows: Tensor, drawn: list[RandomTensors]) -> dict[tuple[int, ...], Tensor]:
        """Return partial sums over operations, (n, edges, C, h', w'), by their edges; an edge may be in several sums.

        Large cells compile this function. The sums are sliced outside it, because otherwise every kernel of the
        backward pass would have to assemble the gradients of the slices.
        """
        x = compiled_ops.dense(x) if compiled_ops.on_cpu(x) else x
        r = F.relu(x) if self.rectifies else x
        columns = rows.unbind(1)
        sums: dict[tuple[int, ...], Tensor] = {}
        # element-wise masks cannot be blended, because a scale applies to a whole map
        elements = any(mask is not None and mask.shape[2:].numel() > 1 for _, mask in drawn)
        # a compiler fuses the separate products itself
        blend = bool(self.plain) and not elements and not torch.compiler.is_compiling()
        if blend:
            sums[self.blended] = self.blend(x, rows, columns, [mask for _, mask in drawn])
        for i, (op, pairs, (noise, mask)) in enumerate(zip(self.banks, self.members, drawn, strict=True)):
            if blend and i in self.plain:
                continue
            y = op(x, r, self.scale(i, rows, columns), noise)
            if mask is not None:
                y = y * mask
            where = tuple(local for local, _ in pairs)
            sums[where] = sums[where] + y if where in sums else y
        return sums

    def blend(self, x: Tensor, rows: Tensor, columns: Sequence[Tensor], masks: list[Tensor | None]) -> Tensor:
        """Return the weighted sums of all `plain` operations, (n, blended edges, C, h', w'), as one product."""
        values = torch.stack([self.banks[i].value(x) for i in self.plain], 1)  # type: ignore[operator]
        n, k, shape = len(x), len(self.plain), values.shape[2:]
        if all(self.columns[i] is not None for i in self.plain):
            scales = torch.stack([columns[self.columns[i]] for i in self.plain], 1)  # type: ignore[index]
        else:
            padded = torch.cat([rows.flatten(), rows.new_zeros(1)])
            scales = padded.index_select(0, self.get_buffer("pick_plain")).view(-1, k)
        scales = scales.expand(n, -1, -1)
        if any(masks[i] is not None for i in self.plain):
            kept = torch.ones_like(scales)
            for column, i in enumerate(self.plain):
                if (mask := masks[i]) is not None:
                    kept[..., column].index_copy_(1, self.get_buffer(f"place{i}"), mask.flatten(1))
            scales = scales * kept
        out: Tensor = torch.bmm(scales, values.flatten(2)).unflatten(2, shape)
        return out

    def edgewise(self, x: Tensor, rows: Tensor, drawn: list[RandomTensors]) -> list[Tensor | None]:
        """Compute `forward` naively: edge by edge, operation by operation, with slices of the merged weights."""
        out: list[Tensor | None] = [None] * len(self.edges)
        for local, column, y in self.apart(x, drawn):
            out[local] = add(out[local], rows[local, column - self.skip] * y)
        return out

    def apart(self, x: Tensor, drawn: list[RandomTensors]) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (local edge, mixture column, unscaled output (n, C, h', w')) for each operation on each edge."""
        for local in range(len(self.edges)):
            for op, pairs, (noise, mask) in zip(self.banks, self.members, drawn, strict=True):
                assert isinstance(op, EdgeOperations)
                for i, (where, column) in enumerate(pairs):
                    if where == local:
                        y = op.single(x, i, noise)
                        yield local, column, y if mask is None else y * mask[:, i]


class RelaxedCell(Cell[list[Tensor]]):
    """A relaxed cell: a directed acyclic graph of mixed edges.

    It has `inputs` input nodes and `nodes` computed nodes. With `partial` = K, operations process the first C / K
    channels; the others bypass them (max-pooled at stride 2), scaled by the edge weights if there are any, and the
    channels are shuffled. `forward` draws the random tensors and calls `run`, which is `body` or a compiled or
    checkpointed version of `body`. All random tensors and mixture weights are arguments of `body`.
    """

    WHOLE = 8
    """Maximum number of edges in a cell that is compiled as a whole, which is 12% faster on NAS-Bench-201 (6 edges).
    In larger cells (DARTS: 14 edges), the edges that leave each node are compiled separately, so that nodes of the same
    width share graphs: compiling a supernet of 8 cells took 200 s, compared with over 9 minutes for whole cells."""

    def __init__(
        self,
        edges: Sequence[Edge],
        inputs: int,
        nodes: int,
        channels: int,
        style: Style,
        partial: int = 1,
        skip: int = 0,
        outputs: int = 0,
    ) -> None:
        super().__init__()
        self.inputs, self.nodes, self.partial, self.outputs = inputs, nodes, partial, outputs or nodes
        self.width = channels // partial
        by_source = [[e for e in edges if e.source == s] for s in range(inputs + nodes)]
        self.sources = [s for s, leaving in enumerate(by_source) if leaving]
        self.order = [e.row for leaving in by_source for e in leaving]
        bundles = [MixedEdges(by_source[s], self.width, style, skip) for s in self.sources]
        self.bundles, self.stride = nn.ModuleList(bundles), bundles[0].stride
        self.sizes = [len(by_source[s]) for s in self.sources]

    def wrap(self, how: Wrapper) -> None:
        if len(self.order) <= self.WHOLE:
            super().wrap(how)
            return
        for bundle in self.bundles:
            bundle.merged = how(bundle.merged)  # type: ignore[arg-type,assignment]

    def forward(
        self,
        inputs: Sequence[Tensor],
        mix: Tensor,
        edge_weights: Tensor | None = None,
        drop_path: Number = 0.0,
        gen: torch.Generator | None = None,
        naive: bool = False,
        skip_dropout: Number = 0.0,
        bias: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the outputs (n, C, h', w') of all computed nodes; if compiled, only of the last `outputs` nodes.

        `mix` (edges, operations without the first `skip`), `edge_weights` (edges,) and `bias` (edges,) are sorted by
        source node, as in `self.order`. The bias of an edge is added to every element of its output.
        """
        x = inputs[0]
        n, _, h, w = x.shape
        drawn = []
        for source, bundle in zip(self.sources, self.bundles, strict=True):
            assert isinstance(bundle, MixedEdges)
            half = self.stride if source >= self.inputs else 1
            size = torch.Size((n, self.width, -(-h // half), -(-w // half)))
            drawn.append(bundle.draws(size, x, drop_path, skip_dropout, gen))
        return self.run(list(inputs), mix, edge_weights, drawn, naive, bias)

    def body(
        self,
        inputs: list[Tensor],
        mix: Tensor,
        edge_weights: Tensor | None,
        drawn: list[list[RandomTensors]],
        naive: bool,
        bias: Tensor | None = None,
    ) -> list[Tensor]:
        states = list(inputs)
        pending: list[Tensor | None] = [None] * (self.inputs + self.nodes)
        passing: list[Tensor | None] = [None] * (self.inputs + self.nodes)
        leaving = zip(self.bundles, mix.split(self.sizes), drawn, strict=True)
        bundles = dict(zip(self.sources, leaving, strict=True))
        beta = {} if edge_weights is None else dict(zip(self.sources, edge_weights.split(self.sizes), strict=True))
        shifts = {} if bias is None else dict(zip(self.sources, bias.split(self.sizes), strict=True))
        for node in range(self.inputs + self.nodes):
            if node >= self.inputs:
                states.append(self.complete(pending[node], passing[node], states[0]))
            if node not in bundles:
                continue
            (bundle, rows, draws), x = bundles[node], states[node]
            assert isinstance(bundle, MixedEdges)
            seen = x[:, : self.width] if self.partial > 1 else x
            by = shifts[node].unbind() if shifts else [None] * len(bundle.edges)
            for edge, y, shift in zip(bundle.edges, bundle(seen, rows, draws, naive), by, strict=True):
                pending[edge.target] = add(pending[edge.target], y if y is None or shift is None else y + shift)
            if self.partial > 1:
                rest = x[:, self.width :]
                if bundle.stride == 2:
                    rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)  # odd sizes are rounded up, as in the operations
                shares = beta[node].unbind() if beta else [None] * len(bundle.edges)
                for edge, share in zip(bundle.edges, shares, strict=True):
                    passing[edge.target] = add(passing[edge.target], rest if share is None else rest * share)
        # in a compiled cell, nodes that nothing reads would add zero gradients; in an eager cell, hooks read all nodes
        return states[-self.outputs if torch.compiler.is_compiling() else self.inputs :]

    def complete(self, total: Tensor | None, passing: Tensor | None, like: Tensor) -> Tensor:
        """Combine the sums of a node into its output; with partial channels, concatenate and shuffle them."""
        if total is None:
            total = torch.zeros_like(like[:, : self.width])
        if passing is None:
            return total
        y = torch.cat([total, passing], 1)
        n, c, h, w = y.shape
        return y.view(n, self.partial, c // self.partial, h, w).transpose(1, 2).reshape(n, c, h, w)


def add(total: Tensor | None, y: Tensor | None) -> Tensor | None:
    if total is None or y is None:
        return y if total is None else total
    return total + y
