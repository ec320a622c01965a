"""Two processes search as one does: each gradient is that of the global batch, and the run folder has one owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import two_processes
from composing import faults
from elastic import disturbed, ended, nasx
from folders import equal
from torch import Tensor

from nasx.core import files
from nasx.core.bilevel import Method, Tree, detached, dot, gradient, gradients
from nasx.methods.amended import Amended
from nasx.methods.darts import Darts
from nasx.methods.idarts import IDarts
from nasx.methods.lambda_ import Lambda
from nasx.methods.sdarts import Sdarts
from nasx.methods.single import Single
from nasx.methods.tse import Tse
from nasx.spaces.darts.space import Darts as DartsSpace
from nasx.spaces.nb201.space import Nb201

import small

METHODS: dict[str, Method] = {
    "darts": Darts(),
    "darts-2": Darts(order=2),
    "darts-2-clip": Darts(order=2, clip=True, first="weights"),
    "idarts": IDarts(T=2, products="exact"),
    "idarts-released": IDarts(T=2, products="released"),
    "idarts-difference": IDarts(T=2, products="difference"),
    "lambda": Lambda(),
    "lambda-outer": Lambda(difference="exact", target="outer"),
    "tse": Tse(T=2),
    "single": Single(),
    "sdarts": Sdarts(perturbation="adversarial", ascent="train", ascents=2, inner=Darts()),
    "amended": Amended(),
}
SPACES = {
    "nb201": Nb201(layers=1, channels=4, batch_norm="tracked"),
    "darts": DartsSpace(layers=3, channels=4),
}
CASES = [("nb201", name) for name in METHODS] + [("darts", name) for name in ("darts-2", "idarts")]
ITEMS = 7
"""Items of a batch: the ranks have three and four."""


def steps(space: str, name: str) -> dict[str, Tensor]:
    """State and logs after a step in float64, in the second of three epochs; of darts-2 after two.

    The state is all that a second step starts from.
    """
    made, method = small.search(SPACES[space], momentum=0.9), METHODS[name]
    made.clip, made.epoch, made.epochs = 0.5, 1, 3
    logs: dict[str, Tensor] = {}
    for i in range(2 if name == "darts-2" else 1):
        batches = [small.batch(10 * i + k, ITEMS, 8) for k in range(method.train_batches + 1)]
        logs |= {f"log {i} {k}": x for k, x in method.step(made, batches[:-1], batches[-1]).items()}
    state = {f"momentum {k}": made.w_opt.state[x]["momentum_buffer"] for k, x in made.w.items()}
    state |= {f"buffer {k}": x for k, x in made.problem.supernet.named_buffers()}  # type: ignore[attr-defined]
    found = {**made.w, **{f"a {k}": x for k, x in made.a.items()}, **state, **logs}
    return {k: x.detach().clone() for k, x in found.items()}


def derivatives() -> dict[str, Tensor]:
    """A loss, gradients by weights and mixture, and a product with the Hessian, at other weights than the live ones."""
    made = small.search(SPACES["nb201"])
    w = {k: (1.1 * x).detach().requires_grad_() for k, x in made.w.items()}
    mix = detached(made.problem.relax(made.a), requires_grad=True)
    outcome = made.problem.outcome(w, mix, small.batch(3, ITEMS, 8))
    slope = gradient(outcome.loss, w, create=True)
    by_w, by_mix = gradients(dot(slope, {k: torch.ones_like(x) for k, x in w.items()}), w, mix)
    found: dict[str, Tree] = {"slope": slope, "Hu": by_w, "Mu": by_mix}
    trees = {f"{name} {k}": x.detach() for name, tree in found.items() for k, x in tree.items()}
    evaluated = made.problem.evaluate(made.w, mix, [small.batch(i, n, 8) for i, n in enumerate((5, 5, 1))])  # type: ignore[attr-defined]
    scalars = {k: torch.tensor(x, dtype=torch.float64) for k, x in evaluated.items()}
    return {"loss": outcome.loss.detach(), "accuracy": outcome.accuracy, **trees, **scalars}


def work(cases: list[tuple[str, str]]) -> dict[str, dict[str, Tensor]]:
    """What each of two processes finds for these cases."""
    return {" ".join(case): steps(*case) for case in cases} | {"derivatives": derivatives()}


@pytest.fixture(scope="module")
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, Tensor]]]:
    """What two processes found for the cases that are to run."""
    run = {item.name for item in request.session.items}
    cases = [case for case in CASES if f"{test_two_processes_take_the_steps_of_one.__name__}[{'-'.join(case)}]" in run]
    return two_processes.found(partial(work, cases), tmp_path_factory.mktemp("two"))


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal to 1e-8 of each tensor's largest value, and of 1e-3 at least."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        scale = max(float(x.double().abs().max()), 1e-3) if x.numel() else 1.0
        assert float((found[name] - x).double().abs().max() if x.numel() else 0.0) <= 1e-8 * scale, name


@pytest.mark.parametrize(("space", "name"), CASES)
@pytest.mark.sample(4)
def test_two_processes_take_the_steps_of_one(space: str, name: str, both: list[dict[str, dict[str, Tensor]]]) -> None:
    whole = steps(space, name)
    before = {k: x.detach() for k, x in small.search(SPACES[space], momentum=0.9).w.items()}
    assert any(float((whole[k] - x).abs().max()) > 1e-3 for k, x in before.items()), "the weights have moved"
    first, second = (found[f"{space} {name}"] for found in both)
    close(first, whole)
    assert all(torch.equal(x, second[k]) for k, x in first.items()), "the ranks have the same bits"


def test_all_derivatives_are_those_of_the_global_batch(both: list[dict[str, dict[str, Tensor]]]) -> None:
    whole = derivatives()
    for found in both:
        close(found["derivatives"], whole)


# ----------------------------------------------------------------------------------------------- whole commands
WORDS = (
    "search",
    "space=nb201",
    "space.layers=1",
    "space.channels=4",
    "dataset=digits",
    "dataset.size=16",
    "search.batch=15",
    "search.epochs=2",
    "search.updates_per_epoch=10",
    "search.evaluate_images=64",
    "device=cpu",
    "out=runs",
    "checkpoint_s=0.2",
)


@pytest.mark.slow
def test_a_killed_search_of_two_processes_resumes_to_the_same_bits(tmp_path: Path) -> None:
    for name in ("whole", "alone"):
        code, out, err = ended(nasx(tmp_path, *WORDS, f"name={name}", f"devices={2 if name == 'whole' else 1}"))
        assert code == 0, err
        assert out.count("  finished ") == err.count("epoch 1/2") == 1, err  # one process speaks
        assert "Warning" not in err
    whole, alone = (files.read_json(tmp_path / "runs" / name / "result.json") or {} for name in ("whole", "alone"))
    assert [record["starts"][0]["processes"] for record in (whole, alone)] == [2, 1]
    assert whole["identity"] == alone["identity"]
    assert whole["supernet"]["valid_loss"] == pytest.approx(alone["supernet"]["valid_loss"], rel=0.05)
    code, err = disturbed(tmp_path, 1, signal.SIGKILL, words=WORDS)
    assert code == 2
    assert "process 1 of 2: was killed by SIGKILL" in err
    code, _, err = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=2"))
    assert code == 0, err
    assert "resuming at update" in err
    equal(tmp_path / "runs" / "whole", tmp_path / "runs" / "torn")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["method=naswot"], "Naswot trains no supernet"),
        (["method=random"], "Random trains no supernet"),
        (["seeds_per_job=2"], "seeds_per_job=2 puts several searches into one process"),
        (["stages=pdarts", "space=darts"], "the stages of a search run in a single process"),
        (["engine.compile=on"], "engine.compile=on does not support multiple processes"),
        (["engine.graphs=on"], "engine.graphs=on does not support multiple processes"),
        (["search.diagnose_every=1"], "search.diagnose_every=1 needs the outputs of a whole batch"),
    ],
)
@pytest.mark.sample(4)
def test_what_a_single_process_alone_can_do_is_refused(words: list[str], fault: str) -> None:
    assert not faults("dataset=digits", *words)
    [told] = faults("dataset=digits", *words, "devices=2")
    assert told.startswith(f"devices=2: {fault}")
    assert told.endswith("leave devices out")


def test_torchrun_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from nasx.cli import main as cli\n"
        "try: cli.main(['search', 'method=naswot', 'space=nb201', 'dataset=digits'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False"
    assert "torchrun with 2 processes: Naswot trains no supernet" in done.stderr
    assert not (tmp_path / "outputs").exists()
