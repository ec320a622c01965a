"""`nasx audit`: the built-in methods pass, and each fault that is put into a method is found and named."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import agree
import jobs
import pytest
import torch
from hydra.types import RunMode
from torch import Tensor
from variants import BUILT, TRAINING

from nasx.auditing import closed_forms, problems, supernet
from nasx.auditing.findings import Finding
from nasx.auditing.problems import Quadratic, Recorder
from nasx.cli.audit import SMALL, WIDE, attempted, page
from nasx.config import compose
from nasx.core.bilevel import Batch, Method, Search, Tree, combine, detached, gradient
from nasx.methods.alternating import Alternating, Hypergradient, first_order
from nasx.methods.amended import Amended
from nasx.methods.darts import Darts
from nasx.methods.idarts import IDarts
from nasx.methods.sama import Sama

import toy


# ----------------------------------------------------------------------------------------- wrong on purpose
class WrongSign(Darts):
    """The whole gradient with the opposite sign."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found = super().hypergradient(search, train, val)
        return found._replace(g={k: -x for k, x in found.g.items()})


class WrongSignLate(Darts):
    """A gradient whose sign turns after a quarter of the search."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found = super().hypergradient(search, train, val)
        return found._replace(g={k: (1 - 4 * search.progress) * x for k, x in found.g.items()})


class WrongTermSign(Amended):
    """Amended-DARTS as equation 15 prints it: with a plus."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found, first = super().hypergradient(search, train, val), first_order(search, val)
        return found._replace(g=combine(first.g, combine(found.g, first.g, -1.0), -1.0))


class WithoutRate(Darts):
    """Second-order DARTS whose second term is not multiplied by the learning rate, from its own step on."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found = super().hypergradient(search, train, val)
        w1 = search.virtual_step(
            search.grad_w(detached(search.w, requires_grad=True), search.mixture(search.a, train), train)
        )
        first = gradient(search.loss(detached(w1), search.a, val), search.a)
        return found._replace(g=combine(first, combine(found.g, first, -1.0), 1 / search.lr))


class Halved(Darts):
    """Half the gradient."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found = super().hypergradient(search, train, val)
        return found._replace(g={k: x / 2 for k, x in found.g.items()})


@dataclass(frozen=True, kw_only=True)
class Stale(Darts):
    """The gradient at the weights of the step before, which the method keeps itself."""

    kept: list[Tree] = field(default_factory=list)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        self.kept.append(problems.copied(search.w))
        return first_order(dataclasses.replace(search, w=self.kept[-2:][0]), val)


