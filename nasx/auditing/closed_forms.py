"""A method's architecture gradient on closed forms: how far from exact, and what it is made of.

    exact      g = d/da L2 - M H^-1 v          H = d^2 L1 / dw^2,  M = d^2 L1 / da dw,  v = d/dw L2
    a method   g = c d/da L2 - M p(H) v        c should be 1; p(h), its response, replaces 1 / h

On a quadratic problem whose Hessian has distinct eigenvalues h_i, c and the p(h_i) follow from g by least squares:
there are more entries of `a` than unknowns, so that a remainder shows what is of another form. The response tells a
method from its faults: a negative one has the wrong sign, and one that differs from the stated one by a constant lacks
a factor. A gradient that fits at weights of an earlier step, and at none of the present one, is of stale weights.

Points of a step: the weights before each of its weight updates, at the architecture step, and one virtual step of SGD
from each (DARTS, second order). A method that never evaluates a validation batch (single level) is compared with the
gradients of the training loss at the same points, and with their sum (TSE-DARTS), also through the steps.

Derivatives are those of the loss at the method's own mixture (`Search.mixture`), so that samples of wrapping methods
count as part of the loss. Shapes: n weights, m architecture parameters; all vectors are flat, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nasx.auditing import problems
from nasx.auditing.findings import Finding, added
from nasx.auditing.problems import EARLY, LATE, ClosedForm, Moment, Quadratic, Scalar, Taken, copied, flat, unflat
from nasx.core.bilevel import Batch, Method, Outcome, Search, Tree, detached, gradient
from nasx.diagnostics.probes import compared

LR = 0.1
EIGENVALUES = (0.5, 0.8, 1.2, 1.9, 2.8, 4.0)
"""Of H. LR times the largest is 0.4, so that steps and series converge."""
STEPS = 3
PATH_STEPS = 50
"""Of the path on the scalar problem (nasx: enough to see whether it grows or falls)."""
TOLERANCE = 1e-6
"""Relative. Central differences are exact on these losses, up to rounding of about 1e-9 at a radius of 0.01."""
OWN = "nasx: rounding of central differences, tenfold and more"


# ------------------------------------------------------------------------------------------------------- observe
class Point(NamedTuple):
    """Weights and architecture at some moment."""

    w: Tree
    a: Tree


class Observed(NamedTuple):
    """The last architecture step of a few steps of a method."""

    taken: Taken
    train: Sequence[Batch]
    val: Batch
    within: list[Point]
    """Points of the step, the latest last, up to where the architecture moved."""
    earlier: list[Point]
    """Points of the steps before."""
    reads_val: bool


def observe(
    method: Method,
    problem: ClosedForm,
    *,
    steps: int = STEPS,
    moment: Moment = EARLY,
    w: Tree | None = None,
    a: Tree | None = None,
) -> Observed | None:
    """Steps of a method on a closed form by plain SGD; None if it takes no architecture step."""
    seen: set[int] = set()
    outcome = problem.outcome

    def watched(w: Tree, mix: Tree, batch: Batch, *, track: bool = False, evaluation: bool = False) -> Outcome:
        seen.add(batch.seed)
        return outcome(w, mix, batch, track=track, evaluation=evaluation)

    problem.outcome = watched  # type: ignore[method-assign]
    search = problems.search(problem, lr=LR, a_lr=0.1, w=w, a=a)
    moment.set(search)
    points: list[Point] = []
    for i in range(steps):
        first, visited = len(points), len(search.visited)
        points.append(Point(copied(search.w), copied(search.a)))
        train = [problems.train(1 + 100 * i + k) for k in range(method.train_batches)]
        val = problems.val(10_000 + i)
        taken = len(search.taken)
        method.step(search, train, val)
        points += [Point(w, points[first].a) for w in search.visited[visited:]]
    if len(search.taken) == taken:
        return None
    last = search.taken[taken]
    within = [*points[first : first + 1 + last.moved - visited], Point(last.w, last.a)]
    return Observed(last, train, val, within, points[:first], val.seed in seen)


# ------------------------------------------------------------------------------------------------------- explain
class Derivatives(NamedTuple):
    """d/da L2 (m,), v (n,), H (n, n) and M (m, n) at a point."""

    direct: Tensor
    v: Tensor
    H: Tensor
    M: Tensor


def derivatives(view: Search, at: Point, train: Batch, val: Batch, *, virtual: bool = False) -> Derivatives:
    """All that a hypergradient is made of; `virtual` takes those of L2 one plain step of SGD further."""
    w, a = (detached(copied(tree), requires_grad=True) for tree in at)
    loss = view.loss(w, a, train)
    slope = gradient(loss, w, create=True)
    rows = [(flat(gradient(s, w, retain=True)), flat(gradient(s, a, retain=True))) for s in entries(slope)]
    H, M = (torch.stack(own, dim=1) for own in zip(*rows, strict=True))
    if virtual:
        moved = flat(w) - view.lr * flat(slope)
        w = detached(unflat(moved, w), requires_grad=True)
    second = view.loss(w, a, val)
    return Derivatives(flat(gradient(second, a, retain=True)), flat(gradient(second, w)), H, M)


def first_order(view: Search, at: Point, batch: Batch) -> Tensor:
    """d/da of the loss on a batch (m,) at a point."""
    a = detached(at.a, requires_grad=True)
    return flat(gradient(view.loss(at.w, a, batch), a))


def through_steps(view: Search, at: Point, batches: Sequence[Batch]) -> Tensor:
    """d/da of the summed losses along plain steps of SGD on the batches, by autograd through the steps (m,)."""
    w, a = (detached(copied(tree), requires_grad=True) for tree in at)
    losses = []
    for batch in batches:
        losses.append(view.loss(w, a, batch))
        g = gradient(losses[-1], w, create=True)
        w = {k: x - view.lr * g[k] for k, x in w.items()}
    return flat(gradient(torch.stack(losses).sum(), a))


def entries(tree: Tree) -> Iterator[Tensor]:
    """Each entry of a tree as a 0-d tensor with its graph, zeros without one among them."""
    anchor = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for x in tree.values():
        for entry in x.reshape(-1):
            yield entry if entry.requires_grad else anchor * 0


def implicit(view: Search, at: Point, train: Batch, val: Batch) -> Tensor:
    """d/da L2 - M H^-1 v (m,): the exact hypergradient where the weights minimize L1."""
    d = derivatives(view, at, train, val)
    out: Tensor = d.direct - d.M @ torch.linalg.solve(d.H, d.v)
    return out


class Fit(NamedTuple):
    """c (), the response at each eigenvalue (n,), and the relative size of what neither explains."""

    c: float
    response: Tensor
    remainder: float


def fit(g: Tensor, d: Derivatives) -> Fit:
    """Coefficient and response of a gradient g (m,) by least squares."""
    _, basis = torch.linalg.eigh(d.H)
    return solved(g, [d.direct, *(-(d.M @ u) * (u @ d.v) for u in basis.T)])


def solved(g: Tensor, columns: Sequence[Tensor]) -> Fit:
    """First coefficient, the others, and the relative remainder of g as a combination of columns."""
    X = torch.stack(list(columns), dim=1)
    found = torch.linalg.lstsq(X, g, driver="gelsd").solution
    length = g.norm().clamp_min(torch.finfo(g.dtype).tiny)
    return Fit(float(found[0]), found[1:], float((X @ found - g).norm() / length))


def best_fit(seen: Observed, points: Sequence[Point]) -> Fit:
    """The fit with the least remainder over points and the virtual steps from them."""
    g, view = flat(seen.taken.g), seen.taken.view
    if not seen.reads_val:
        batches = {batch.seed: batch for batch in (seen.train[0], seen.train[-1])}.values()
        training = [first_order(view, at, batch) for at in points for batch in batches]
        passed_by = list(zip(points[1:-1], seen.train, strict=False))  # the points of T unrolled weight steps
        whole = [torch.stack([first_order(view, at, batch) for at, batch in passed_by]).sum(0)] if passed_by else []
        whole += [through_steps(view, points[0], seen.train)] if len(seen.train) > 1 else []
        fits = [solved(g, [column]) for column in (*training, *whole)]
    else:
        of = partial(derivatives, view, train=seen.train[-1], val=seen.val)
        fits = [fit(g, of(at, virtual=virtual)) for at in points for virtual in (False, True)]
    return min(fits, key=lambda each: each.remainder if each.remainder > TOLERANCE else abs(each.c - 1) * TOLERANCE)


def path(method: Method, *, steps: int = PATH_STEPS) -> list[float]:
    """The architecture parameter of the scalar problem before and after each of `steps` steps, all of rate LR.

    The toy of Amended-DARTS, figure 4: the outer objective is a^2, so that the optimum is 0. Ends before an overflow.
    """
    search = problems.search(Scalar(), lr=LR, a_lr=LR)
    EARLY.set(search)
    found = [float(search.a["a"].detach())]
    for i in range(steps):
        batches = [problems.train(1 + 100 * i + k) for k in range(method.train_batches)]
        method.step(search, batches, problems.val(10_000 + i))
        a = float(search.a["a"].detach())
        if not abs(a) < 1e100:
            break
        found.append(a)
    return found


# -------------------------------------------------------------------------------------------------------- checks
def problem() -> Quadratic:
    """The drawn problem of the audit: 6 weights, 12 architecture parameters."""
    return Quadratic.drawn(torch.tensor(EIGENVALUES, dtype=torch.float64), edges=4, operations=3)


def exactness(build: Callable[[], Method]) -> Iterator[Finding]:
    """Cosine and relative difference to the exact hypergradient at the minimizer of L1, on each closed form."""
    forms: dict[str, ClosedForm] = {"scalar": Scalar(), "quadratic": Quadratic(), "drawn quadratic": problem()}
    for name, own in forms.items():
        w = own.w_star() if isinstance(own, Quadratic) else own.w0()
        seen = observe(build(), own, steps=1, w=w)
        if seen is None:
            return
        g = flat(seen.taken.g)
        e = implicit(seen.taken.view, Point(seen.taken.w, seen.taken.a), seen.train[-1], seen.val)
        if float(e.norm()) > TOLERANCE:  # a softmax over the scalar problem's one operation is constant
            yield against(f"exact ({name})", {"g": g}, {"g": e}, "the exact hypergradient")


def toy(build: Callable[[], Method]) -> Iterator[Finding]:
    """The path on the scalar problem, if it moves (a mixture of one operation by softmax does not)."""
    found = path(build())
    if len(set(found)) > 1:
        nearer = abs(found[-1]) < abs(found[0])
        said = "towards" if nearer else "away from"
        text = f"a goes from {found[0]:g} to {found[-1]:.3g} in {len(found) - 1} steps, {said} the optimum 0"
        yield Finding("toy", "note", text, {"a": found}, "Amended-DARTS, figure 4: L = (w x - a)^2")


def against(check: str, g: Tree, e: Tree, what: str) -> Finding:
    """Cosine and relative difference of a gradient to another one."""
    cosine, norm, difference = compared(g, e).tolist()
    text = f"cosine {cosine:.3f} and relative difference {difference:.3g} to {what}"
    return Finding(check, "note", text, {"cosine": cosine, "norm": norm, "difference": difference})


def composition(method: Method, moment: Moment = EARLY) -> Iterator[Finding]:
    """Check sign, factor, point and response of the gradient."""
    own = problem()
    seen = observe(method, own, moment=moment, a=method.start(own.a0()))
    if seen is None:
        yield Finding("gradient", "note", "the method takes no architecture step")
        return
    found = best_fit(seen, seen.within)
    of = "d/da L2" if seen.reads_val else "the gradient of the training loss (no validation batch is read)"
    if found.remainder > TOLERANCE:
        old = best_fit(seen, [*seen.earlier, *(at._replace(a=seen.taken.a) for at in seen.earlier)])
        if old.remainder <= TOLERANCE:
            text = (
                f"the gradient is that at the weights of an earlier step (remainder {old.remainder:.1e}), not at those"
            )
            text += f" of its own ({found.remainder:.1e})"
            values = {"remainder": found.remainder, "earlier": old.remainder}
            yield Finding("stale weights", "fail", text, values, OWN)
            return
        text = f"the update is not a multiple of {of}: "
        text += f"{100 * found.remainder:.3g} % of it is of another form than c d/da L2 - M p(H) v"
        yield Finding("gradient", "note", text, {"remainder": found.remainder})
        return
    yield Finding("stale weights", "pass", f"taken at the weights of its own step (remainder {found.remainder:.1e})")
    yield from coefficient(found.c, of)
    if seen.reads_val:
        yield from responses(method, found.response)


def coefficient(c: float, of: str) -> Iterator[Finding]:
    """Sign and size of the first-order part."""
    if c < 0:
        yield Finding("sign", "fail", f"{c:.4g} times {of}: it goes uphill", {"coefficient": c}, OWN)
    elif abs(c - 1) > TOLERANCE:
        yield Finding("factor", "fail", f"{c:.4g} times {of}, instead of once", {"coefficient": c}, OWN)
    else:
        yield Finding("first order", "pass", f"equal to {of}", {"coefficient": c}, OWN)


def responses(method: Method, p: Tensor) -> Iterator[Finding]:
    """The response p (n,) against the stated one, or against what helps at all where none is stated."""
    h = torch.tensor(EIGENVALUES, dtype=torch.float64)
    share, stated = p * h, method.response(h, LR)
    values = {"eigenvalues": h.tolist(), "response": p.tolist(), "exact": (1 / h).tolist()}
    shown = f"{100 * float(share.min()):.3g} to {100 * float(share.max()):.3g} % of the exact second-order term"
    if float(share.abs().max()) < TOLERANCE:
        shown = "no second-order term"
    if stated is not None:
        values["stated"] = stated.tolist()
        scale = stated.abs().max().clamp_min(float((1 / h).max()) * 1e-3)
        if float((p - stated).abs().max() / scale) <= TOLERANCE:
            yield Finding("response", "pass", f"as stated: {shown}", values, OWN)
            return
        ratio = float(p @ stated / (stated @ stated)) if bool(stated.any()) else 0.0
        if ratio and float((p - ratio * stated).abs().max()) <= TOLERANCE * abs(ratio) * float(scale):
            name = "sign" if ratio < 0 else "factor"
            hint = f" (1 / the learning rate {LR:g})" if abs(ratio * LR - 1) < TOLERANCE else ""
            yield Finding(name, "fail", f"the second-order term is {ratio:.4g} times the stated one{hint}", values, OWN)
            return
        yield Finding("response", "fail", f"not as stated: {shown}", values, OWN)
        return
    source = "nasx: beyond twice the exact term, or against it, no term at all would be closer"
    if float(share.max()) < -TOLERANCE:
        yield Finding("sign", "fail", f"the second-order term points the wrong way: {shown}", values, source)
    elif float((share - 1).abs().max()) > 1 + TOLERANCE:
        yield Finding("factor", "fail", f"the second-order term is too long: {shown}", values, source)
    else:
        yield Finding("response", "pass", f"{shown} (none stated)", values, source)


def audit(build: Callable[[], Method]) -> list[Finding]:
    """Run all checks on closed forms. `build` makes a new method for each problem."""
    found = [*exactness(build), *toy(build), *composition(build())]
    return [*found, *added(found, composition(build(), LATE), LATE.progress)]
