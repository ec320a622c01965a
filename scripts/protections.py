"""Every fault that nasx is protected against: the protection, and a test that fails when it is taken out.

    uv run python scripts/protections.py                     all, one after the other (a quarter of an hour)
    uv run python scripts/protections.py --only "full disk"

In a copy of the checkout the tests are run once as it is, then for each row with a line or two replaced: its test must
fail. A table is printed; exit code 1 where a test passes without its protection.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """A fault; in which file what stands for the protection, what replaces it, and the test that tells."""

    fault: str
    file: str
    there: str
    instead: str
    test: str


ROWS = (
    Row("kill at a random moment", "nasx/search.py", 'self.train.load_state_dict(state["train"])', "pass",
        "test_resume.py::test_killed_at_several_points_and_resumed"),
    Row("kill between a row and its checkpoint", "nasx/session.py", 'self.run.keep_rows(state["rows"])', "pass",
        "test_resume.py::test_a_kill_while_a_checkpoint_is_written_costs_that_one_only"),
    Row("kill while a file is written", "nasx/folders/files.py",
        'path.with_name(f".{path.name}.{os.getpid()}.part")', "path",
        "test_records.py::test_a_file_is_the_old_one_until_it_is_the_new_one"),
    Row("truncated or flipped checkpoint", "nasx/folders/checkpoints.py",
        "if not data.startswith(MAGIC) or hashlib.sha256(body).hexdigest().encode() != digest:",
        "if not data.startswith(MAGIC):",
        "test_records.py::test_a_damaged_checkpoint_is_named_and_the_one_before_is_used"),
    Row("missing checkpoint", "nasx/folders/checkpoints.py", "KEPT = 2", "KEPT = 1",
        "test_records.py::test_the_last_two_checkpoints_are_kept"),
    Row("lost metrics rows", "nasx/folders/checkpoints.py", "if rows is None or counted <= rows:", "if True:",
        "test_records.py::test_lost_rows_send_a_resume_to_the_checkpoint_before"),
    Row("full disk", "nasx/folders/files.py", "            part.unlink(missing_ok=True)\n", "            pass\n",
        "test_faults.py::test_a_disk_that_is_full_costs_nothing"),
    Row("log on a full disk", "nasx/progress.py", "    def handleError(self, record: logging.LogRecord) -> None:\n",
        "    def other(self, record):\n", "test_faults.py::test_a_log_on_a_full_disk_is_no_fault_of_its_own"),
    Row("file size limit", "nasx/folders/files.py", 'errno.EFBIG: "raise', 'errno.EIO: "raise',
        "test_faults.py::test_a_limit_of_file_sizes_is_told"),
    Row("read-only or closed folder", "nasx/records.py", "raise unwritable(folder, error) from error", "raise",
        "test_faults.py::test_a_place_that_cannot_be_written_is_refused_before_any_work"),
    Row("SIGTERM, SIGINT, SIGUSR1", "nasx/session.py", "        if asked is not None:\n            save()\n",
        "        if asked is not None:\n",
        "test_resume.py::test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on"),
    Row("a terminal that closes", "nasx/machine.py", "if number == signal.SIGHUP:", "if False:",
        "test_faults.py::test_a_terminal_that_closes_leaves_a_checkpoint"),
    Row("a second signal", "nasx/machine.py", "if self.asked is not None:", "if False:",
        "test_faults.py::test_a_second_signal_ends_at_once"),
    Row("out of memory", "nasx/session.py", "if not machine.out_of_memory(error):", "if True:",
        "test_faults.py::test_memory_that_runs_out_names_what_to_lower"),
    Row("NaN loss", "nasx/search.py", "        if wrong:", "        if False:",
        "test_run.py::test_a_loss_that_explodes_stops_the_search_and_keeps_it"),
    Row("weight that is not finite", "nasx/run.py", "self.loop.guard(self.loop.meter.means(), weights=True)", "pass",
        "test_faults.py::test_a_weight_that_is_not_finite_is_in_no_checkpoint"),
    Row("two runs of one configuration", "nasx/folders/lock.py",
        "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
        "test_lock.py::test_a_second_process_is_told_who_is_running"),
    Row("two hosts, flock not passed on", "nasx/folders/lock.py", "if touched(self.path, PATIENCE_S):", "if False:",
        "test_lock.py::test_a_heart_that_beats_elsewhere_is_respected"),
    Row("lock taken over or removed", "nasx/records.py", "self._lock.check()", "pass",
        "test_lock.py::test_without_its_lock_file_a_run_stops_writing"),
    Row("one job of a sweep fails", "nasx/cli.py", "fault=told)\n        raise",
        "fault=told)\n        sys.exit(1)", "test_cli.py::test_a_failed_job_lets_the_others_finish_and_is_listed"),
    Row("sweep started again", "nasx/run.py", "done = records.finished(here.run.folder) or prepared(here).run()",
        "done = prepared(here).run()",
        "test_notes.py::test_a_failed_job_is_tried_again_and_the_others_are_not"),
    Row("sweep into a closed folder", "nasx/folders/notes.py",
        "raise files.unwritable(folder, error) from error", "raise",
        "test_notes.py::test_a_place_for_no_sweep_is_told_at_once"),
    Row("hostile checkpoint", "nasx/folders/checkpoints.py", "weights_only=True)", "weights_only=False)",
        "test_records.py::test_a_hostile_checkpoint_is_refused_and_nothing_runs"),
    Row("corrupt data file", "nasx/data/layouts.py", "if found != md5:", "if False:",
        "test_data_images.py::test_cifar_wrong_md5"),
    Row("network gone in a download", "nasx/data/fetch.py", "            shutil.rmtree(folder, ignore_errors=True)",
        "            pass", "test_faults.py::test_a_network_that_goes_away_leaves_nothing"),
    Row("clock that jumps", "nasx/commands/status.py", "max(since_s, 0.0)", "since_s",
        "test_status.py::test_time_left_is_that_of_the_last_epochs"),
    Row("locale without our signs", "nasx/cli.py", 'sys.stdout.reconfigure(errors="replace")', "pass",
        "test_cli.py::test_a_locale_without_our_signs_is_no_fault"),
    Row("a process of several dies", "nasx/processes.py",
        "if not isinstance(error, dist.DistError) and not any(word in str(error) for word in LOST):", "if True:",
        "test_processes.py::test_a_killed_process_ends_the_other_and_one_process_goes_on"),
    Row("CUDA graph that cannot be recorded", "nasx/graphs.py", "        start.restore()\n        if why:",
        "        if why:", "test_graphs.py::test_a_recording_that_breaks_leaves_no_trace"),
    Row("replay that differs", "nasx/graphs.py", "if far <= allowed:", "if True:",
        "test_graphs.py::test_a_replay_that_differs_is_refused_and_leaves_no_trace"),
)


def passes(copy: Path, tests: list[str]) -> tuple[bool, str]:
    """Whether the tests pass in the copy, and pytest's last line."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(
        f"tests/{test}" for test in tests)], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, text=True,
        capture_output=True)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    return done.returncode == 0, re.sub(r" in .*", "", last)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose fault contains this")
    args = parser.parse_args()
    rows = [row for row in ROWS if args.only in row.fault]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "nasx"
        unneeded = shutil.ignore_patterns(".venv", ".git", "outputs", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=unneeded)
        good, said = passes(copy, sorted({row.test for row in rows}))
        print(f"with all protections: {said}\n\n| fault | taken out | test | then |\n|---|---|---|---|", flush=True)
        wrong = int(not good)
        for row in rows:
            path = copy / row.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(row.there, row.instead), encoding="utf-8")
            good, said = passes(copy, [row.test])
            path.write_text(text, encoding="utf-8")
            wrong += good
            line = " ".join(row.there.split())
            print(f"| {row.fault} | `{row.file}`: `{line}` | `{row.test}` | {said} |", flush=True)
    print(f"\n{len(rows) - wrong} of {len(rows)} tests fail without their protection")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
