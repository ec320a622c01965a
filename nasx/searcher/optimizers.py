"""The optimizers of a search, with the settings of its protocol."""

from __future__ import annotations

import torch

from nasx.config.settings import SearchSettings
from nasx.core.trees import Tree


def weight_optimizer(w: Tree, settings: SearchSettings) -> torch.optim.SGD:
    """Return the optimizer of the weights: SGD with momentum."""
    return torch.optim.SGD(
        list(w.values()),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=on_cuda(w) or None,
    )


def architecture_optimizer(a: Tree, settings: SearchSettings) -> torch.optim.Optimizer:
    """Return the optimizer of the architecture parameters: Adam, or SGD as in ablations of Single-DARTS."""
    if settings.arch_optimizer == "sgd":
        return torch.optim.SGD(
            list(a.values()),
            lr=settings.arch_lr,
            momentum=settings.arch_momentum,
            weight_decay=settings.arch_weight_decay,
        )
    beta1, beta2 = settings.arch_betas
    return torch.optim.Adam(
        list(a.values()),
        lr=settings.arch_lr,
        betas=(beta1, beta2),
        weight_decay=settings.arch_weight_decay,
        fused=on_cuda(a) or None,
        capturable=on_cuda(a),
    )


def on_cuda(tree: Tree) -> bool:
    """Return whether all tensors are on a GPU, as fused and capturable optimizers require."""
    return all(x.is_cuda for x in tree.values())
