"""SynFlow: a score that measures the synaptic flow through a network, from its input to its outputs.

    R = sum of the outputs of the network with |w| for each weight, no batch norm, and an input of ones
    score = sum over the weights w of |w dR/dw|

Without batch norm, every operation in such a network is linear or a maximum (pooling), because ReLU has no negative
inputs. For a plain chain of L layers, R = 1' |W_L| ... |W_1| 1, and the terms of each layer add up to R: score = L R.

Source: Tanaka, Kunin, Yamins, Ganguli (2020), SynFlow (the saliency of a weight); Abdelfattah, Mehrotra, Dudziak, Lane
(2021), zero-cost proxy `synflow` (its sum as a score), and their released code, foresight/pruners.
Cost per architecture: one pass with a single image in float64. No image of the dataset is read.

Batch norm is removed, as in the measure `synflow` of that code (bn=False; `synflow_bn` keeps it). Normalization with
the statistics of one image would make values negative, so that ReLU would not be the identity and the flow into a layer
would differ from the flow out of it.

Deviations
1. The noise operation of S4 is not linear; its noise is drawn from the architecture's seed and added unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from nasx.core.bilevel import Batch
from nasx.methods.zero_cost import ZeroCost, weights


@dataclass(frozen=True, kw_only=True)
class Synflow(ZeroCost):
    """Selection of the best of `candidates` random architectures by synaptic flow."""

    sees: ClassVar[bool] = False

    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        network = without_norms(network).double()  # the flow of deep networks exceeds the range of float32
        with torch.no_grad():
            for x in network.parameters():
                x.abs_()
        flow = network(batch.x.new_ones(1, *batch.x.shape[1:], dtype=torch.float64), gen=gen).main.sum()
        w = weights(network)
        moved = torch.autograd.grad(flow, w, allow_unused=True, materialize_grads=True)
        return float(torch.stack([(x * g).abs().sum() for x, g in zip(w, moved, strict=True)]).sum().detach())


def without_norms(network: nn.Module) -> nn.Module:
    """Replace each batch norm in the network with the identity, in place, and return the network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return network
