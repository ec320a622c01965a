"""Parts of scripts/gpu_once.py: its report, its time limit, and the searches that it measures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn


class TimeUp(BaseException):
    """The time of a part is up. Not an Exception, so that no handler on the way takes it for a fault."""


class Report:
    """The figures so far, in a file that is always complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {"parts": {}, "skipped": []}

    def write(self) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)

    def add(self, part: str, **facts: Any) -> None:
        self.values["parts"].setdefault(part, []).append(facts)
        self.write()
        print(part, facts, flush=True)

    def skip(self, part: str, what: str, why: str) -> None:
        self.values["skipped"].append({"part": part, "what": what, "why": why})
        self.write()
        print(f"{part}: {what} is skipped: {why}", flush=True)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[Callable[[], float]]:
    """Raise TimeUp in the block after this many seconds; yield a function that returns the seconds left."""
    end = time.monotonic() + seconds

    def up(number: int, frame: Any) -> NoReturn:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield lambda: end - time.monotonic()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -------------------------------------------------------------------------------------------------------- searches
class Sizes:
    """The sizes at which a search is measured: full or tiny."""

    def __init__(self, *, dry: bool, folder: Path) -> None:
        self.dry, self.folder = dry, folder
        self.tiny = ("space.channels=4", "search.batch=4") if dry else ()

    def layers(self, space: str) -> tuple[str, ...]:
        return (f"space.layers={1 if space == 'nb201' else 3}",) if self.dry else ()

    def images(self, count: int, test: int) -> str:
        """Return a file of random images of CIFAR-10's shape, written once."""
        import numpy as np

        path, draw = self.folder / f"random-{count}.npz", np.random.RandomState(0)
        if not path.exists():
            parts = {
                f"{part}_x": draw.randint(0, 256, (n, 32, 32, 3), dtype=np.uint8)
                for part, n in (("train", count), ("test", test))
            }
            np.savez(
                path, **parts, **{f"{part}_y": np.arange(n) % 10 for part, n in (("train", count), ("test", test))}
            )
        return str(path)

    def steps(self, space: str, *words: str) -> tuple[str, ...]:
        """Return the words of a search that takes single steps."""
        data = self.images(64 if self.dry else 2048, 16)
        return (
            "method=darts",
            f"space={space}",
            "dataset=folder",
            f"dataset.path={data}",
            "search.epochs=2",
            "search.updates_per_epoch=400",  # short enough that the start predicts no memory, which takes seconds
            *self.tiny,
            *self.layers(space),
            *words,
        )

    def whole(self) -> tuple[str, ...]:
        """Return the words of a search that runs to its end."""
        data: tuple[str, ...] = ("dataset=cifar10", "dataset.download=false")
        held = Path(os.environ.get("NASX_DATA") or "~/.cache/nasx").expanduser()
        if self.dry or not any((held / f"cifar-10-batches-{kind}").is_dir() for kind in ("py", "bin")):
            count, test = (64, 16) if self.dry else (50000, 10000)
            data = ("dataset=folder", f"dataset.path={self.images(count, test)}")
        short = ("search.epochs=3", "search.updates_per_epoch=4", "search.evaluate_images=8") if self.dry else ()
        return ("method=darts", "space=nb201", *data, *self.tiny, *self.layers("nb201"), *short)


class Prepared:
    """A search, set up as by `nasx search`, that is run step by step."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, words: tuple[str, ...]) -> None:
        from hydra.types import RunMode

        from nasx.config import check, compose
        from nasx.config.job_info import JobInfo
        from nasx.jobs.search import Turn
        from nasx.searcher.job import SearchJob
        from nasx.tracking.session import session

        line = [*words, f"out={folder}", f"name=run{len(list(folder.iterdir()))}", "quiet=true", "device=cuda"]
        self.config, choices = compose.resolved(
            compose.make_loader(None).load_configuration("search", line, RunMode.RUN)
        )
        check.check(self.config, choices, line)
        info = JobInfo(choices=choices, overrides=line, command="gpu_once")
        here = stack.enter_context(session(self.config, info))
        self.turn = Turn(SearchJob(here))
        self.device = here.device

    def prepared(self) -> contextlib.AbstractContextManager[None]:
        """Return the process settings for this search (another one may have run in between)."""
        from nasx.tracking import environment

        return environment.prepared(
            self.device, threads=None, deterministic=False, seed=0, precision=self.config["engine"]["precision"]
        )

    def seconds(self) -> float:
        """Return the time of one step, including the device's work."""
        import torch

        with self.prepared():
            torch.cuda.synchronize()
            start = time.perf_counter()
            self.turn.take()
            torch.cuda.synchronize()
            return time.perf_counter() - start

    def replayed(self) -> str:
        """Return `yes` if steps are replayed, otherwise the reason why not."""
        step = self.turn.job.loop.advance
        return str(getattr(step, "why", "not asked for") or "yes")
