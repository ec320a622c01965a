"""nasx on a system without fcntl, SIGUSR1 and what else only Unix has (windows.py): the same runs and tables."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import windows
from folders import equal, reached

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (*jobs.TINY_NB201, "method=darts", "method.order=1", "checkpoint_s=0.001")


@pytest.mark.slow
def test_a_search_is_stopped_resumed_and_tabulated_as_on_unix(tmp_path: Path) -> None:
    unix, here = tmp_path / "unix", tmp_path / "windows"
    for folder in (unix, here):
        folder.mkdir()
    assert (done := jobs.nasx(unix, *COMMAND)).code == 0, done
    job = jobs.Job(here, *COMMAND, prepare=windows.install)
    job.until(lambda: reached(here, 1))
    os.kill(job.pid, signal.SIGSTOP)  # it shall not finish while the second one starts
    second = jobs.nasx(here, *COMMAND, prepare=windows.install)
    assert second.code == 2, second
    assert f"is in use by process {job.pid} on " in second.err
    os.kill(job.pid, signal.SIGINT)
    os.kill(job.pid, signal.SIGCONT)
    done = job.wait()
    assert "stopped by SIGINT; the same command resumes it" in done.err, done
    assert (done := jobs.nasx(here, *COMMAND, prepare=windows.install)).code == 0, done
    equal(jobs.folder(here), jobs.folder(unix))
    tables = [jobs.nasx(unix, "table", "out=runs", prepare=prepare) for prepare in (windows.install, jobs.nothing)]
    assert tables[0].out == tables[1].out
    assert "darts" in tables[0].out


@pytest.mark.slow
def test_files_and_locks() -> None:
    words = ["-k", "not yaml and not module and not bomb", str(ROOT / "tests" / "core" / "test_files.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "windows", "-p", "no:cacheprovider", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "support")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_only_unix_has_is_in_one_module() -> None:
    """The names that tests/support/windows.py takes away, and modules that Windows lacks."""
    modules = {"fcntl", "resource", "pwd", "grp", "pty", "termios", "tty", "curses", "syslog", "readline"}
    lacking = {f"{module}.{name}" for module, names in windows.WITHOUT.items() for name in names.split()}
    found = []
    for path in (ROOT / "nasx").rglob("*.py"):
        if path == ROOT / "nasx" / "core" / "system.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                used = names if isinstance(node, ast.Import) else [node.module, *(f"{node.module}.{n}" for n in names)]
            else:
                used = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            found += [f"{path.name}: {name}" for name in used if name in modules | lacking]
    assert found == []
