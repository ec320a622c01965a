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
    Row(
        "kill at a random moment",
        "nasx/searcher/loop.py",
        'self.train.load_state_dict(state["train"])',
        "pass",
        "test_resume.py::test_killed_at_several_points_and_resumed",
    ),
    Row(
        "kill between a row and its checkpoint",
        "nasx/tracking/session.py",
        'self.run.keep_rows(state["metrics"])',
        "pass",
        "test_resume.py::test_a_kill_while_a_checkpoint_is_written_costs_that_one_only",
    ),
    Row(
        "kill while a file is written",
        "nasx/core/files.py",
        'path.with_name(f".nasx-{secrets.token_hex(8)}.part")',
        "path",
        "test_records.py::test_a_file_is_the_old_one_until_it_is_the_new_one",
    ),
    Row(
        "truncated or flipped checkpoint",
        "nasx/tracking/checkpoints.py",
        "if not data.startswith(READABLE) or hashlib.sha256(body).hexdigest().encode() != digest:",
        "if not data.startswith(READABLE):",
        "test_records.py::test_a_damaged_checkpoint_is_named_and_the_one_before_is_used",
    ),
    Row(
        "missing checkpoint",
        "nasx/tracking/checkpoints.py",
        "KEPT = 2",
        "KEPT = 1",
        "test_records.py::test_the_last_two_checkpoints_are_kept",
    ),
    Row(
        "damaged metrics rows",
        "nasx/tracking/run_folder.py",
        "if there != text.encode():",
        "if False:",
        "test_seals.py::test_damaged_rows_are_written_again_from_the_checkpoint",
    ),
    Row(
        "lost metrics rows, older checkpoints",
        "nasx/tracking/checkpoints.py",
        'if rows is None or "metrics" in state or counted <= rows:',
        "if True:",
        "test_seals.py::test_lost_rows_send_a_resume_to_the_checkpoint_before",
    ),
    Row(
        "files of a finished run changed",
        "nasx/tracking/records.py",
        '(content(folder / name) or b"") != seal[name]',
        "== 0",
        "test_seals.py::test_tables_reports_and_status_name_a_broken_seal",
    ),
    Row(
        "record that cannot be read",
        "nasx/tracking/records.py",
        "if result is None and os.path.lexists(path):",
        "if False:",
        "test_seals.py::test_a_finished_run_whose_record_is_damaged_is_not_started_anew",
    ),
    Row(
        "torn picture",
        "nasx/report/run_summary.py",
        'whole(folder / f"{name}.{kind}")',
        '(folder / f"{name}.{kind}").is_file()',
        "test_again.py::test_where_something_is_to_be_done_nothing_is_shown",
    ),
    Row(
        "power loss",
        "nasx/core/files.py",
        "            os.fsync(handle)\n            if CLOSE_EARLY:",
        "            if CLOSE_EARLY:",
        "test_power.py::test_a_file_is_the_old_or_the_new_one_after_every_power_loss",
    ),
    Row(
        "power loss, commands",
        "nasx/core/files.py",
        "    sync_folder(path.parent)\n    return True",
        "    return True",
        "test_power.py::test_killed_or_without_power_at_some_operations",
    ),
    Row(
        "temporary files of killed commands",
        "nasx/core/files.py",
        "        remove_left(path.parent)\n",
        "",
        "test_files.py::test_what_a_killed_writer_has_left_goes_and_what_a_live_one_holds_stays",
    ),
    Row(
        "temporary file of a live command",
        "nasx/core/files.py",
        "lock_file(handle)\n            if not CLOSE_EARLY:",
        "if not CLOSE_EARLY:",
        "test_files.py::test_what_a_killed_writer_has_left_goes_and_what_a_live_one_holds_stays",
    ),
    Row(
        "link in the place of a file",
        "nasx/core/system.py",
        '("O_NOFOLLOW", "O_BINARY")',
        '("O_BINARY",)',
        "test_files.py::test_every_writer_leaves_what_a_link_names",
    ),
    Row(
        "link in the place of a run folder",
        "nasx/core/files.py",
        "if path.is_symlink():",
        "if False:",
        "test_files.py::test_no_folder_of_a_run_is_reached_through_a_link",
    ),
    Row(
        "lock of another program",
        "nasx/tracking/lock.py",
        'if not b"process ".startswith(there.replace(b"\\0", b"")[:8]):',
        "if False:",
        "test_files.py::test_a_lock_is_taken_in_a_file_of_its_own_alone",
    ),
    Row(
        "folder of another program",
        "nasx/tracking/run_folder.py",
        'if config.exists() and not inner.is_dir() and "identity" not in (read_yaml(config) or {}) and unused(folder):',
        "if False:",
        "test_files.py::test_a_folder_of_another_program_is_not_taken",
    ),
    Row(
        "export that fails",
        "nasx/cli/export.py",
        "    written: dict[str, bytes] = {name: packed(network, facts)}\n",
        "    files.make_folder(out)\n    written: dict[str, bytes] = {name: packed(network, facts)}\n",
        "test_export.py::test_a_failed_export_leaves_nothing",
    ),
    Row(
        "two exports of one run",
        "nasx/export/model.py",
        "sort_keys=True, ",
        "",
        "test_export.py::test_two_exports_have_the_same_bytes_and_no_path_of_this_machine",
    ),
    Row(
        "resume in another environment",
        "nasx/tracking/session.py",
        "if differ := records.environments([before, now]):",
        "if differ := []:",
        "test_environments.py::test_a_resume_in_another_environment_is_told_recorded_and_marked",
    ),
    Row(
        "own code edited between two starts",
        "nasx/tracking/session.py",
        'if files := own_code.changed(before.get("code"), self.code):',
        "if files := []:",
        "test_own_code.py::test_a_run_that_continues_with_other_code_is_reported_and_marked",
    ),
    Row(
        "settings of the job before",
        "nasx/tracking/environment.py",
        "    with _restored():",
        "    with contextlib.nullcontext():",
        "test_environments.py::test_a_job_puts_the_settings_of_its_process_back",
    ),
    Row(
        "YAML whose aliases multiply",
        "nasx/core/files.py",
        "if node is not None and _nodes(node, {}) > NODES:",
        "if False:",
        "test_files.py::test_a_yaml_that_stands_for_too_much_is_refused",
    ),
    Row(
        "what a stranger's YAML calls",
        "nasx/config/trust.py",
        "if value not in names or not _genuine(str(value)):",
        "if not names:",
        "test_trust.py::test_a_strangers_file_is_refused_with_nothing_written",
    ),
    Row(
        "names reachable from those allowed",
        "nasx/config/trust.py",
        "if value not in names or not",
        "if not str(value).startswith(tuple(name.rpartition('.')[0] for name in names)) or not",
        "test_trust.py::test_nothing_reachable_is_called_outside_the_list",
    ),
    Row(
        "classes of nasx that none of its files names",
        "nasx/config/instantiate.py",
        'head == "nasx" and target not in trust.components(conf_dir()):',
        "False:",
        "test_trust.py::test_every_class_of_nasx_that_may_be_named_is_one_that_its_configurations_name",
    ),
    Row(
        "allow in a file",
        "nasx/config/trust.py",
        'if key not in given and own.get(key) not in (None, [], ""):',
        "if False:",
        "test_trust.py::test_a_file_does_not_allow_what_it_names",
    ),
    Row(
        "classes of others built by a check",
        "nasx/config/check.py",
        "None if foreign_packages(cfg[group]) else ",
        "",
        "test_trust.py::test_nothing_of_the_users_is_built_while_a_line_is_checked",
    ),
    Row(
        "values that read the environment",
        "nasx/config/trust.py",
        "    yield from _resolving(own)\n",
        "",
        "test_trust.py::test_a_resolver_is_refused_in_files_and_on_the_line",
    ),
    Row(
        "markup in a stranger's keys",
        "nasx/results/table_formats.py",
        "sentence(safe(note))",
        "sentence(note)",
        "test_foreign_keys.py::test_markdown_holds_it_as_text",
    ),
    Row(
        "formulas in a stranger's keys",
        "nasx/results/table_formats.py",
        "frame.map(quoted).rename(columns=quoted)",
        "frame",
        "test_foreign_keys.py::test_a_spreadsheet_calculates_nothing",
    ),
    Row(
        "escape codes in a stranger's keys",
        "nasx/report/run_summary.py",
        "cleaned(dict(result))",
        "dict(result)",
        "test_foreign_keys.py::test_a_terminal_is_not_steered",
    ),
    Row(
        "full disk",
        "nasx/core/files.py",
        "            os.unlink(part)\n",
        "            pass\n",
        "test_faults.py::test_a_disk_that_is_full_costs_nothing",
    ),
    Row(
        "log on a full disk",
        "nasx/tracking/progress.py",
        "    def handleError(self, record: logging.LogRecord) -> None:\n",
        "    def other(self, record):\n",
        "test_faults.py::test_a_log_on_a_full_disk_is_no_fault_of_its_own",
    ),
    Row(
        "file size limit",
        "nasx/core/files.py",
        'errno.EFBIG: "raise',
        'errno.EIO: "raise',
        "test_faults.py::test_a_limit_of_file_sizes_is_told",
    ),
    Row(
        "read-only or closed folder",
        "nasx/tracking/run_folder.py",
        "raise unwritable(folder, error) from error",
        "raise",
        "test_faults.py::test_a_place_that_cannot_be_written_is_refused_before_any_work",
    ),
    Row(
        "SIGTERM, SIGINT, SIGUSR1",
        "nasx/tracking/session.py",
        "        if asked is not None:\n            save()\n",
        "        if asked is not None:\n",
        "test_resume.py::test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on",
    ),
    Row(
        "kill or signal among scores at initialization",
        "nasx/methods/zero_cost.py",
        "            selection.pause()\n",
        "",
        "test_zero_cost.py::test_a_run_resumes_with_the_scores_that_it_made",
    ),
    Row(
        "a terminal that closes",
        "nasx/tracking/environment.py",
        'if number in system.signals("SIGHUP"):',
        "if False:",
        "test_faults.py::test_a_terminal_that_closes_leaves_a_checkpoint",
    ),
    Row(
        "a second signal",
        "nasx/tracking/environment.py",
        "if self.asked is not None:",
        "if False:",
        "test_faults.py::test_a_second_signal_ends_at_once",
    ),
    Row(
        "out of memory",
        "nasx/tracking/session.py",
        "if not environment.out_of_memory(error):",
        "if True:",
        "test_faults.py::test_memory_that_runs_out_names_what_to_lower",
    ),
    Row(
        "NaN loss",
        "nasx/core/meter.py",
        "    if names:",
        "    if False:",
        "test_run.py::test_a_loss_that_explodes_stops_the_search_and_keeps_it",
    ),
    Row(
        "weight that is not finite",
        "nasx/tracking/job.py",
        "self.engine.guard(self.engine.meter.means(), weights=True)",
        "pass",
        "test_faults.py::test_a_weight_that_is_not_finite_is_in_no_checkpoint",
    ),
    Row(
        "two runs of one configuration",
        "nasx/tracking/lock.py",
        "system.lock_file(handle)\n            return",
        "pass",
        "test_lock.py::test_a_second_process_is_told_who_is_running",
    ),
    Row(
        "two hosts, flock not passed on",
        "nasx/tracking/lock.py",
        "if touched_within(self.path, TAKEOVER_S):",
        "if False:",
        "test_lock.py::test_a_heart_that_beats_elsewhere_is_respected",
    ),
    Row(
        "lock taken over or removed",
        "nasx/tracking/run_folder.py",
        "self._lock.check()",
        "pass",
        "test_lock.py::test_without_its_lock_file_a_run_stops_writing",
    ),
    Row(
        "a reader that goes away",
        "nasx/core/standard_streams.py",
        "self.fault = error",
        "raise",
        "test_last_resort.py::test_work_goes_on_when_its_reader_went_away",
    ),
    Row(
        "standard output on a full disk",
        "nasx/core/standard_streams.py",
        "stream.fault.errno == errno.EPIPE",
        "True",
        "test_last_resort.py::test_output_that_is_lost_is_told_and_work_is_not",
    ),
    Row(
        "a closed stream",
        "nasx/core/standard_streams.py",
        "os.open(os.devnull, os.O_RDWR)",
        "pass",
        "test_last_resort.py::test_a_closed_stream_is_like_dev_null",
    ),
    Row(
        "a fault of the system",
        "nasx/errors.py",
        "        case OSError():",
        "        case NotADirectoryError():",
        "test_last_resort.py::test_what_the_system_can_do_is_one_line",
    ),
    Row(
        "two jobs of one folder",
        "nasx/cli/preflight.py",
        "if folders is not None and not faults and not found:",
        "if False:",
        "test_grid.py::test_a_sweep_that_cannot_go_to_its_end_is_refused",
    ),
    Row(
        "one job of a sweep fails",
        "nasx/cli/main.py",
        "fault=told)\n        raise",
        "fault=told)\n        sys.exit(1)",
        "test_cli.py::test_a_failed_job_lets_the_others_finish_and_is_listed",
    ),
    Row(
        "sweep started again",
        "nasx/jobs/search.py",
        "result: Result = make_job(ctx).run() if done is None else done",
        "result: Result = make_job(ctx).run()",
        "test_notes.py::test_a_failed_job_is_tried_again_and_the_others_are_not",
    ),
    Row(
        "sweep into a closed folder",
        "nasx/tracking/sweep_log.py",
        "raise files.unwritable(folder, error) from error",
        "raise",
        "test_notes.py::test_a_place_for_no_sweep_is_told_at_once",
    ),
    Row(
        "hostile checkpoint",
        "nasx/tracking/checkpoints.py",
        "weights_only=True)",
        "weights_only=False)",
        "test_records.py::test_a_hostile_checkpoint_is_refused_and_nothing_runs",
    ),
    Row(
        "corrupt data file",
        "nasx/data/layouts.py",
        "if found != md5:",
        "if False:",
        "test_data_images.py::test_cifar_wrong_md5",
    ),
    Row(
        "bad files among one's own images",
        "nasx/data/folder.py",
        "    if good.any():\n",
        "    if False:\n",
        "test_data_own_images.py::test_bad_files_are_named_at_once_and_a_retry_decodes_only_what_is_new",
    ),
    Row(
        "settings too large for images or memory",
        "nasx/config/check.py",
        'if not found and "dataset" in COMMANDS',
        'if False and "dataset" in COMMANDS',
        "test_data_bounds.py::test_the_command_line_refuses_it_without_torch",
    ),
    Row(
        "network gone in a download",
        "nasx/data/fetch.py",
        "            shutil.rmtree(folder, ignore_errors=True)",
        "            pass",
        "test_faults.py::test_a_network_that_goes_away_leaves_nothing",
    ),
    Row(
        "clock that jumps",
        "nasx/cli/status.py",
        "max(since_s, 0.0)",
        "since_s",
        "test_status.py::test_time_left_is_that_of_the_last_epochs",
    ),
    Row(
        "locale without our signs",
        "nasx/core/standard_streams.py",
        'out.reconfigure(errors="replace")',
        "pass",
        "test_cli.py::test_a_locale_without_our_signs_is_no_fault",
    ),
    Row(
        "a process of several dies",
        "nasx/core/distributed.py",
        "if not isinstance(error, dist.DistError) and not any(word in str(error) for word in PEER_FAILURES):",
        "if True:",
        "test_processes.py::test_a_killed_process_ends_the_other_and_one_process_goes_on",
    ),
    Row(
        "CUDA graph that cannot be recorded",
        "nasx/searcher/cuda_graphs.py",
        "        start.restore()\n        if why:",
        "        if why:",
        "test_graphs.py::test_a_recording_that_breaks_leaves_no_trace",
    ),
    Row(
        "replay that differs",
        "nasx/searcher/cuda_graphs.py",
        "if far <= allowed:",
        "if True:",
        "test_graphs.py::test_a_replay_that_differs_is_refused_and_leaves_no_trace",
    ),
)


def passes(copy: Path, tests: list[str]) -> tuple[bool, str]:
    """Whether the tests pass in the copy, and pytest's last line."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        text=True,
        capture_output=True,
    )
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
