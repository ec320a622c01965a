"""What a method may use to choose an architecture when the search ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nasx.core.batch import Batch
from nasx.core.trees import Tree


def unavailable(*_: object) -> Any:
    """Stand in for a function that a `Selection` was made without."""
    raise NotImplementedError("this Selection was made without it")


@dataclass
class Selection:
    """What a method may use to choose when the search ends: batches of both splits and a generator of its own."""

    score: Callable[[Tree], float | None]
    """A benchmark's validation accuracy of a mixture's genotype, None where none answers."""
    train: Iterator[Batch]
    val: Iterator[Batch]
    gen: torch.Generator
    epoch_updates: int = 1
    """Weight updates of an epoch of the search."""
    decided: list[Any] = field(default_factory=list)
    """Plain values of the decisions so far. A checkpoint holds them: a resumed search begins with those it made."""
    save: Callable[[], None] = lambda: None
    """Called after a decision, when `decided`, weights, architecture, optimizers and streams are all that matters."""
    tick: Callable[[], None] = lambda: None
    """Called after a pass: where a signal has asked for an end, it ends here, with what was kept last."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called before and after a long choice's decisions with how many are made, of how many."""
    pause: Callable[[], None] = lambda: None
    """Called after a short decision instead of `keep`: keeps where a checkpoint is due or a signal asks for an end."""
    network: Callable[[Tree, int], nn.Module] = unavailable
    """The discrete network of a mixture at the size of the search, newly initialized from a seed."""
    text: Callable[[Tree], str] = unavailable
    """The text of a mixture's genotype."""
    next_batch: Callable[[], Batch] = unavailable
    """The next training batch; it stays the next one."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Plain values that the run's record keeps of the choice; `text` among them is a sentence for its last screen."""
