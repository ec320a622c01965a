"""Progress of a run: a live line on a terminal or in a notebook, a plain log elsewhere, and the file log.txt."""

from __future__ import annotations

import contextlib
import html
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from io import TextIOWrapper
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from nasx.core import files
from nasx.core.plain import Row
from nasx.errors import printable
from nasx.tracking import checkpoints

log = logging.getLogger("nasx")
CONSOLE = Console(stderr=True)
SCREEN = "nasx screen"
"""Name of the handler that writes log lines to the screen; a program that uses nasx may have its own handlers."""
_log_folder: ContextVar[Path | None] = ContextVar("log_folder", default=None)


@contextlib.contextmanager
def log_to(folder: Path) -> Iterator[None]:
    """Write log messages within the block to the log of the run in `folder`, but not of other runs in this process."""
    token = _log_folder.set(folder)
    try:
        yield
    finally:
        _log_folder.reset(token)


class Printable(logging.Formatter):
    """Formatter that replaces control characters, which names of files not created by nasx may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class LogFile(logging.FileHandler):
    """Handler for log.txt. If the disk is full, lines are lost, and the next essential write reports the error."""

    def _open(self) -> TextIOWrapper:
        return files.stream(Path(self.baseFilename))

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def log_to_folder(folder: Path, *, quiet: bool) -> Iterator[None]:
    """Write nasx's log within the block to `folder`/log.txt and to the screen (if `quiet`, only warnings)."""
    plain = Printable("%(asctime)s %(message)s", "%H:%M:%S")
    try:
        file = LogFile(folder / "log.txt")
    except OSError as error:
        raise files.unwritable(folder / "log.txt", error) from error
    file.setFormatter(plain)
    # notebooks display standard error as an error
    screen: logging.Handler = logging.StreamHandler(sys.stdout if CONSOLE.is_jupyter else sys.stderr)
    if CONSOLE.is_terminal and not quiet:  # the bar's console, so that lines appear above the bar
        screen = RichHandler(
            console=CONSOLE, show_path=False, markup=False, show_level=False, log_time_format="%H:%M:%S"
        )
        screen.setFormatter(Printable("%(message)s"))
    else:
        screen.setFormatter(plain)
    screen.setLevel(logging.WARNING if quiet else logging.INFO)
    log.setLevel(logging.INFO)
    log.propagate = False
    file.addFilter(lambda record: _log_folder.get() in (None, folder))
    screen.name = SCREEN
    within = any(handler.name == SCREEN for handler in log.handlers)  # a run inside another run
    handlers = [file] if within else [file, screen]
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def warnings_only() -> Iterator[None]:
    """Show only warnings from nasx within the block; another process reports the other messages."""
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


class Bar(Progress):
    """A progress bar that shrinks on a narrow terminal, with `texts` below it, as many per line as fit."""

    texts: Sequence[str] = ()

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield Columns(map(Text, self.texts), padding=(0, 2))


class Display:
    """Progress display of one run, a context manager. Call `show` if `due()` is true, at most twice per second.

    On a terminal and in a notebook, a bar shows epoch, losses, accuracies, speed, peak memory and time left; elsewhere,
    one line is logged per epoch, and one every `every_s` seconds within long epochs. The speed is in `unit`s per
    second, with `amount` units per update; `peak` returns the peak memory in MB, or None if it is unknown.
    """

    def __init__(
        self,
        kind: str,
        *,
        total: int,
        done: int,
        unit: str = "update",
        amount: int = 1,
        quiet: bool = False,
        every_s: float = 30.0,
        peak: Callable[[], float | None] | None = None,
    ) -> None:
        self.kind, self.live = kind, CONSOLE.is_terminal and not quiet
        self.notebook = NotebookBar(total) if CONSOLE.is_jupyter and not quiet else None
        self.quiet, self.every_s, self.total = quiet, every_s, total
        self._last = self._began = time.monotonic()
        self._first = done
        self.bar = Bar(
            SpinnerColumn(),
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None, table_column=Column(max_width=24)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=CONSOLE,
            disable=not self.live,
            transient=True,
        )
        self.task = self.bar.add_task("run", total=total, completed=done, epoch="-")
        self.unit, self.amount, self.peak = unit, amount, peak

    def __enter__(self) -> Display:
        if self.live:  # older versions of rich print an empty line for a disabled bar
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bar.stop()
        if self.notebook is not None:
            self.notebook.clear()

    def due(self) -> bool:
        """Return whether it is time to read values back from the device."""
        wait = 0.5 if self.live or self.notebook else self.every_s
        return time.monotonic() - self._last >= wait

    def measure_from(self, done: int) -> None:
        """Measure the speed from now on, because the first step of a process may compile for minutes."""
        self._first, self._began = done, time.monotonic()

    def show(self, done: int, epoch: str, means: Mapping[str, float]) -> None:
        """Show the position, running means and speed; the speed is omitted if no updates have been timed yet."""
        self._last = time.monotonic()
        rate = (done - self._first) / max(self._last - self._began, 1e-9)
        peak = self.peak() if self.peak else None
        facts = [f"{rate * self.amount:,.{0 if self.amount > 1 else 1}f} {self.unit}s/s"] if rate else []
        facts += [] if peak is None else [f"peak {peak:,.0f} MB"]
        if self.live:
            self.bar.texts = [*metric_texts(self.kind, means), *facts]
            self.bar.update(self.task, completed=done, epoch=epoch)
        elif not self.quiet:
            facts += [f"{duration((self.total - done) / rate)} left"] if rate else []
            parts = [f"{done}/{self.total}", *metric_texts(self.kind, means), *filter(None, [", ".join(facts)])]
            if self.notebook is not None:
                self.notebook.show(done, "  ".join([f"epoch {epoch}", *parts]))
            else:
                log_epoch(epoch, parts)

    def end_epoch(self, done: int, epoch: str, means: Mapping[str, float]) -> None:
        """Update the bar after an epoch, which may be a single step (TSE-DARTS); logs have one line per epoch."""
        if (self.live or self.notebook is not None) and self.due():
            self.show(done, epoch, means)


