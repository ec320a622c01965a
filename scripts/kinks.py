"""Finite differences against double backward on CIFAR-10, by probe length: NASX_DATA=DIR python scripts/kinks.py.

A supernet of NAS-Bench-201 (one cell per stage, 16 channels), first-order DARTS on batches of 64, protocol v1, one
thread. Before the first update and after later ones, for each length: cosine with double backward and relative length,
means over batches, of M v and H v (probes of the weights) and of Lambda-DARTS' penalty (probes of the mixture). The
weights of a run do not depend on what is measured.
"""

from __future__ import annotations

import argparse
import os

import torch

from nasx.core.bilevel import Batch, Search, SecondDerivative, Tree, detached, dot, gradient, gradients, norm
from nasx.data.images import Cifar10
from nasx.methods.darts import Darts
from nasx.methods.lambda_ import Lambda
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.nb201.space import Nb201

Found = dict[str, list[tuple[float, float]]]
"""Name -> (cosine, relative length) of each probe length."""


def measured(search: Search, train: Batch, val: Batch, args: argparse.Namespace) -> Found:
    """Return the results of the probes of the chosen products on one batch."""
    w, mix = detached(search.w, requires_grad=True), detached(search.mixture(search.a, train), requires_grad=True)
    v, _ = gradients(search.outcome(w, search.a, val).loss, w, search.a)
    _, delta = Lambda().align(search, gradient(search.problem.outcome(w, mix, train).loss, mix))
    clean = detached(mix)
    products: dict[str, tuple[SecondDerivative, Tree]] = {
        "M v": (SecondDerivative(lambda w, a: search.loss(w, a, train), search.w, search.a), v),
        "H v": (SecondDerivative(lambda w: search.problem.outcome(w, clean, train).loss, search.w), v),
        "penalty": (
            SecondDerivative(lambda mix, w: search.problem.outcome(w, mix, train).loss, clean, search.w),
            delta,
        ),
    }
    found: Found = {}
    for name in args.products:
        second, direction = products[name]
        exact = second.exact(direction)
        for length in args.lengths:
            probe = second.central(direction, length)
            cosine, ratio = dot(probe, exact) / (norm(probe) * norm(exact)), norm(probe) / norm(exact)
            found.setdefault(name, []).append((float(cosine), float(ratio)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", nargs="+", default=["M v", "H v", "penalty"])
    parser.add_argument("--lengths", nargs="+", type=float, default=[1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
    parser.add_argument("--updates", nargs="+", type=int, default=[0, 60])
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, args.dtype)

    def cast(batch: Batch) -> Batch:
        return batch._replace(x=batch.x.to(dtype))

    data = Cifar10(path=os.environ["NASX_DATA"]).open("cpu")
    train, val = (
        data.stream(name, index, batch=64, seed=0) for name, index in zip(("w", "a"), data.split(0), strict=True)
    )
    torch.manual_seed(0)
    space = Nb201(layers=1)
    net = space.supernet(10).to(dtype)
    problem = RelaxedProblem(space, net, lambda logits: torch.softmax(logits, -1))
    w = weights(net)
    a = {k: x.to(dtype).requires_grad_() for k, x in space.init(torch.Generator().manual_seed(0)).items()}
    w_opt = torch.optim.SGD(w.values(), lr=0.025, momentum=0.9, nesterov=True, weight_decay=5e-4)
    search = Search(problem, w, a, w_opt, torch.optim.Adam(a.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3))
    print("| updates | product | length | cosine | relative length |\n|---|---|---|---|---|", flush=True)
    for updates in range(max(args.updates) + 1):
        if updates in args.updates:
            found = [
                measured(search, cast(train.at(10**5 + i)), cast(val.at(10**5 + i)), args) for i in range(args.batches)
            ]
            for name in args.products:
                for k, length in enumerate(args.lengths):
                    cosine, ratio = (sum(one[name][k][j] for one in found) / args.batches for j in (0, 1))
                    print(f"| {updates} | {name} | {length:g} | {cosine:.3f} | {ratio:.3g} |", flush=True)
        Darts(first="weights").step(search, [cast(next(train))], cast(next(val)))


if __name__ == "__main__":
    main()
