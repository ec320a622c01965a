"""Warm start of a search from a search on a wider space: kept operations retain their weights and optimizer states.

Supernets merge the weights of an operation on all edges that leave a node, so a warm start selects the kept edges from
merged tensors. If operations receive more channels than before (partial channels with a smaller K), each new channel
starts as a copy of an old one. Momentum is copied with the weights, Adam's moments with the architecture parameters.

Source: DrNAS (Chen et al. 2021), section 4.2, and its released code (net2wider.py, configure_optimizer).

Deviations
1. New channels are copies of the old ones in order; the released code selects them at random, layer by layer.
2. As in the released code, and unlike in Net2Net, copies are not divided by their number, because the new channels read
   other inputs.

Shapes: tensors of a bank (the merged operation of several edges) (edges * C, ...); architecture parameters
([cells,] edges, operations).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasx.core.bilevel import Search, Tree
from nasx.core.plain import Config, State
from nasx.spaces.base import Space
from nasx.spaces.mixed_cell import MixedEdges


class TensorSource(NamedTuple):
    """The source of a tensor in the old supernet: its name, the number of edges it merges (0: none), the kept edges."""

    name: str
    edges: int
    kept: list[int]


def warm_start(search: Search, supernet: nn.Module, space: Space, before: Space, state: State, classes: int) -> None:
    """Copy `state`, the last checkpoint of a search on the wider space `before`, into a search that is yet to start."""
    with torch.device("meta"):
        old = before.supernet(classes)
    live = {**search.w, **{k: x for k, x in supernet.named_buffers() if x.is_floating_point()}}
    origins = {name: found for name, found in sources(old, supernet) if name in live}
    with torch.no_grad():
        for name, x in transfer(origins, live, {**state["w"], **state["buffers"]}).items():
            live[name].copy_(x)
        for name, x in search.a.items():
            x.copy_(select_operations(before, space, name, state["a"][name]))
    for key, tree in moments(state["w_opt"], state["w"]).items():
        for name, x in transfer(origins, search.w, tree).items():
            search.w_opt.state[search.w[name]][key] = x.to(search.w[name], copy=True)
    for key, tree in moments(state["a_opt"], state["a"]).items():
        for name, x in tree.items():
            kept = x if x.shape != state["a"][name].shape else select_operations(before, space, name, x)
            search.a_opt.state[search.a[name]][key] = kept.to(search.a[name].device, copy=True)


def moments(saved: Config, tree: Tree) -> dict[str, Tree]:
    """Return the saved state of an optimizer, by kind (momentum_buffer, exp_avg, ...) and parameter name."""
    found: dict[str, Tree] = {}
    for i, name in enumerate(tree):
        for key, value in saved["state"].get(i, {}).items():
            if value is not None:
                found.setdefault(key, {})[name] = value
    return found


def select_operations(before: Space, space: Space, name: str, x: Tensor) -> Tensor:
    """Select the operations of `space` from the last axis of x ([cells,] edges, operations of `before`)."""
    lists = [each.edge_operations(name) for each in (before, space)]
    if "." in name or not lists[1]:  # weights of edges or of pairs of edges
        return x
    at = [[own.index(operation) for operation in row] for own, row in zip(*lists, strict=True)]
    return x.gather(-1, torch.tensor(at, device=x.device).expand(*x.shape[:-2], -1, -1))


def transfer(origins: Mapping[str, TensorSource], live: Mapping[str, Tensor], tree: Tree) -> Tree:
    """Convert a tree of the old supernet to the names and shapes of `live`; tensors without a source are omitted."""
    found = {}
    for name, (before, edges, kept) in origins.items():
        if before not in tree or name not in live:
            continue
        x, shape = tree[before], live[name].shape
        if edges:
            x, shape = x.unflatten(0, (edges, -1))[kept], live[name].unflatten(0, (len(kept), -1)).shape
        for axis, size in enumerate(shape):
            if x.shape[axis] != size:
                x = x.index_select(axis, torch.arange(size, device=x.device) % x.shape[axis])
        found[name] = x.flatten(0, 1) if edges else x
    return found


def sources(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, TensorSource]]:
    """Yield (name, source in `old`) for all parameters and buffers of `new`.

    The source of a bank's tensor is in the bank with the same operation. All other tensors keep their names; these may
    not exist in `old`.
    """
    former = {path: {operation(bundle, j): j for j in range(len(bundle.banks))} for path, bundle in bundles(old)}
    places = dict(bundles(old))
    within = set()
    for path, bundle in bundles(new):
        for i, bank in enumerate(bundle.banks):
            j = former[path][operation(bundle, i)]
            there = [local for local, _ in places[path].members[j]]
            kept = [there.index(local) for local, _ in bundle.members[i]]
            for rest, _ in (*bank.named_parameters(), *bank.named_buffers()):
                name = f"{path}.banks.{i}.{rest}"
                within.add(name)
                yield name, TensorSource(f"{path}.banks.{j}.{rest}", 0 if bank.plain else len(there), kept)
    for name, _ in (*new.named_parameters(), *new.named_buffers()):
        if name not in within:
            yield name, TensorSource(name, 0, [])


def operation(bundle: MixedEdges, i: int) -> str:
    """Return the name of the operation of bank `i` in a bundle."""
    local, column = bundle.members[i][0]
    return bundle.edges[local].operations[column]


def bundles(net: nn.Module) -> Iterator[tuple[str, MixedEdges]]:
    """Yield (name, bundle) for each bundle of edges in a supernet."""
    return ((name, module) for name, module in net.named_modules() if isinstance(module, MixedEdges))
