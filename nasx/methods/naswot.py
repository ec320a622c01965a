"""NASWOT: a score of how well a network distinguishes the images of a batch, from the signs of its ReLU inputs.

    c_i = the binary code of image i: for each value of each ReLU, whether it is above 0
    K_ij = number of ReLU values at which c_i and c_j agree;  score = log det K

If two images have equal codes, K is singular and the score is minus infinity.

Source: Mellor, Turner, Storkey, Crowley (2021), section 3; released code, score_networks.py (hook_logdet).
Cost per architecture: one forward pass.

ReLUs are detected as calls to torch's functions, whether or not a module makes the call.

Deviations
1. The batch has `search.batch` images (published: 128).
2. Every ReLU that runs counts, even if its result does not reach an output of the cell. The released code omits ReLUs
   that no gradient reaches; because its `none` passes a gradient of zeros, the two agree on NAS-Bench-201.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nasx.core.bilevel import Batch
from nasx.errors import UserError
from nasx.methods.zero_cost import ZeroCost


@dataclass(frozen=True, kw_only=True)
class Naswot(ZeroCost):
    """Selection of the best of `candidates` random architectures by the kernel of their ReLU codes."""

    @torch.no_grad()
    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        with Agreement() as seen:
            network(batch.x, gen=gen)
        if seen.kernel is None:
            raise UserError("method=naswot", "the networks of this space have no ReLU", "use another method")
        sign, logarithm = torch.linalg.slogdet(seen.kernel)
        return float(logarithm) if sign > 0 else float("-inf")


class Agreement(TorchFunctionMode):
    """Context manager that counts, for each pair of items, the ReLU values at which they agree.

    `kernel`: the counts, float64 (n, n) on the CPU; None if no ReLU has run.
    """

    kernel: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        found = func(*args, **(kwargs or {}))
        # torch.nn.functional.relu, torch.relu and Tensor.relu
        if getattr(func, "__name__", "") in ("relu", "relu_") and isinstance(found, Tensor):
            signs = (found.flatten(1) > 0).to(torch.float32) * 2 - 1
            agree = ((signs @ signs.T).double().cpu() + signs.size(1)) / 2  # whole numbers, exact up to 2^24 values
            self.kernel = agree if self.kernel is None else self.kernel + agree
        return found
