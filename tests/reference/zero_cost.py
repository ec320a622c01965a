"""Zero-cost scores as their papers define them, slow and obvious. Each takes a network as its space has initialized it.

`network(x, gen=gen).main` are its logits; `gen` is a new generator of the architecture's seed for each score.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn import functional as F


def layers(network: nn.Module) -> list[Any]:
    """The convolutions and linear layers."""
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def synflow(network: nn.Module, shape: tuple[int, ...], gen: torch.Generator) -> float:
    network = copy.deepcopy(network).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    for value in network.state_dict().values():
        value.abs_()
    network(torch.ones(1, *shape, dtype=torch.float64), gen=gen).main.sum().backward()
    total = 0.0
    for layer in layers(network):
        for w, g in zip(layer.weight.flatten().tolist(), flat(layer.weight.grad, layer.weight), strict=True):
            total += abs(w * g)
    return total


def flow(network: nn.Module, shape: tuple[int, ...]) -> float:
    """The same by leaving out each weight in turn: where R is linear in each, w dR/dw = R - R without w."""
    network = copy.deepcopy(network).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    for value in network.state_dict().values():
        value.abs_()
    ones, total = torch.ones(1, *shape, dtype=torch.float64), 0.0
    with torch.no_grad():
        whole = float(network(ones).main.sum())
        for layer in layers(network):
            w = layer.weight.view(-1)
            for i in range(len(w)):
                kept = w[i].clone()
                w[i] = 0.0
                total += whole - float(network(ones).main.sum())
                w[i] = kept
    return total


def flat(gradient: Tensor | None, like: Tensor) -> list[float]:
    return [0.0] * like.numel() if gradient is None else gradient.flatten().tolist()


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """What each ReLU is given within the block."""
    found: list[Tensor] = []
    relu = F.relu

    def spy(x: Tensor, inplace: bool = False) -> Tensor:
        found.append(x.detach().clone())
        return relu(x)

    F.relu = spy
    try:
        yield found
    finally:
        F.relu = relu


def naswot(network: nn.Module, x: Tensor, gen: torch.Generator) -> float:
    with recorded() as seen:
        network(x, gen=gen)
    codes = [np.concatenate([(layer[i] > 0).flatten().numpy() for layer in seen]) for i in range(len(x))]
    kernel = [
        [float(sum(a == b for a, b in zip(one.tolist(), two.tolist(), strict=True))) for two in codes] for one in codes
    ]
    return float(np.linalg.slogdet(np.array(kernel))[1])


def snip(network: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> float:
    """Derivative of the loss by a mask of ones on the weights."""
    names = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    held = {f"{name}.weight": network.get_parameter(f"{name}.weight").detach() for name in names}
    masks = {name: torch.ones_like(w).requires_grad_() for name, w in held.items()}
    logits = functional_call(network, {name: masks[name] * w for name, w in held.items()}, (x,), {"gen": gen}).main
    loss = -F.log_softmax(logits, 1)[range(len(y)), y].mean()
    loss.backward()
    return sum(float(mask.grad.abs().sum()) for mask in masks.values() if mask.grad is not None)


def grasp(network: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> float:
    """The Hessian times the gradient by forward mode over reverse mode."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # batch statistics without running ones
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    names = [f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    w = {name: network.get_parameter(name).detach() for name in names}
    state = gen.get_state()

    def loss(w: dict[str, Tensor]) -> Tensor:
        gen.set_state(state)
        return F.cross_entropy(functional_call(network, w, (x,), {"gen": gen}).main, y)

    g = grad(loss)(w)
    _, moved = jvp(grad(loss), (w,), (g,))
    return -sum(float((w[name] * moved[name]).sum().detach()) for name in names)


def zen(network: nn.Module, shape: tuple[int, ...], gen: torch.Generator, gamma: float, repeats: int) -> float:
    """Gaussian weights, then x, then e are drawn from `gen`, then the noise of both passes."""
    scores = []
    for _ in range(repeats):
        for name, w in network.named_parameters():
            if name.endswith("weight") and w.ndim > 1:
                w.data = torch.empty_like(w.data).normal_(generator=gen)
        dtype = next(network.parameters()).dtype
        x = torch.empty(shape, dtype=dtype).normal_(generator=gen)
        e = torch.empty(shape, dtype=dtype).normal_(generator=gen)
        given: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda m, inputs, out, given=given: given.append(inputs[0].detach()))
            for m in network.modules()
            if isinstance(m, nn.BatchNorm2d)
        ]
        one = network.features(x, gen).detach()  # type: ignore[operator]
        for hook in hooks:
            hook.remove()
        two = network.features(x + gamma * e, gen).detach()  # type: ignore[operator]
        lengths = [float(np.sqrt(((a - b).numpy() ** 2).sum())) for a, b in zip(one, two, strict=True)]
        score = np.log(np.mean(lengths))
        for values in given:
            variances = [np.var(values[:, c].numpy()) for c in range(values.size(1))]
            if any(variances):
                score += np.log(np.sqrt(np.mean(variances)))
        scores.append(score)
    return float(np.mean(scores))