class Random(Darts):
    """Noise from torch's global generator."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found = super().hypergradient(search, train, val)
        return found._replace(g={k: x + 0.1 * torch.randn_like(x) for k, x in found.g.items()})


@dataclass(frozen=True, kw_only=True)
class Averaging(Darts):
    """A running mean of the gradients, in the method itself: no checkpoint has it."""

    mean: dict[str, Tensor] = field(default_factory=dict)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        found = super().hypergradient(search, train, val)
        self.mean.update({k: 0.5 * (self.mean.get(k, x) + x) for k, x in found.g.items()})
        return found._replace(g=dict(self.mean))


class Costly(Darts):
    """An evaluation more than it states, and copies of the weights."""

    def move_a(self, search: Search, train: Batch, val: Batch) -> dict[str, Tensor]:
        kept = [problems.copied(search.w) for _ in range(8)]
        search.loss(detached(kept[0]), detached(search.a), train)
        return super().move_a(search, train, val)


class WrongProduct(Amended):
    """A finite difference that is reported along one direction and used with a wrong factor."""

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        second = self.products(search, train)
        v = {k: torch.ones_like(x) for k, x in search.w.items()}
        wrong = {k: self.factor(search) * x for k, x in second.central(v).items()}
        found = first_order(search, val)
        return found._replace(g=combine(found.g, search.probed("Mv", second, v, wrong), -1.0))

    def factor(self, search: Search) -> float:
        return 2.0

    @staticmethod
    def products(search: Search, train: Batch) -> Any:
        from nasx.core.bilevel import SecondDerivative

        return SecondDerivative(lambda w, a: search.loss(w, a, train), search.w, search.a)


class WrongProductLate(WrongProduct):
    """The same with a factor that grows from 1 with the progress of the search."""

    def factor(self, search: Search) -> float:
        return 1 + search.progress


class CostlyLate(Darts):
    """An additional evaluation in the second half of the search."""

    def move_a(self, search: Search, train: Batch, val: Batch) -> dict[str, Tensor]:
        if search.progress >= 0.5:
            search.loss(detached(search.w), detached(search.a), train)
        return super().move_a(search, train, val)


@cache
def configuration(*words: str) -> dict[str, Any]:
    made = compose.make_loader().load_configuration("search", ["experiment=quickstart", *words], RunMode.RUN)
    return compose.resolved(made)[0]


def named(found: Sequence[Finding]) -> set[str]:
    return {each.check for each in found if each.outcome == "fail"}


@pytest.mark.parametrize(
    ("build", "faults"),
    [
        (WrongSign, {"sign"}),
        (WrongSignLate, {"sign"}),
        (lambda: WrongSign(order=2), {"sign"}),
        (WrongTermSign, {"sign"}),
        (lambda: WithoutRate(order=2), {"factor"}),
        (Halved, {"factor"}),
        (Stale, {"stale weights"}),
        (lambda: IDarts(K=2, gamma=0.5), set()),
    ],
    ids=["WrongSign", "WrongSignLate", "WrongSign2", "WrongTermSign", "WithoutRate", "Halved", "Stale", "sound"],
)
def test_a_fault_of_the_gradient_is_found_on_closed_forms_and_named(
    build: Callable[[], Method], faults: set[str]
) -> None:
    assert named(closed_forms.audit(build)) == faults


@dataclass(frozen=True, kw_only=True)
class Undeclared(Alternating):
    """A second-order method that states nothing: c M v by the exact product."""

    c: float

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        from nasx.methods.alternating import Exact

        w = detached(search.w, requires_grad=True)
        outcome = search.outcome(w, search.a, val)
        v, direct = gradient(outcome.loss, w, retain=True), gradient(outcome.loss, search.a)
        return Hypergradient(combine(direct, Exact(search, train).mixed(v), -self.c), outcome)


@pytest.mark.parametrize(("c", "faults"), [(0.1, set()), (0.5, set()), (1.0, {"factor"}), (-0.1, {"sign"})])
def test_a_method_that_states_nothing_is_judged_by_whether_its_second_term_helps(c: float, faults: set[str]) -> None:
    """c h is the share of the exact term: 0 to 2 helps, and the largest h is 4."""
    found = closed_forms.audit(lambda: Undeclared(c=c))
    assert named(found) == faults
    (response,) = [each for each in found if "response" in each.values]
    assert response.values["response"] == pytest.approx([c] * 6, abs=1e-8)


def test_a_gradient_of_another_form_is_noted_not_failed() -> None:
    class Signed(Darts):
        def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
            found = super().hypergradient(search, train, val)
            return found._replace(g={k: x.sign() for k, x in found.g.items()})

    found = closed_forms.audit(Signed)
    assert not named(found)
    said = r"the update is not a multiple of d/da L2: [\d.]+ % of it does not have the form c d/da L2 - M p\(H\) v"
    assert any(re.fullmatch(said, each.text) for each in found)


# -------------------------------------------------------------------------------------------------- closed forms
@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(12)
def test_the_built_in_methods_have_the_gradients_that_they_state(name: str) -> None:
    found = closed_forms.audit(lambda: BUILT[name])
    assert not named(found)
    moves = name != "random_ws"
    assert ("first order" in {each.check for each in found}) == moves


@pytest.mark.parametrize("K", [0, 1, 3])
def test_the_measured_response_is_the_series(K: int) -> None:
    found = {each.check: each for each in closed_forms.audit(lambda: IDarts(K=K, gamma=0.2))}
    h = found["response"].values["eigenvalues"]
    assert found["response"].values["response"] == pytest.approx(
        [(1 - (1 - 0.2 * x) ** (K + 1)) / x for x in h], rel=1e-8
    )


def test_the_implicit_gradient_is_the_closed_form_where_the_weights_minimize_the_training_loss() -> None:
    drawn = closed_forms.problem()
    for own, expected in (
        (toy.Quadratic(), toy.QUADRATIC["exact"]),
        (toy.Scalar(), [toy.SCALAR["exact"]]),
        (drawn, drawn.exact()),
    ):
        w = own.w0() if isinstance(own, toy.Scalar) else own.w_star()
        at = closed_forms.Point(w, own.a0())
        agree.near(closed_forms.implicit(problems.search(own), at, toy.TRAIN, toy.VAL), expected, 1e-9)
        agree.near(own.exact(), expected, 1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.125, 0.2, 0.25, 0.5])
def test_the_path_on_the_toy_is_the_recursion(eta: float) -> None:
    """Amended-DARTS, figure 4: v = 4 (2 w - a), H = 2, M = -2; the term turns the search round from eta > 1/8 on."""
    w = a = 0.7
    expected = [a]
    for _ in range(closed_forms.PATH_STEPS):
        v = 4 * (2 * w - a)
        a -= 0.1 * (-2 * (2 * w - a) - eta * -2 * 2 * v)
        w -= 0.1 * 2 * (w - a)
        expected.append(a)
    found = closed_forms.path(Amended(eta=eta))
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    uphill = eta < 0.125 or eta >= 0.5  # without the term and with the paper's 0.1; too long a step at 0.5
    assert (abs(found[-1]) > 0.7 + 1e-6) == uphill
    if eta == 0:
        assert closed_forms.path(Darts()) == pytest.approx(expected, rel=1e-12)


def test_the_drawn_problem_has_its_eigenvalues() -> None:
    h = torch.linalg.eigvalsh(Quadratic.drawn(toy.real([3.0, 1.0, 2.0]), 2, 2).A)
    torch.testing.assert_close(h, toy.real([1.0, 2.0, 3.0]), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ supernet
def on_supernet(build: Callable[[], Method]) -> dict[str, Finding]:
    found = supernet.audit(configuration(*SMALL), configuration(*WIDE), build)
    return {each.check: each for each in found}


@pytest.mark.parametrize(
    ("build", "faults"),
    [
        (lambda: Darts(order=2), set()),
        (Sama, set()),  # its probes are a hundred times as long
        (Random, {"determinism"}),
        (Averaging, {"state"}),
        (Stale, {"state", "memory"}),
        (Costly, {"passes", "memory"}),
        (WrongProduct, {"finite differences (softplus)", "passes"}),
        (WrongProductLate, {"finite differences (softplus)", "passes"}),
        (CostlyLate, {"passes"}),
    ],
    ids=["sound", "long probes", "Random", "Averaging", "Stale", "Costly", "WrongProduct", "ProductLate", "CostlyLate"],
)
@pytest.mark.sample(1)
def test_a_fault_of_the_step_is_found_on_a_supernet_and_named(build: Callable[[], Method], faults: set[str]) -> None:
    assert named(list(on_supernet(build).values())) == faults


def test_the_unrolled_gradient_is_autograd_through_the_steps() -> None:
    """On the quadratic problem, by the recursion of test_toy.py: J' = (I - lr A) J + lr B."""
    own, lr = toy.Quadratic(), 0.1
    search = problems.search(own, lr=lr)
    w, a, J = toy.flat(own.w0()), toy.flat(own.a0()), torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(7):
        w, J = w - lr * (own.A @ w - own.B @ a), J - lr * own.A @ J + lr * own.B
    expected = own.D.T @ w + toy.RHO * a + J.T @ (w - own.c + own.D @ a)
    agree.near(supernet.unrolled(search, own.w0(), own.a0(), toy.TRAIN, toy.VAL, 7), expected, 1e-12)


