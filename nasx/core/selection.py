"""The resources with which a method selects an architecture at the end of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import nn

from nasx.core.batch import Batch
from nasx.core.trees import Tree


def unavailable(*_: object) -> NoReturn:
    """Raise NotImplementedError; the default for the callbacks of a `Selection`."""
    raise NotImplementedError("this function was not passed to the Selection")


@dataclass
class Selection:
    """The resources for a method's final selection: batches of both splits, a generator, and callbacks."""

    score: Callable[[Tree], float | None]
    """Returns the benchmark's validation accuracy for the genotype of a mixture; None if unknown."""
    train: Iterator[Batch]
    val: Iterator[Batch]
    gen: torch.Generator
    epoch_updates: int = 1
    """Number of weight updates per epoch of the search."""
    decided: list[Any] = field(default_factory=list)
    """Decisions so far, as plain values that checkpoints contain; a resumed search starts with them."""
    save: Callable[[], None] = lambda: None
    """Called after a decision; saves `decided`, weights, architecture, optimizers and streams as the complete state."""
    tick: Callable[[], None] = lambda: None
    """Called after a pass; if a termination signal has arrived, stops the search, which resumes from the last save."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with (done, total) before and after the decisions of a long selection."""
    pause: Callable[[], None] = lambda: None
    """Called after a short decision instead of `save`; saves only if a checkpoint is due or a signal has arrived."""
    network: Callable[[Tree, int], nn.Module] = unavailable
    """Returns the discrete network of a mixture at the size of the search, initialized from a seed."""
    text: Callable[[Tree], str] = unavailable
    """Returns the genotype of a mixture as text."""
    next_batch: Callable[[], Batch] = unavailable
    """Returns the next training batch without advancing the stream."""
    notes: dict[str, object] = field(default_factory=dict)
    """Plain values for result.json; `text` is a sentence for the summary of the run."""
