"""Searches on the device with the components of a configuration, without data."""

from __future__ import annotations

from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nasx.config import instantiate, paths
from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Method, Search
from nasx.searcher.optimizers import architecture_optimizer, weight_optimizer
from nasx.searcher.problem import RelaxedProblem, weights

DEVICE = torch.device("cuda", 0)
SMALL = ("space.layers=3", "space.channels=4")
SPACES: dict[str, tuple[str, ...]] = {
    file.stem: {"nb201": ("space.layers=1", "space.channels=4"), "darts_rnn": ()}.get(file.stem, SMALL)
    for file in sorted((paths.conf_dir() / "space").glob("*.yaml"))
}
"""Every space, with settings that make its supernet small."""


def configuration(*words: str) -> dict[str, Any]:
    """Return the configuration of `nasx search WORDS`."""
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        c: Any = OmegaConf.to_container(compose("search", list(words)), resolve=True)
    return c  # type: ignore[no-any-return]


def composed(*words: str, groups: tuple[str, ...] = ("space", "method", "search")) -> tuple[Any, ...]:
    """Return the components of `nasx search WORDS`."""
    c = configuration(*words)
    return tuple(instantiate.build(c[group]) for group in groups)


def started(space: Any, method: Method, settings: Any, engine: EngineSettings | None = None) -> Search:
    """Return a search in the middle of its second epoch, with the optimizers of nasx."""
    torch.manual_seed(0)
    with DEVICE:
        net = space.supernet(10, naive=engine is not None and engine.supernet == "naive")
    problem = RelaxedProblem(space, net, method.activate, auxiliary=settings.auxiliary, engine=engine)
    a = method.start(space.init(torch.Generator().manual_seed(0)))
    a = {k: x.to(DEVICE).requires_grad_() for k, x in a.items()}
    w = weights(net)
    search = Search(problem, w, a, weight_optimizer(w, settings), architecture_optimizer(a, settings), settings.clip)
    search.epoch, search.epochs, search.progress = 1, 3, 0.4
    problem.options = settings.options(1)
    return search


class Carry:
    """The state between the batches of a text."""

    def __init__(self) -> None:
        self.x: Any = None

    def read(self) -> Any:
        return self.x

    def write(self, x: Any, *, track: bool) -> None:
        self.x = x

    def without_writes(self) -> Carry:
        return Carry()


def batch(space: Any, seed: int, n: int, size: int) -> Batch:
    if space.data == "text":
        words = torch.zeros(n, 5, dtype=torch.long, device=DEVICE)
        return Batch(words, words.clone(), seed, 1.0, Carry())
    return Batch(torch.zeros(n, 3, size, size, device=DEVICE), torch.zeros(n, dtype=torch.long, device=DEVICE), seed)


def batches(space: Any, method: Method, first: int = 0, n: int = 2, size: int = 16) -> tuple[list[Batch], Batch]:
    """Return the training batches of one step, and its validation batch."""
    made = [batch(space, first + i, n, size) for i in range(method.train_batches + 1)]
    return made[:-1], made[-1]
