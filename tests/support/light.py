"""Run code in processes forked from one that has imported the command line, without torch: each starts at once.

The server does nothing but fork, so a fork is equivalent to a fresh interpreter that has the same modules.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

SERVER = """
import atexit, json, os, signal, sys, traceback
import nasx.cli.help, nasx.cli.invoke, nasx.cli.listing, nasx.cli.main, nasx.cli.preflight

def work(folder, code, words, env, out, err):
    signal.alarm(120)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for handle, name in enumerate((os.devnull, out, err)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), handle)
    sys.argv[1:] = words
    status = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    child = os.fork()
    if not child:
        work(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def server() -> tuple[subprocess.Popen[str], TemporaryDirectory[str]]:
    """Return the process that forks, which ends with this one, and a folder for the output."""
    started = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return started, TemporaryDirectory()


def run(code: str, *words: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -c CODE WORDS` in a folder, with only these environment variables."""
    process, notes = server()
    assert process.stdin is not None
    assert process.stdout is not None
    out, err = (Path(notes.name) / name for name in ("out", "err"))
    for path in (out, err):
        path.write_bytes(b"")
    print(json.dumps([str(folder), code, words, env, str(out), str(err)]), file=process.stdin, flush=True)
    status = int(process.stdout.readline())
    said = (path.read_text(encoding="utf-8") for path in (out, err))
    return subprocess.CompletedProcess([code, *words], status, *said)
