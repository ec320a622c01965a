"""Checks of a method's architecture gradient on closed-form problems: its error and its components.

    exact      g = d/da L2 - M H^-1 v          H = d^2 L1 / dw^2,  M = d^2 L1 / da dw,  v = d/dw L2
    a method   g = c d/da L2 - M p(H) v        c should be 1; p(h), the method's response, replaces 1 / h

On a quadratic problem whose Hessian has distinct eigenvalues h_i, c and the p(h_i) follow from g by least squares.
`a` has more entries than there are unknowns, so any part of another form leaves a remainder. The response reveals
faults of a method: a negative response means that the sign is wrong, and a constant multiple of the stated response
that a factor is wrong. A gradient that only fits the weights of an earlier step uses stale weights.

Points of a step: the weights before each of its weight updates, the weights at the architecture step, and one virtual
SGD step from each of them (second-order DARTS). If a method never evaluates a validation batch (single level), its
gradient is compared with the gradients of the training loss at the same points, with their sum (TSE-DARTS), and with
the gradient of the summed losses through the steps.

The loss is differentiated at the method's own mixture (`Search.mixture`), so the mixtures that a wrapper samples are
part of it. Shapes: n weights, m architecture parameters; all vectors are flat and in float64.
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
"""Eigenvalues of H; LR times the largest one is 0.4, so steps and series converge."""
STEPS = 3
PATH_STEPS = 50
"""Number of steps on the scalar problem (chosen by nasx: enough to see whether the path approaches the optimum)."""
TOLERANCE = 1e-6
"""Relative tolerance. On these losses central differences are exact up to rounding, about 1e-9 at a radius of 0.01."""
OWN = "nasx: more than ten times the rounding error of central differences"


# ------------------------------------------------------------------------------------------------------- observe
class Point(NamedTuple):
    """Weights and architecture parameters at a point of a step."""

    w: Tree
    a: Tree


class Observed(NamedTuple):
    """The architecture step in the last of a few steps of a method."""

    taken: Taken
    train: Sequence[Batch]
    val: Batch
    within: list[Point]
    """Points of this step in order, up to its architecture step."""
    earlier: list[Point]
    """Points of the earlier steps."""
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
    """Take steps of a method on a closed form with plain SGD.

    Returns None if the last step includes no architecture step.
    """
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
    """Compute the derivatives in a hypergradient; with `virtual`, those of L2 after one plain SGD step."""
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
    """Compute d/da of the loss on a batch at a point, (m,)."""
    a = detached(at.a, requires_grad=True)
    return flat(gradient(view.loss(at.w, a, batch), a))


def through_steps(view: Search, at: Point, batches: Sequence[Batch]) -> Tensor:
    """Compute d/da (m,) of the summed losses along plain SGD steps, one per batch, by autograd through the steps."""
    w, a = (detached(copied(tree), requires_grad=True) for tree in at)
    losses = []
    for batch in batches:
        losses.append(view.loss(w, a, batch))
        g = gradient(losses[-1], w, create=True)
        w = {k: x - view.lr * g[k] for k, x in w.items()}
    return flat(gradient(torch.stack(losses).sum(), a))


def entries(tree: Tree) -> Iterator[Tensor]:
    """Yield the entries of a tree as 0-d tensors; zeros with a graph replace entries that do not require grad."""
    anchor = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for x in tree.values():
        for entry in x.reshape(-1):
            yield entry if entry.requires_grad else anchor * 0


def implicit(view: Search, at: Point, train: Batch, val: Batch) -> Tensor:
    """Compute d/da L2 - M H^-1 v, (m,), which is the exact hypergradient if the weights minimize L1."""
    d = derivatives(view, at, train, val)
    out: Tensor = d.direct - d.M @ torch.linalg.solve(d.H, d.v)
    return out


class Fit(NamedTuple):
    """The coefficient c, the response at each eigenvalue (n,), and the norm of the remainder relative to that of g."""

    c: float
    response: Tensor
    remainder: float


def fit(g: Tensor, d: Derivatives) -> Fit:
    """Fit the coefficient and the response of a gradient g (m,) by least squares."""
    _, basis = torch.linalg.eigh(d.H)
    return solved(g, [d.direct, *(-(d.M @ u) * (u @ d.v) for u in basis.T)])


def solved(g: Tensor, columns: Sequence[Tensor]) -> Fit:
    """Fit g by least squares as a linear combination of `columns`; c is the coefficient of the first column."""
    X = torch.stack(list(columns), dim=1)
    found = torch.linalg.lstsq(X, g, driver="gelsd").solution
    length = g.norm().clamp_min(torch.finfo(g.dtype).tiny)
    return Fit(float(found[0]), found[1:], float((X @ found - g).norm() / length))


def best_fit(seen: Observed, points: Sequence[Point]) -> Fit:
    """Return the fit with the smallest remainder, over the points and the virtual steps from them.

    Among fits with a remainder of at most `TOLERANCE`, the one whose coefficient is closest to 1 is returned.
    """
    g, view = flat(seen.taken.g), seen.taken.view
    if not seen.reads_val:
        batches = {batch.seed: batch for batch in (seen.train[0], seen.train[-1])}.values()
        training = [first_order(view, at, batch) for at in points for batch in batches]
        passed_by = list(zip(points[1:-1], seen.train, strict=False))  # the points of the unrolled weight steps
        whole = [torch.stack([first_order(view, at, batch) for at, batch in passed_by]).sum(0)] if passed_by else []
        whole += [through_steps(view, points[0], seen.train)] if len(seen.train) > 1 else []
        fits = [solved(g, [column]) for column in (*training, *whole)]
    else:
        of = partial(derivatives, view, train=seen.train[-1], val=seen.val)
        fits = [fit(g, of(at, virtual=virtual)) for at in points for virtual in (False, True)]
    return min(fits, key=lambda each: each.remainder if each.remainder > TOLERANCE else abs(each.c - 1) * TOLERANCE)


def path(method: Method, *, steps: int = PATH_STEPS) -> list[float]:
    """Return the architecture parameter of the scalar problem at the start and after each of `steps` steps.

    This is the toy problem of Amended-DARTS, figure 4: the outer objective is a^2, so the optimum is 0. Weights and
    architecture have the learning rate LR. The path ends early if it diverges.
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
    """Return the random quadratic problem of the audit, with 6 weights and 12 architecture parameters."""
    return Quadratic.drawn(torch.tensor(EIGENVALUES, dtype=torch.float64), edges=4, operations=3)


