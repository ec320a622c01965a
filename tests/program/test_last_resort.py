"""System failures during a command: closed pipe, full disk, no file handles, no memory, no current folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import faked
import pytest
from command_line import FAKE, call
from finished_search import WORDS, made

from nasx.cli import main
from nasx.errors import UserError

SEARCH = "search " + " ".join(WORDS) + " out=."
MAIN = "import sys; from nasx.cli.main import main; main(sys.argv[1:])"
LONG = (
    """
import sys, types
import nasx
def search(cfg, info):
    for i in range(5000):
        print("line", i)
        print("note", i, file=sys.stderr)
    open("ended", "w").close()
    return {'name': 'x'}
"""
    + faked.JOBS
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made(tmp_path)


def shell(folder: Path, line: str, code: str = MAIN, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which $NASX stands for the command; its exit code is that of nasx."""
    environment = {**os.environ, "NASX_DATA": str(folder / "no-data"), "COLUMNS": "160", **env}
    environment |= {"PYTHON": sys.executable, "CODE": code}
    return subprocess.run(
        ["bash", "-c", f'nasx() {{ "$PYTHON" -c "$CODE" "$@"; }}; {line}'],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
        env=environment,
    )


# --------------------------------------------------------------------------------------------------- streams
@pytest.mark.parametrize("words", [SEARCH, "list experiments"])
def test_a_closed_pipe_is_not_an_error(words: str, run: Path) -> None:
    done = shell(run.parent, f"nasx {words} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("pipe", ["| head -n 1 > seen", "2>&1 | true"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_work_goes_on_when_its_reader_went_away(pipe: str, unbuffered: str, tmp_path: Path) -> None:
    done = shell(
        tmp_path, f"nasx search dataset=digits {pipe}; exit ${{PIPESTATUS[0]}}", LONG, PYTHONUNBUFFERED=unbuffered
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ended").exists()


@pytest.mark.slow
def test_output_that_is_lost_is_reported_and_work_is_not(run: Path) -> None:
    for words in ("list", SEARCH):
        done = shell(run.parent, f"nasx {words} > /dev/full")
        assert done.returncode == 2
        assert done.stderr.startswith("nasx: standard output: cannot be written (No space left on device); ")
        assert done.stderr.count("\n") == 1
    done = shell(run.parent, "nasx search dataset=digits > /dev/full", LONG)
    assert done.returncode == 2
    assert (run.parent / "ended").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_like_dev_null(closed: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f"nasx search dataset=digits {closed}", LONG)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "ended").read_text() == "", "no file of a run gets the number of a standard stream"


# ---------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), ["a/b: the operation failed (No space", "free some"]),
        (PermissionError(errno.EACCES, "Permission denied", b"a"), ["a: the operation failed (Permission denied)"]),
        (OSError(errno.EMFILE, "Too many open files"), ["Too many open files", "ulimit -n"]),
        (OSError(errno.EIO, "Input/output error"), ["the system: the operation failed (Input/output error)"]),
        (OSError("odd"), ["OSError: odd"]),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), ["Broken pipe"]),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), ["Connection reset by peer"]),
        (MemoryError(), ["memory: is exhausted (MemoryError)"]),
        (RecursionError("maximum recursion depth exceeded"), ["nested too deeply"]),
        (ImportError("libcudnn.so: cannot open shared object file", name="torch._C"), ["torch._C: cannot be imported"]),
        (ModuleNotFoundError("No module named 'pandas'", name="pandas"), ["pandas: cannot be imported", "install it"]),
    ],
)
def test_what_the_system_can_do_is_one_line(
    error: Exception, parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "dispatch", fails)
    monkeypatch.delenv("NASX_DEBUG", raising=False)
    assert main.run_command(["list"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("nasx: ")
    assert told.count("\n") == 1
    assert all(part in told for part in parts), told
    monkeypatch.setenv("NASX_DEBUG", "1")
    assert main.run_command(["list"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), ImportError("cannot import name 'x'", name="nasx.jobs.search"), KeyError("x")]
)
def test_a_bug_is_not_an_error_of_the_system(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "dispatch", fails)
    with pytest.raises(type(error)):
        main.run_command(["list"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("search dataset=digits", FAKE),
        ("search -m dataset=digits seed=0,1", FAKE),
        ("table", MAIN),
        ("report", MAIN),
        ("status", MAIN),
        ("list", MAIN),
        ("bench info", MAIN),
        ("doctor", MAIN),
        ("info genotype=DARTS_V2", MAIN),
        ("evaluate x", MAIN),
        ("export from=x", MAIN),
    ],
)
def test_a_working_folder_that_was_deleted(words: str, code: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f'mkdir gone && cd gone && rmdir "$PWD" && nasx {words}', code)
    assert (done.returncode, done.stderr, done.stdout) == (
        2,
        "nasx: the current folder: no longer exists; change to an existing folder\n",
        "",
    )


@pytest.mark.parametrize(
    ("name", "words", "code", "said"),
    [
        ("metrics.jsonl", SEARCH, 2, "nasx: one/metrics.jsonl: the operation failed (Is a directory)"),
        ("result.json", SEARCH, 2, "nasx: one/result.json: cannot be read as a record: it is damaged"),
        ("config.yaml", SEARCH, 0, "one  finished today"),
        ("metrics.jsonl", "status .", 0, "1 run: 1 finished"),
        ("result.json", "status .", 0, "1 run: 1 damaged"),
        ("config.yaml", "status .", 0, "1 run: 1 finished"),
        ("metrics.jsonl", "report .", 0, "report.html: 1 run"),
        ("result.json", "report .", 2, "left out, record unreadable: 1 (one)"),
        ("config.yaml", "report .", 0, "report.html: 1 run"),
    ],
)
@pytest.mark.sample(4)
def test_a_file_that_cannot_be_read(name: str, words: str, code: int, said: str, run: Path) -> None:
    record = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**record, "choices": {"space": "nb201", "method": "darts"}}))
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()  # who runs as root may read all files, but not folders
    done = shell(run.parent, f"nasx {words}", FAKE)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "RAN" not in done.stdout, "a finished run is not started again"


def test_too_few_open_files(tmp_path: Path) -> None:
    code = "import resource; from nasx.cli import main as cli; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); "
    done = shell(tmp_path, "nasx search dataset=digits", f"{code} import sys; cli.main(sys.argv[1:])")
    assert done.returncode == 2
    assert "Too many open files" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_job_of_a_sweep_that_the_system_fails_is_one_line(tmp_path: Path) -> None:
    code = FAKE.replace("raise ValueError('a bug')", "open('x/y')")
    done = call(tmp_path, "search", "--multirun", "dataset=digits", "seed=14,3", code=code)
    assert done.returncode == 1
    assert "nasx: job 0 failed: x/y: the operation failed (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sweep: 1 of 2 jobs finished" in done.stderr


def test_a_fault_that_has_a_remedy_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(words: list[str]) -> int:
        raise UserError("here", "is wrong", "mend it")

    monkeypatch.setattr(main, "dispatch", fails)
    assert main.run_command([]) == 2
    assert capsys.readouterr().err == "nasx: here: is wrong; mend it\n"
