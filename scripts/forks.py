"""Commands without the time that imports take: forked from a process that has imported torch and computed nothing.

A fork is equivalent to a fresh start except for the seed of Python's hashes, which all forks of a server share, so the
two sides of a comparison use different servers. Pictures are not drawn.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kills import Command

IMPORTED = (
    "torch",
    "torch._dynamo",
    "pandas",
    "pydantic",
    "nasx.jobs.search",
    "nasx.train.trainer",
    "nasx.cli.preflight",
    "nasx.report.run_summary",
    "nasx.cli.table",
    "nasx.data.images",
    "nasx.data.text",
    "nasx.methods.darts",
    "nasx.spaces.nb201.supernet",
    "nasx.spaces.darts.network",
)


class Server:
    """A process that forks one command after another."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        found = self.process.stdout.readline().decode()  # without a buffer, so that `select` sees what is left
        assert found, "the server has died"
        return found

    def command(self, words: Sequence[str]) -> Forked:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(words)).encode() + b"\n")
        return Forked(self, int(self.line()))


class Forked:
    """`nasx WORDS`, like kills.Command: in its own process group, on one thread, without output."""

    def __init__(self, server: Server, pid: int) -> None:
        self.server, self.pid = server, pid
        self.ended: tuple[int, str] | None = None

    def running(self) -> bool:
        return self.ended is None and not select.select([self.server.process.stdout], [], [], 0)[0]

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> tuple[int, str]:
        self.ended = self.ended or tuple(json.loads(self.server.line()))
        return self.ended


def starters(fork: bool) -> tuple[Callable[[Sequence[str]], Any], Callable[[Sequence[str]], Any]]:
    """Return what starts the commands of each side of a comparison: fresh processes, or forks of one server each."""
    return (Server().command, Server().command) if fork else (Command, Command)


def serve() -> None:
    """Fork for each line of words; print the child's number, then its exit code and its standard error."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        told = os.memfd_create("stderr")
        pid = os.fork()
        if not pid:
            run(json.loads(line), told)
        os.setpgid(pid, pid)  # here, so that the reader of the number can kill the group
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        said = os.pread(told, 100_000, 0).decode(errors="replace")
        os.close(told)
        print(json.dumps([os.waitstatus_to_exitcode(status), said]), flush=True)


def run(words: list[str], told: int) -> NoReturn:
    import torch

    from nasx.cli import main
    from nasx.jobs import search as runs

    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(told, 2)
    torch.set_num_threads(1)
    runs.pictures = lambda folder: None  # type: ignore[assignment]
    code = 1
    try:
        main.main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
