"""Memory layouts of gradients with channels_last: do they match those of the weights? runtime.py layout.py [--plant]

Fused optimizers need this (`trees.like` copies a gradient that differs). Steps run in FakeTensorMode on the CUDA
device, whose convolutions return the layouts of cuDNN. Strides of dimensions of length 1 are not compared. The last
line of the output contains the rows as JSON. `--plant` takes a slice of a weight, whose gradient is always contiguous.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from searches import DEVICE, SPACES, composed
from torch._subclasses.fake_tensor import FakeTensorMode

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Search, like
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.edge_operations import ConvNormReLU

WIDE = {"darts": ("space.layers=3", "space.channels=20")}
"""Widths at which separable convolutions are not composed."""


def moved(self: torch.nn.Module, *a: Any, memory_format: Any = None, **k: Any) -> torch.nn.Module:
    """Module.to(memory_format=...) for FakeTensorMode, whose parameters cannot be swapped in place."""
    for module in self.modules():
        for name, p in list(module._parameters.items()):
            if p is not None and p.dim() == 4:
                module._parameters[name] = torch.nn.Parameter(p.detach().contiguous(memory_format=memory_format))
    return self


def differing(on: str, words: tuple[str, ...], *, last: bool) -> dict[str, Any]:
    """Return the number of gradients in one step, and those whose layout differs from that of their weight."""
    space, method, settings = composed("method=darts", f"space={on}", *words)
    wrong: dict[str, str] = {}
    total = 0
    with FakeTensorMode(allow_non_fake_inputs=True):
        with DEVICE:
            net = space.supernet(10)
        problem = RelaxedProblem(space, net, method.activate, engine=EngineSettings(channels_last=last))
        problem.options = settings.options(1)
        a = {k: torch.zeros(s, device=DEVICE).requires_grad_() for k, s in space.shapes().items()}
        w = weights(net)
        search = Search(
            problem,
            w,
            a,
            torch.optim.SGD(w.values(), lr=0.1, momentum=0.9, foreach=True),
            torch.optim.Adam(a.values(), lr=3e-4),
            5.0,
        )
        search.epoch, search.epochs = 1, 3
        descend = search.descend_w

        def watched(g: Any, rate: Any = 1.0) -> None:
            nonlocal total
            for k, x in search.clip_gradient(g).items():
                total += 1
                if like(x, w[k]) is not x:
                    wrong[k] = f"{tuple(x.shape)}: {w[k].stride()}, gradient {x.stride()}"
            descend(g, rate)

        search.descend_w = watched  # type: ignore[method-assign]
        x = torch.empty(8, 3, 32, 32, device=DEVICE)
        if last:
            x = x.to(memory_format=torch.channels_last)
        made = [Batch(x, torch.zeros(8, dtype=torch.long, device=DEVICE), i) for i in range(2)]
        method.step(search, made[:1], made[1])
    return {"space": on, "words": words, "channels_last": last, "gradients": total, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plant", action="store_true")
    parser.add_argument("--few", action="store_true", help="one space of each kind")
    parser.add_argument("--contiguous", action="store_true", help="also without channels_last")
    args = parser.parse_args()
    torch.nn.Module.to = moved  # type: ignore[method-assign]
    cases = [(on, words) for on, words in SPACES.items() if on != "darts_rnn"] + list(WIDE.items())
    if args.few:
        cases = [case for case in cases if case[0] in ("nb201", "darts", "nb1shot1_1")]
    if args.plant:
        whole = ConvNormReLU.value
        ConvNormReLU.value = lambda self, x: (  # type: ignore[method-assign]
            self.single(x, 0, None).unsqueeze(1) if self.edges == 1 else whole(self, x)
        )
        cases = [("nb1shot1_1", SPACES["nb1shot1_1"])]
    rows = []
    for on, words in cases:
        for last in (True, False) if args.contiguous else (True,):
            rows.append(differing(on, words, last=last))
            print(rows[-1], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