class NotebookBar:
    """A progress bar in the output of a notebook cell; it needs no widgets and is cleared after the run."""

    def __init__(self, total: int) -> None:
        from IPython.display import display

        self.total = total
        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, done: int, text: str) -> None:
        """Replace the displayed line."""
        bar = f'<progress value="{done}" max="{self.total}"></progress> <code>{html.escape(printable(text))}</code>'
        self.handle.update({"text/html": bar, "text/plain": text}, raw=True)

    def clear(self) -> None:
        """Clear the line."""
        self.handle.update({"text/plain": ""}, raw=True)


class SelectionProgress:
    """Progress of the selection at the end of a search, which may take longer than the search itself."""

    began: tuple[float, int] | None = None
    """Monotonic time of the first update, and the number of decisions made by then."""

    def update(self, done: int, total: int) -> None:
        """Log that `done` of `total` decisions have been made, and the estimated time left."""
        if self.began is None:
            self.began = time.monotonic(), done
            log.info("the search is done; choosing the architecture: %d of %d decisions", done, total)
            return
        began, first = self.began
        left = (time.monotonic() - began) / max(done - first, 1) * (total - done)
        log.info("choosing the architecture: %d of %d decisions, %s left", done, total, duration(left))


PARTS = {
    "search": {"train": "train", "val": "arch", "valid": "supernet"},
    "retrain": {"train": "train", "valid": "valid", "test": "test"},
}
"""Kind of run -> first part of a metrics column -> displayed word. `arch`: batches of architecture steps, from the
split that trains the architecture; `supernet`: evaluation of the supernet on that split."""
LINE = 71
"""Maximum number of characters in a log line after the time of day, so that lines fit in 80 columns."""


def metric_texts(kind: str, means: Row) -> list[str]:
    """Format the means of the main metrics briefly, with accuracies in percent."""
    found = []
    for name, label in PARTS[kind].items():
        loss, accuracy, perplexity = (means.get(f"{name}_{of}") for of in ("loss", "accuracy", "perplexity"))
        parts = [
            *([f"{loss:.3f}"] if loss is not None else []),
            *([f"{100 * accuracy:.1f} %"] if accuracy is not None else []),
            *([f"perplexity {perplexity:.1f}"] if perplexity is not None else []),
        ]
        if parts:
            found.append(" ".join([label, *parts]))
    return found + [f"{name} {means[name]:.3f}" for name in ("alignment", "eigenvalue") if means.get(name) is not None]


def looked_up(lookup: Mapping[str, object] | None) -> list[str]:
    """Format the validation accuracies found by a look-up; empty if there are none."""
    known = {name: values.get("valid") for name, values in (lookup or {}).items() if type(values) is dict}
    found = [f"{name} {value:.2f} %" for name, value in known.items() if value is not None]
    return ["cell in table: " + ", ".join(found)] if found else []


def wrap(head: str, parts: Sequence[str]) -> list[str]:
    """Join the head and the parts with two spaces, wrapped to log lines; continuation lines are indented."""
    found = [head]
    for part in parts:
        if len(found[-1]) + 2 + len(part) > LINE:
            found.append("")
        found[-1] += f"  {part}"
    return found


def log_epoch(epoch: str, parts: Sequence[str]) -> None:
    """Log the summary of an epoch."""
    for line in wrap(f"epoch {epoch}", parts):
        log.info(line)


def log_kept(folder: Path, count: int) -> None:
    """Log the disk space that `count` kept checkpoints will take, after the first one has been written."""
    path = next(iter(checkpoints.kept(folder).values()), None)
    if path is not None:
        each = path.stat().st_size / 1e6
        log.info("%s: keeps %d checkpoints of %.1f MB, %.0f MB in all", path.parent, count, each, count * each)


def memory(size: float) -> str:
    """Format a number of bytes: 512 MB, 3.4 GB."""
    return f"{size / 2**20:,.0f} MB" if size < 2**30 else f"{size / 2**30:,.1f} GB"


def duration(seconds: float) -> str:
    """Format a number of seconds: 42s, 3m 10s, 2h 05m, 3d 4h."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 86400}d {s % 86400 // 3600}h"
