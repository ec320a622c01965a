"""Wall times of short calls, interleaved and measured after a warm-up: medians and percentiles.

Calls are timed in turn, so that a change in the machine's load affects all of them. This module does not import torch:
on an asynchronous device, a call must wait for its result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Latency(NamedTuple):
    """Milliseconds per call: the median and the 10th and 90th percentiles of n timings."""

    median_ms: float
    low_ms: float
    high_ms: float
    n: int


def rounds(calls: Sequence[Callable[[], object]], repeats: int, warm: int) -> np.ndarray:
    """Return the time of each call in each round, (repeats, calls) in milliseconds, after `warm` uncounted rounds.

    The order of the calls in a round is drawn from a fixed seed.
    """
    import numpy as np

    spent, gen = np.empty((repeats, len(calls))), np.random.default_rng(0)
    for turn in range(-warm, repeats):
        for i in gen.permutation(len(calls)):
            began = time.perf_counter_ns()
            calls[i]()
            spent[max(turn, 0), i] = (time.perf_counter_ns() - began) / 1e6
    return spent


def summary(spent: np.ndarray) -> Latency:
    """Summarize timings (n,) in milliseconds."""
    import numpy as np

    low, median, high = np.quantile(spent, (0.1, 0.5, 0.9)).tolist()
    return Latency(median, low, high, len(spent))
