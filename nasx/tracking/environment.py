"""Environment of a run: device, versions, memory, commit and signals."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import platform
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType

import torch

from nasx import __version__
from nasx.core import spelling, system
from nasx.errors import UserError


def device(name: str) -> torch.device:
    """Return the device for `auto` (a GPU if available), `cpu`, `cuda` or `cuda:N`. Raises UserError if unavailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name}", "is not a device", "use auto, cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        fault = f"is not available: torch {torch.__version__} sees {spelling.counted(count, 'CUDA device')}"
        raise UserError(f"device={name}", fault, "use device=auto or device=cpu")
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}", "is not supported", "use auto, cpu, cuda or cuda:N")
    return chosen


@contextlib.contextmanager
def prepared(
    on: torch.device, *, threads: int | None, deterministic: bool, seed: int, precision: str = "fp32"
) -> Iterator[None]:
    """Set the threads, precision and determinism of a job within the block, and seed torch.

    TF32 is off unless `precision` is tf32, in every torch version. After the block, all settings except the seed and
    the allocator are restored, so that the next job of a sweep in this process uses its own configuration.
    """
    with _restored():
        if threads:
            torch.set_num_threads(threads)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        elif on.type == "cuda":
            torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.manual_seed(seed)
        if on.type == "cpu":
            system.keep_freed_memory()
        elif on.type == "cuda":
            if on.index is not None:
                torch.cuda.set_device(on)  # streams and graphs are created on the current device
            torch.cuda.reset_peak_memory_stats(on)
        yield


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Restore threads, determinism, TF32 and cuDNN's benchmark mode after the block."""
    threads, workspace = torch.get_num_threads(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = flags
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def workers(asked: int | None) -> int:
    """Return the number of processes that decode images: `asked`, else one less than this process's share of the CPUs.

    The number is 0 if a launcher has started this process as a daemon, which may not have child processes.
    """
    if multiprocessing.current_process().daemon:
        return 0
    if asked is not None:
        return asked
    return max(system.cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 0)


def hardware(on: torch.device) -> dict[str, object]:
    """Return the type and the name of the device, and the number of CPU threads."""
    if on.type == "cuda":
        return {"device": "cuda", "name": torch.cuda.get_device_name(on), "threads": torch.get_num_threads()}
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {"device": "cpu", "name": name, "threads": torch.get_num_threads()}


def environment(on: torch.device) -> dict[str, object]:
    """Return the host, and the properties of the environment on which results depend."""
    found, named = hardware(on), versions()
    return {
        "host": socket.gethostname(),
        "device": f"{found['device']} ({found['name']})",
        "threads": found["threads"],
        "torch": str(torch.__version__),
        "nasx": named["nasx"],
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Return the software versions on which results may depend."""
    named = {"nasx": __version__, **{name: metadata.version(name) for name in ("torch", "numpy", "hydra-core")}}
    if torch.version.cuda:
        named["cuda"] = torch.version.cuda
    return named | {"python": platform.python_version()}


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout that nasx runs from (with + if modified); None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        head, dirty = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if dirty else "")


def peak_mb(on: torch.device) -> float | None:
    """Return the peak memory in MiB: that of torch's GPU allocator, or of the process on a CPU (None on Windows)."""
    if on.type == "cuda":
        return round(torch.cuda.max_memory_allocated(on) / 2**20, 1)
    peak = system.peak_memory_mb()
    return None if peak is None else round(peak, 1)


def available(on: torch.device) -> int | None:
    """Return the bytes that this process holds or can allocate on a GPU; None for a CPU, whose memory is shared."""
    if on.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(on)[0] + torch.cuda.memory_reserved(on))


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error from a GPU, from torch's CPU allocator, or from Python."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


class StopRequested(KeyboardInterrupt):
    """Exception that stops a run after a signal; the same command resumes the run from its last checkpoint."""

    def __init__(self, number: int) -> None:
        self.signal = number
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.signal,)


class Signals:
    """Context manager within which SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGBREAK request a stop.

    A second signal stops the process at once. SIGBREAK exists only on Windows.

    Signals that were ignored when this process started stay ignored (nohup, background jobs of a script).

    The loop reads `asked`, saves a checkpoint, and raises `StopRequested`. When this exception leaves the block, the
    launcher's own handler for the signal is called: submitit's handler requeues a job that is preempted or out of time.
    """

    numbers = system.signals("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> Signals:
        self._terminals = [file for file in (1, 2) if os.isatty(file)]
        handled = [n for n in self.numbers if signal.getsignal(n) is not signal.SIG_IGN]
        with contextlib.suppress(
            ValueError
        ):  # not in the main thread (a launcher's worker): the launcher handles signals
            self._before = {n: signal.signal(n, self._ask) for n in handled}
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, StopRequested):
            before = self._before.get(error.signal)
            if callable(before) and before is not signal.default_int_handler:
                before(error.signal, None)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number in system.signals("SIGHUP"):  # writing to a closed terminal would fail before the checkpoint
            for terminal in self._terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        if self.asked is not None:
            raise StopRequested(number)
        self.asked = number
