"""The lock of a run: one writer on one or several hosts, dead and sleeping holders, readers without side effects."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasx.core import system
from nasx.errors import UserError
from nasx.tracking import lock, records, run_folder

ELSEWHERE = """
import sys
from pathlib import Path
from nasx.core import system
from nasx.tracking import lock, records, run_folder
system.lock_file = lambda *_, **__: None  # a shared folder that does not pass it on
lock.kernel, lock.BEAT_S = lambda: "elsewhere", 0.05
with run_folder.Run(Path(sys.argv[1]), {"seed": 0}, {}) as run:
    print("held", flush=True)
    for line in sys.stdin:
        run.append({"epoch": 1})
        print("written", flush=True)
"""


# ----------------------------------------------------------------------------------------------- on one host
def test_a_second_process_reports_who_is_running(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(
        UserError, match=rf"is in use by process {holder.pid} on \S+; wait for it to finish, or stop it"
    ):
        run_folder.Run(tmp_path / "run", {"seed": 0}, {})


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert str(holder.pid) in (tmp_path / "run" / "lock").read_text()
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {"kind": "search", "search": {"epochs": 50}}):
        assert (tmp_path / "run" / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_holder(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom nasx.tracking import records, run_folder\n"
        "with run_folder.Run(Path(sys.argv[1]), {'seed': 0}, {}):\n"
        "    os.write(1, f'{os.fork()}\\n'.encode())\n    time.sleep(100)\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        worker = max(int(made.stdout.readline()), int(made.stdout.readline()))
        made.kill()
        made.wait()
        try:
            run_folder.Run(tmp_path / "run", {"seed": 0}, {}).close()
        finally:
            os.kill(worker, 9)


def test_a_lock_file_that_may_not_be_opened_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.open

    def refuses(path: Any, *rest: Any, **named: Any) -> int:
        if Path(path).name == "lock":  # as root every real file opens
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(UserError, match=r"lock: cannot be written \(Permission denied\); .*out=FOLDER"):
        run_folder.Run(tmp_path / "run", {"seed": 0}, {})


def test_a_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(system, "lock_file", refuses)
    with pytest.raises(UserError, match=r"lock: cannot be written \(No locks available\)"):
        run_folder.Run(tmp_path / "run", {"seed": 0}, {})


def test_a_start_outlasts_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look holds a shared lock for a moment: the start that meets it tries again."""
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}):
        pass
    looker = os.open(tmp_path / "run" / "lock", os.O_RDONLY)
    system.lock_file(looker, shared=True)
    tries = []

    def waits(seconds: float) -> None:
        tries.append(seconds)
        os.close(looker)

    monkeypatch.setattr(time, "sleep", waits)
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}):
        assert len(tries) == 1


def test_an_orderly_end_leaves_no_name(tmp_path: Path) -> None:
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}):
        assert (tmp_path / "run" / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert (tmp_path / "run" / "lock").read_text() == ""


# ------------------------------------------------------------------------------------------- on several hosts
@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process under another kernel that holds tmp_path/run, without flock; it writes a row for a line of input."""
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "run")],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_heart_that_beats_elsewhere_is_respected(
    tmp_path: Path, elsewhere: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "TAKEOVER_S", 20.0)
    before = (tmp_path / "run" / "lock").read_bytes()
    assert str(lock.holder(tmp_path / "run")).startswith(f"process {elsewhere.pid} on "), "status tells it too"
    with pytest.raises(UserError, match=rf"is in use by process {elsewhere.pid} on \S+; wait for it"):
        run_folder.Run(tmp_path / "run", {"seed": 0}, {})
    assert (tmp_path / "run" / "lock").read_bytes() == before


def test_two_mounts_of_one_folder_that_share_no_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real file system that does not pass flock on: FUSE."""
    mounts = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "folder").mkdir()
    for mount in mounts:
        mount.mkdir()
        if not shutil.which("bindfs") or subprocess.run(["bindfs", tmp_path / "folder", mount], check=False).returncode:
            pytest.skip("bindfs is not there or may not mount")
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "TAKEOVER_S", 10.0)
    try:
        with (
            run_folder.Run(mounts[0] / "run", {"seed": 0}, {}),
            pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on "),
        ):
            run_folder.Run(mounts[1] / "run", {"seed": 0}, {})
        with run_folder.Run(mounts[1] / "run", {"seed": 0}, {}):
            pass
    finally:
        for mount in mounts:
            subprocess.run(["umount", "-l", mount], check=True)


def test_one_that_beats_no_more_is_taken_over(
    tmp_path: Path, elsewhere: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "TAKEOVER_S", 0.2)
    elsewhere.kill()
    elsewhere.wait()
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}):
        assert (tmp_path / "run" / "lock").read_text().startswith(f"process {os.getpid()} on ")
    monkeypatch.setattr(lock, "touched_within", None)  # after an orderly end nobody is watched
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}):
        pass


def test_a_sleeper_that_was_taken_over_writes_no_more(
    tmp_path: Path, elsewhere: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "TAKEOVER_S", 0.2)
    elsewhere.send_signal(19)  # SIGSTOP: a suspended machine
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}) as run:
        run.append({"epoch": 7})
        elsewhere.send_signal(18)
        _, said = elsewhere.communicate("write\n")
        assert f"is no longer held by this process: process {os.getpid()} on " in said
        assert run.rows() == [{"epoch": 7}]


def test_a_fresh_beat_elsewhere_is_reported_and_an_old_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 7 on far\nelsewhere 0\n")
    assert lock.holder(tmp_path) == "process 7 on far"
    os.utime(tmp_path / "lock", (time.time() - 100, time.time() - 100))
    assert lock.holder(tmp_path) is None


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_without_its_lock_file_a_run_stops_writing(tmp_path: Path, how: str) -> None:
    with run_folder.Run(tmp_path / "run", {"seed": 0}, {}) as run:
        (tmp_path / "run" / "lock").unlink()
        if how == "replaced":
            second = run_folder.Run(tmp_path / "run", {"seed": 0}, {})
        for write in (lambda: run.append({"epoch": 1}), lambda: run.save({"updates": 1}, 1), lambda: run.finish({})):
            with pytest.raises(UserError, match="is no longer held by this process"):
                write()
        run.fail(ValueError("late"))
        if how == "replaced":
            second.append({"epoch": 1})
            second.close()
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "fault.txt").exists()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert records.read_rows(tmp_path / "run") == ([{"epoch": 1}] if how == "replaced" else [])
