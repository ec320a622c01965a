"""Events of the fake CUDA runtime: the lines of nasx that wait for the device, copy, or break a capture.

`listen()` starts, `seen` counts events by (phase, kind, what, line of nasx, line of torch). Events of the backward
pass, which runs in its own C++ thread, have no Python line.
"""

from __future__ import annotations

import collections
import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

SYNC, H2D, D2H, LAUNCH, VIOLATION, OUTSIDE, MALLOC, D2D = (1 << i for i in range(8))
KIND = {
    SYNC: "SYNC",
    H2D: "H2D",
    D2H: "D2H",
    LAUNCH: "LAUNCH",
    VIOLATION: "VIOLATION",
    OUTSIDE: "OUTSIDE",
    MALLOC: "MALLOC",
    D2D: "D2D",
}
"""OUTSIDE: work on a stream that is not being captured while another one is."""
DEFAULT = SYNC | H2D | D2H | VIOLATION | OUTSIDE
REPO = Path(__file__).resolve().parent.parent.parent

lib = ctypes.CDLL(None)
if not hasattr(lib, "fake_hook"):
    sys.exit("the fake CUDA runtime is not loaded; start this script through runtime.py")
lib.fake_count.restype = lib.fake_used.restype = lib.fake_replays.restype = ctypes.c_ulonglong
HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_ulonglong)


class Event(NamedTuple):
    """What happened in a phase, and where it happened."""

    phase: str
    kind: str
    what: str
    line: str
    torch: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.what, self.line, self.torch)))


seen: collections.Counter[Event] = collections.Counter()
phase = ["-"]


def lines() -> tuple[str, str]:
    """Return the innermost line of nasx below the event, and the innermost line of torch below it."""
    try:
        frame = sys._getframe(2)
    except ValueError:  # a thread without Python frames
        return "(backward pass, no Python line)", ""
    torch = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if "site-packages/torch" in name and not torch:
            torch = f"{name.split('site-packages/')[-1]}:{frame.f_lineno}"
        elif name.startswith(f"{REPO}/nasx/"):
            return f"{name.removeprefix(f'{REPO}/')}:{frame.f_lineno}", torch
        frame = frame.f_back
    return "(no line of nasx)", torch


def _on(kind: int, what: bytes, size: int) -> None:
    seen[Event(phase[0], KIND[kind], what.decode(), *lines())] += 1


_held = HOOK(_on)  # ctypes frees a callback without references


def listen(mask: int = DEFAULT) -> None:
    lib.fake_hook(_held, mask)


def deaf() -> None:
    lib.fake_hook(None, 0)


def launches() -> int:
    """Return the number of kernels, memsets and graphs launched so far."""
    return int(lib.fake_count(LAUNCH))


def replays() -> int:
    """Return the number of graphs launched so far."""
    return int(lib.fake_replays())


def of(prefix: str, *kinds: str) -> dict[str, int]:
    """Return the events of these kinds in the phases whose names start with `prefix`, as text -> count."""
    found: collections.Counter[str] = collections.Counter()
    for event, n in seen.items():
        if event.phase.startswith(prefix) and event.kind in kinds:
            found[str(event)] += n
    return dict(sorted(found.items()))