def exactness(build: Callable[[], Method]) -> Iterator[Finding]:
    """Compare the gradient on each closed form with the exact hypergradient, at the minimizer of L1."""
    forms: dict[str, ClosedForm] = {"scalar": Scalar(), "quadratic": Quadratic(), "drawn quadratic": problem()}
    for name, own in forms.items():
        w = own.w_star() if isinstance(own, Quadratic) else own.w0()
        seen = observe(build(), own, steps=1, w=w)
        if seen is None:
            return
        g = flat(seen.taken.g)
        e = implicit(seen.taken.view, Point(seen.taken.w, seen.taken.a), seen.train[-1], seen.val)
        if float(e.norm()) > TOLERANCE:  # 0 if a softmax makes the scalar problem's single mixture weight constant
            yield against(f"exact ({name})", {"g": g}, {"g": e}, "the exact hypergradient")


def toy(build: Callable[[], Method]) -> Iterator[Finding]:
    """Report the path on the scalar problem, unless it is constant (as with a softmax over a single operation)."""
    found = path(build())
    if len(set(found)) > 1:
        nearer = abs(found[-1]) < abs(found[0])
        said = "towards" if nearer else "away from"
        text = f"a goes from {found[0]:g} to {found[-1]:.3g} in {len(found) - 1} steps, {said} the optimum 0"
        yield Finding("toy", "note", text, {"a": found}, "Amended-DARTS, figure 4: L = (w x - a)^2")


def against(check: str, g: Tree, e: Tree, what: str) -> Finding:
    """Report the cosine and the relative difference between gradient `g` and reference gradient `e`."""
    cosine, norm, difference = compared(g, e).tolist()
    text = f"cosine {cosine:.3f} and relative difference {difference:.3g} to {what}"
    return Finding(check, "note", text, {"cosine": cosine, "norm": norm, "difference": difference})


def composition(method: Method, moment: Moment = EARLY) -> Iterator[Finding]:
    """Check the sign, the factor, the weights and the response of the gradient."""
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
                f"the gradient fits the weights of an earlier step (remainder {old.remainder:.1e}), not those of the "
            )
            text += f"current step ({found.remainder:.1e})"
            values = {"remainder": found.remainder, "earlier": old.remainder}
            yield Finding("stale weights", "fail", text, values, OWN)
            return
        share = f"{100 * found.remainder:.3g} %"
        text = f"the update is not a multiple of {of}: {share} of it does not have the form c d/da L2 - M p(H) v"
        yield Finding("gradient", "note", text, {"remainder": found.remainder})
        return
    yield Finding("stale weights", "pass", f"the gradient fits its step's weights (remainder {found.remainder:.1e})")
    yield from coefficient(found.c, of)
    if seen.reads_val:
        yield from responses(method, found.response)


def coefficient(c: float, of: str) -> Iterator[Finding]:
    """Check the sign and the factor of the first-order part."""
    if c < 0:
        yield Finding("sign", "fail", f"{c:.4g} times {of}: the step ascends", {"coefficient": c}, OWN)
    elif abs(c - 1) > TOLERANCE:
        yield Finding("factor", "fail", f"{c:.4g} times {of}, but the factor should be 1", {"coefficient": c}, OWN)
    else:
        yield Finding("first order", "pass", f"equal to {of}", {"coefficient": c}, OWN)


def responses(method: Method, p: Tensor) -> Iterator[Finding]:
    """Check that the response p (n,) is as stated; if none is stated, that it is better than no second-order term."""
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
    source = "nasx: a term with the wrong sign or over twice the exact one is worse than none"
    if float(share.max()) < -TOLERANCE:
        yield Finding("sign", "fail", f"the second-order term has the wrong sign: {shown}", values, source)
    elif float((share - 1).abs().max()) > 1 + TOLERANCE:
        yield Finding("factor", "fail", f"the second-order term is too large: {shown}", values, source)
    else:
        yield Finding("response", "pass", f"{shown} (none stated)", values, source)


def audit(build: Callable[[], Method]) -> list[Finding]:
    """Run all checks on closed forms. `build` returns a new method on each call."""
    found = [*exactness(build), *toy(build), *composition(build())]
    return [*found, *added(found, composition(build(), LATE), LATE.progress)]
