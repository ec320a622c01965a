"""Profile a few steps of a run with torch.profiler (`debug=profiler`, or `profile=STEPS`).

The files are in the run's folder `profile`: trace.json.gz, which can be opened at https://ui.perfetto.dev or in
chrome://tracing, and operations.txt, a table of the operations that took the most time. The profiler does not affect
results, so `profile` is not part of a run's identity.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from nasx.core import files

log = logging.getLogger("nasx")
FIRST = 2
"""Number of initial steps that are not profiled: they allocate memory, select kernels, and compile."""
WARM_UP = 1
"""Number of subsequent steps in which the profiler runs without recording, because starting it takes time."""
ROWS = 25
"""Number of rows in operations.txt."""


@contextlib.contextmanager
def profiled(steps: int, folder: Path, device: torch.device) -> Iterator[Callable[[], None]]:
    """Profile `steps` steps (0: none) within the block; yield the function to call after each step.

    The files are written to `folder`/profile as soon as these steps are done. Raises UserError if writing fails.
    """
    if not steps:
        yield lambda: None
        return
    time = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    written: list[Path] = []

    def write(found: profile) -> None:
        home = files.no_link(folder / "profile")
        with tempfile.TemporaryDirectory() as temporary:
            trace = Path(temporary, "trace.json.gz")
            found.export_chrome_trace(str(trace))
            files.write_atomic(home / trace.name, trace.read_bytes())
        table = found.key_averages().table(sort_by=time, row_limit=ROWS, max_name_column_width=50)
        files.write_atomic(home / "operations.txt", table)
        written.append(home)
        log.info("profile: %s (open trace.json.gz at https://ui.perfetto.dev)", home)

    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])],
        schedule=schedule(skip_first=FIRST, wait=0, warmup=WARM_UP, active=steps, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
        profile_memory=True,
    ) as running:
        yield running.step
    if not written:
        said = "profile: nothing was recorded, because recording begins after %d steps of this process"
        log.warning(said, FIRST + WARM_UP)
