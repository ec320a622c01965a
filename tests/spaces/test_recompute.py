"""Activation checkpointing changes only memory: equal values, first and second derivatives, statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import agree
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.config import instantiate, paths
from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Method, frozen
from nasx.searcher.problem import RelaxedProblem
from nasx.spaces.activation_checkpointing import recompute
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.edge_operations import Norm
from nasx.spaces.mixed_cell import RelaxedCell
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb1shot1.supernet import ChoiceCell
from nasx.spaces.nb201.space import Nb201

import small

TWO = ("skip_connect", "sep_conv_3x3")
SPACES: dict[str, Space] = {
    "nb201": Nb201(layers=2, channels=4),
    "nb201 tracked": Nb201(layers=1, channels=4, batch_norm="tracked"),
    "darts": Darts(layers=4, channels=4),
    "s4": Darts(layers=4, channels=4, operations=("noise", "sep_conv_3x3")),
    "pc-darts": Darts(layers=4, channels=8, partial=4, edge_norm=True),
    "untied": Darts(layers=4, channels=4, operations=TWO, untied=True, edges="searched"),
    "nb1shot1": Nb1Shot1(variant=3, layers=3, channels=4, batch_norm="tracked"),
}
CHECKPOINTED = EngineSettings(checkpoint=True)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.sample(3)
def test_values_and_first_and_second_derivatives_are_the_same_bits(name: str, naive: bool) -> None:
    """Drop-path and noise included (DARTS spaces): what is random is drawn once for both runs of a cell."""
    space, data, found = SPACES[name], small.batch(1), []
    drop_path = 0.3 if isinstance(space, Darts) else 0.0
    for on in (False, True):
        net, mix = small.build(space, naive=naive), small.mixture(space, 2)
        net = recompute(net) if on else net
        leaves = [*net.parameters(), *mix.values()]
        out = net(data.x, mix, drop_path=drop_path, gen=torch.Generator().manual_seed(3)).main
        loss = F.cross_entropy(out, data.y)
        first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
        slope = sum((g * g.detach().cos()).sum() for g in first if g is not None)
        assert isinstance(slope, Tensor)
        second = torch.autograd.grad(slope, leaves, allow_unused=True)
        found.append([loss, *first, *second])
    assert any(g is not None and bool(g.any()) for g in found[0][1:])
    for x, y in zip(*found, strict=True):
        assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.sample(4)
def test_a_probe_at_other_weights_is_differentiated_there(name: str) -> None:
    """The second run happens when the live weights are back in place: it must see those of the probe."""
    space, found = SPACES[name], []
    for engine in (EngineSettings(), CHECKPOINTED):
        problem = RelaxedProblem(space, small.build(space), small.softmax, engine=engine)
        gen = torch.Generator().manual_seed(5)
        w = {
            k: (x.detach() + 0.1 * torch.randn(x.shape, generator=gen, dtype=x.dtype)).requires_grad_()
            for k, x in problem.supernet.named_parameters()
        }
        loss = problem.outcome(w, small.mixture(space, 2), small.batch(3)).loss
        with torch.no_grad():  # what the live weights do in between has no effect either
            for x in problem.supernet.parameters():
                x.zero_()
        found.append([loss, *torch.autograd.grad(loss, list(w.values()), allow_unused=True)])
    for x, y in zip(*found, strict=True):
        assert (x is None and y is None) or torch.equal(x, y)


def test_running_statistics_move_once() -> None:
    space, kept = SPACES["nb201 tracked"], []
    for engine in (EngineSettings(), CHECKPOINTED):
        problem = RelaxedProblem(space, small.build(space), small.softmax, engine=engine)
        w = dict(problem.supernet.named_parameters())
        for track in (True, False, True):
            loss = problem.outcome(w, small.mixture(space, 2), small.batch(3), track=track).loss
            torch.autograd.grad(loss, list(w.values()), retain_graph=True, allow_unused=True)
            torch.autograd.grad(loss, list(w.values()), allow_unused=True)  # a second backward pass, a third run
        norms = [m for m in problem.supernet.modules() if isinstance(m, Norm)]
        assert not [m for m in norms if m.tracking or m.momentum != 0.1]
        kept.append({k: x.clone() for k, x in problem.supernet.named_buffers()})
    assert agree.same(*kept)
    assert any(bool(x.any()) for k, x in kept[0].items() if k.endswith("mean"))


METHODS = sorted(file.stem for file in (paths.conf_dir() / "method").glob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.sample(3)
def test_methods_step_to_the_same_bits(name: str) -> None:
    method, ends = built(name), []
    if not method.trains:
        return
    for on in (False, True):
        search = agree.real_search("darts", momentum=0.9)
        search.epochs, problem = 3, search.problem
        assert isinstance(problem, RelaxedProblem)
        problem.activate, problem.options = method.activate, {"drop_path": 0.2}
        if on:
            recompute(problem.supernet)
        batches = [small.batch(seed, n=2, size=8) for seed in range(min(method.train_batches, 5))]
        for search.epoch in range(2):
            method.step(search, batches, agree.VAL)
        ends.append({**search.w, **{f"a {k}": x for k, x in search.a.items()}})
    assert agree.same(*ends)


def built(name: str) -> Method:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        cfg = compose("search", [f"method={name}", "space=darts"])
    found: Method = instantiate.build(OmegaConf.to_container(cfg.method, resolve=True))
    return found


@pytest.mark.slow
def test_hooks_and_copies_of_a_supernet_still_work() -> None:
    net, mix, data = recompute(small.build(SPACES["darts"])), small.mixture(SPACES["darts"]), small.batch(1)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for x in net.parameters():
            x.zero_()
    assert not net(data.x, mix).main.any()
    assert bool(twin(data.x, mix).main.any()), "the copy has weights of its own"
    assert net.state_dict().keys() == small.build(SPACES["darts"]).state_dict().keys()
    seen: list[object] = []
    cell = next(m for m in net.modules() if isinstance(m, RelaxedCell))
    cell.register_forward_hook(lambda *args: seen.append(args))
    net(data.x, mix).main.sum().backward()
    assert len(seen) == 1, "the second run calls no hook"


def test_no_second_run_without_gradients() -> None:
    problem = RelaxedProblem(SPACES["darts"], small.build(SPACES["darts"]), small.softmax, engine=CHECKPOINTED)
    w = dict(problem.supernet.named_parameters())
    with frozen(w), torch.no_grad():
        assert not problem.outcome(w, small.mixture(SPACES["darts"]), small.batch(1)).loss.requires_grad


# ---------------------------------------------------------------------------------------------------------- memory
def held(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass leaves in memory for the backward pass, the weights not counted.

    Tensors saved by autograd, and the inputs of the cells, which checkpointing holds outside autograd's books.
    """
    storages: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    def inputs(_: nn.Module, args: tuple) -> None:
        for x in args[0] if isinstance(args[0], list) else [args[0]]:
            note(x)

    cells = [m for m in net.modules() if isinstance(m, RelaxedCell | ChoiceCell)]
    hooks = [cell.register_forward_pre_hook(inputs) for cell in cells]
    alive = []  # a freed tensor's address may be given again
    with torch.autograd.graph.saved_tensors_hooks(lambda x: alive.append(x) or note(x), lambda x: x):
        loss = run()
    for hook in hooks:
        hook.remove()
    loss.backward()
    for x in net.parameters():
        storages.pop(x.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@pytest.mark.parametrize(("name", "share"), [("darts", 0.35), ("nb201", 0.5), ("nb1shot1", 0.5), ("untied", 0.5)])
def test_memory_falls(name: str, share: float) -> None:
    space, data, found = SPACES[name], small.batch(1, n=2, size=32), []
    for on in (False, True):
        net, mix = small.build(space), small.mixture(space, 2)
        net = recompute(net) if on else net
        found.append(held(net, lambda net=net, mix=mix: net(data.x, mix).main.sum()))  # type: ignore[misc]
    print(name, found[1] / found[0])
    assert found[1] < share * found[0]