def test_a_recorder_with_exact_products_takes_no_difference() -> None:
    problem = toy.Smooth()
    train, val = problem.batch(1), problem.batch(2)
    own = toy.search(problem, lr=0.1)
    exact = supernet.ExactRecorder(**{f.name: getattr(own, f.name) for f in dataclasses.fields(Recorder)})
    found = [IDarts(K=2, products=p).hypergradient(exact, train, val).g for p in ("exact", "difference")]  # type: ignore[arg-type]
    assert agree.relative(found[1], found[0]) < 1e-12


# ------------------------------------------------------------------------------------------------------- command
def test_the_page_fits_80_columns_and_names_what_failed() -> None:
    text = page("x", {"closed forms": closed_forms.audit(WrongSign)}, 1.0)
    assert text.startswith("# Audit of x: FAILED: sign\n")
    assert max(map(len, text.splitlines())) <= 80
    assert page("x", {"closed forms": []}, 1.0).startswith("# Audit of x: passed\n")


@pytest.mark.slow
def test_a_method_of_ones_own_is_audited_and_the_exit_code_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "mine" / "conf" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "wrong.py").write_text(
        "from dataclasses import dataclass\n"
        "from nasx.core.bilevel import Method, detached, gradient, logs\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Wrong(Method):\n"
        "    scale: float = -1.0\n\n"
        "    def step(self, search, train, val):\n"
        "        validated = search.outcome(detached(search.w), search.a, val)\n"
        "        g = gradient(validated.loss, search.a)\n"
        "        search.descend_a({name: self.scale * x for name, x in g.items()})\n"
        "        return logs(search.update_w(train[0]), validated)\n"
    )
    (tmp_path / "mine" / "conf" / "method" / "wrong.yaml").write_text("_target_: mine.wrong.Wrong\nscale: -1.0\n")
    own = ("--config-dir", "mine/conf", "allow=[mine]", "epochs=1", "out=made")
    done = jobs.nasx(tmp_path, "audit", "wrong", *own)
    assert done.code == 1, done
    assert done.out.startswith("# Audit of wrong: FAILED: sign\n")
    record = json.loads((tmp_path / "made" / "wrong.json").read_text())
    assert not record["passed"]
    (row,) = [each for each in record["parts"]["search"] if each["check"] == "tau"]
    assert len(row["values"]["tau"]) == 1
    assert {each["check"] for each in record["parts"]["search"]} == {"tau", "regret", "collapse"}
    done = jobs.nasx(tmp_path, "audit", "wrong", *own, "method.scale=1.0", "--quick")
    assert done.code == 0, done
    assert "search" not in json.loads((tmp_path / "made" / "wrong.json").read_text())["parts"]


def test_what_a_method_raises_is_a_finding() -> None:
    class Raising(Darts):
        def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
            raise TypeError("no\nsuch thing")

    (found,) = attempted(lambda: closed_forms.audit(Raising), "fail")
    assert (found.check, found.outcome, found.text) == ("error", "fail", "TypeError: no such thing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a method"),
        (("dart",), "did you mean darts?"),
        (("darts", "method.ordr=2"), "did you mean"),
        (("darts", "epochs=0"), "epochs=0: is less than 1"),
        (("darts", "quick=maybe"), "is neither true nor false"),
    ],
)
def test_what_cannot_be_audited_is_said_before_torch(words: Sequence[str], said: str, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, "audit", *words)
    assert done.code == 2, done
    assert said in done.err
