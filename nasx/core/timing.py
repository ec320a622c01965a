"""Wall times of short calls: warm, interleaved, as medians with a spread.

Calls are timed in turns, so that a change of the machine's load reaches all of them. Torch-free: on a device that works
asynchronously a call must wait for its result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Latency(NamedTuple):
    """Milliseconds per call: the median, the 10th and the 90th percentile of n timings."""

    median_ms: float
    low_ms: float
    high_ms: float
    n: int


def interleaved(calls: Sequence[Callable[[], object]], *, repeats: int, warm: int) -> list[Latency]:
    """Time each of `calls` in `repeats` rounds, after `warm` rounds that are not counted; at least one of each."""
    spent = np.empty((repeats, len(calls)))
    for turn in range(-warm, repeats):
        for i, call in enumerate(calls):
            began = time.perf_counter_ns()
            call()
            spent[max(turn, 0), i] = time.perf_counter_ns() - began
    low, median, high = np.quantile(spent / 1e6, (0.1, 0.5, 0.9), axis=0)
    return [Latency(float(median[i]), float(low[i]), float(high[i]), repeats) for i in range(len(calls))]
