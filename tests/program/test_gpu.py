"""On a CUDA device: parity, no host synchronization, replayed steps, no memory growth, resume. Written without a GPU.

uv run pytest -m gpu tests/program/test_gpu.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from engine_steps import SPACES, apart, position
from folders import equal
from variants import BUILT, TRAINING

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Method, Search
from nasx.searcher.cuda_graphs import Replayed, cuda
from nasx.searcher.optimizers import on_cuda
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Space

import small

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """The same kernels each time, in full precision."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.cuda.set_sync_debug_mode("default")


def prepared(space: Space, method: Method, *, naive: bool = False, engine: EngineSettings | None = None) -> Search:
    """A float64 search on the device, in the middle of an epoch, with the optimizers of a real one."""
    net = small.build(space, naive=naive).cuda()
    problem = RelaxedProblem(space, net, method.activate, engine=engine)
    gen = torch.Generator().manual_seed(0)
    start = method.start({k: torch.randn(s, generator=gen, dtype=torch.float64) for k, s in space.shapes().items()})
    a = {k: x.detach().cuda().requires_grad_() for k, x in start.items()}
    w = weights(net)
    search = Search(
        problem,
        w,
        a,
        torch.optim.SGD(w.values(), lr=0.05, momentum=0.9, fused=True),
        torch.optim.Adam(a.values(), lr=3e-4, betas=(0.5, 0.999), fused=True, capturable=on_cuda(a)),
        5.0,
    )
    search.epoch, search.epochs = 1, 3
    return search


def batch(seed: int) -> Batch:
    data = small.batch(seed, size=8)
    return Batch(data.x.cuda(), data.y.cuda(), data.seed)


def walk(search: Search, step: Any, method: Method, steps: int) -> Any:
    before = position(search)
    for i in range(steps):
        step(search, [batch(10 * i + j) for j in range(method.train_batches)], batch(10 * i + 9))
        search.updates += method.steps_w
    return {k: x - before[k] for k, x in position(search).items()}


@pytest.mark.parametrize("name", TRAINING)
def test_steps_equal_those_of_the_naive_path(name: str) -> None:
    method = BUILT[name]
    expected = walk(prepared(SPACES["darts"], method, naive=True), method.step, method, 2)
    assert apart(walk(prepared(SPACES["darts"], method), method.step, method, 2), expected) <= 1e-7


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("space", SPACES)
def test_replayed_steps_equal_eager_ones(space: str, name: str) -> None:
    method = BUILT[name]
    plain, search = prepared(SPACES[space], method), prepared(SPACES[space], method)
    step = Replayed(method, search.problem, cuda(torch.device("cuda", 0)))  # type: ignore[arg-type]
    assert apart(walk(search, step, method, 5), walk(plain, method.step, method, 5)) <= 1e-7
    assert search.problem.passes == plain.problem.passes  # type: ignore[attr-defined]
    assert step.why is None


@pytest.mark.parametrize("name", TRAINING)
def test_no_step_waits_for_the_device(name: str) -> None:
    method = BUILT[name]
    search = prepared(SPACES["nb201"], method)
    train, val = [batch(j) for j in range(method.train_batches)], batch(9)
    method.step(search, train, val)  # first, since optimizers set their state up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    method.step(search, train, val)


def test_memory_does_not_grow_over_a_thousand_steps() -> None:
    method = BUILT["darts"]
    search = prepared(SPACES["nb201"], method)
    step = Replayed(method, search.problem, cuda(torch.device("cuda", 0)))  # type: ignore[arg-type]

    def epochs(count: int) -> None:
        for _ in range(count):
            search.epoch += 1
            walk(search, step, method, 100)

    epochs(2)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    epochs(10)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_killed_search_resumes_bit_for_bit(graphs: str, tmp_path: Path) -> None:
    words = (*jobs.TINY_NB201, "method=darts", "deterministic=true", "checkpoint_s=0.001", f"engine.graphs={graphs}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert jobs.nasx(whole, *words).code == 0
    job = jobs.Job(broken, *words)
    job.until(lambda: len(list((broken / "runs").glob("*/checkpoints/*.ckpt"))) >= 2)
    job.kill()
    assert not list((broken / "runs").glob("*/result.json")), "it ended before the kill"
    assert jobs.nasx(broken, *words).code == 0
    equal(jobs.folder(whole), jobs.folder(broken))
