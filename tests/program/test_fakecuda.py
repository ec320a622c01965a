"""The GPU path on machines without a GPU: torch's CUDA build on a runtime whose kernels do nothing (tests/fakecuda).

Detected are tensors of two devices in one operation, synchronizations inside a step, steps that a CUDA graph cannot
capture, crashes of whole commands, more kernels or memory than before, gradients in a layout that fused optimizers
refuse. Numbers and times are meaningless. Each check must detect a planted fault.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakecuda import runtime

WHY = runtime.missing()
pytestmark = [pytest.mark.skipif(WHY is not None, reason=str(WHY)), pytest.mark.early]
ROW = dict[str, Any]
SLACK = 1.1
"""How many times the launches and the memory of ceilings.csv a step may take (versions of torch differ)."""
REPLAY = 40
"""Launches around a replay: batches, numbers and seeds that are filled in, values that are copied out."""
FEW = "darts:pc_darts,s4:snas,nb1shot1_1:drnas,darts_rnn:gdas"
"""Pairs of each kind of network for every run of the tests; nb201 has all methods there, the rest is slow."""
COMMANDS = ("graphs", "decoded", "recording_breaks", "resumed", "retrain_all", "evaluate", "memory_search")


def run(*words: str, **variables: str) -> Any:
    """The JSON in the last line of what a script of tests/fakecuda prints."""
    done = subprocess.run(runtime.words(*words), env=runtime.environment(**variables), capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def ceilings() -> dict[tuple[str, str], tuple[int, int]]:
    lines = (runtime.HERE / "ceilings.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split(",") for line in lines]
    return {(space, method): (int(launches), int(peak)) for space, method, launches, peak in rows}


def faults(row: ROW, known: dict[tuple[str, str], tuple[int, int]]) -> list[str]:
    """What is wrong with the steps of a pair."""
    if "error" in row:
        return [f"error: {row['error']}"]
    found = [
        f"{kind}: {row[kind]}"
        for kind in ("waits", "pageable", "violations", "replay_waits", "refused")
        if row.get(kind)
    ]
    pair = row["space"], row["method"]
    if pair not in known:
        return [*found, "ceilings: none; run tests/fakecuda/runtime.py steps.py --ceilings"]
    found += [
        f"{name}: {row[name]} instead of {ceiling}"
        for name, ceiling in zip(("launches", "peak_kib"), known[pair], strict=True)
        if row[name] > SLACK * ceiling
    ]
    if row["cannot"] is None and not row.get("refused"):
        if row["replays"] != [0, 1, 1, 1, 1]:
            found.append(f"replays: {row['replays']}")
        if row["replay_launches"] > REPLAY:
            found.append(f"replay_launches: {row['replay_launches']}")
    return found


def walked(rows: list[ROW], least: int) -> None:
    known = ceilings()
    assert len(rows) >= least
    wrong = {f"{row['space']} x {row['method']}": found for row in rows if (found := faults(row, known))}
    assert not wrong, json.dumps(wrong, indent=1)


def test_the_runtime_keeps_the_rules_of_cuda_and_nasx_ends_broken_recordings() -> None:
    found = run("rules.py")
    assert len(found) > 20
    assert not {name: detail for name, detail in found.items() if detail is not None}


def test_steps_of_every_method_wait_for_nothing_and_are_replayed_in_every_epoch() -> None:
    walked(run("steps.py", "--space", "nb201", "--plain", "--pairs", FEW), 22 + len(FEW.split(",")))


@pytest.mark.slow
def test_every_method_on_every_space() -> None:
    walked(run("steps.py"), 220)


@pytest.mark.parametrize("names", [("bf16", "checkpoint", "darts"), pytest.param((), marks=pytest.mark.slow)])
def test_predicted_memory_is_that_of_the_allocator(names: tuple[str, ...]) -> None:
    """Within 10 %, for passes of several methods on several spaces; the workspaces of cuDNN are in neither."""
    rows = run("memory.py", *names)
    assert len(rows) >= (len(names) or 10)
    apart = {row["name"]: row["predicted"] / row["measured"] - 1 for row in rows}
    assert not {name: share for name, share in apart.items() if abs(share) > 0.1}


PLANTS = {
    "mix": "error",
    "wait": "waits",
    "copy": "pageable",
    "stream": "violations",
    "launches": "launches",
    "memory": "peak_kib",
}


def test_a_planted_fault_in_a_step_is_found() -> None:
    rows = run("steps.py", "--space", "nb201", "--method", "darts", "--plant", ",".join(["", *PLANTS]))
    known = ceilings()
    found = {row["plant"]: [fault.split(":")[0] for fault in faults(row, known)] for row in rows}
    assert found.pop("") == []
    for plant, kind in PLANTS.items():
        assert kind in found[plant], plant
    for plant in ("wait", "copy", "stream"):  # these cannot be recorded either, and the search goes on
        assert "refused" in found[plant], plant


@pytest.mark.parametrize("words", [("--few",), pytest.param((), marks=pytest.mark.slow)])
def test_gradients_have_the_layout_of_their_weights_with_channels_last(words: tuple[str, ...]) -> None:
    rows = run("layout.py", *words)
    assert len({row["space"] for row in rows}) >= (3 if words else 12)
    assert all(row["gradients"] > 30 for row in rows)
    assert not [row for row in rows if row["wrong"]]


def test_a_planted_slice_of_a_weight_is_found() -> None:
    (row,) = run("layout.py", "--plant")
    assert "stem.weight" in row["wrong"]


def commands(folder: Path, *names: str) -> dict[str, ROW]:
    rows = {row["name"]: row for row in run("commands.py", str(folder), *names)}
    wrong = {
        name: (row["wrong"], row["waits"], row["violations"], row["output"])
        for name, row in rows.items()
        if row["wrong"]
    }
    assert not wrong, json.dumps(wrong, indent=1)
    return rows


def test_whole_commands(tmp_path: Path) -> None:
    """Search replayed, by turns and with another thread that pins memory; stopped and resumed; retraining with all
    options, export, evaluation; too little memory; and steps that read a value back, which is planted."""
    rows = commands(tmp_path / "runs", *COMMANDS)
    for name in ("graphs", "decoded", "resumed"):
        assert rows[name]["replays"] > 5, name
    assert rows["recording_breaks"]["violations"], "the plant is found where it breaks the recording"
    assert rows["recording_breaks"]["replays"] == 0
    assert rows["recording_breaks"]["waits"], "the plant waits in each step"


def test_the_measurements_for_a_gpu_run_to_their_end(tmp_path: Path) -> None:
    """scripts/gpu_once.py, on tiny sizes; compilation alone is left out here."""
    out, script = tmp_path / "gpu.json", str(runtime.REPO / "scripts" / "gpu_once.py")
    done = subprocess.run(
        [*runtime.words(script), "--dry-run", "--minutes", "100", "--out", str(out)],
        env=runtime.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = json.loads(out.read_text(encoding="utf-8"))
    assert done.returncode == 0, (found.get("errors"), done.stderr[-2000:])
    assert found["ended"]
    assert found["drawing_packages"] == []
    assert {row["why"] for row in found["skipped"]} == {"the fake runtime does not compile"}
    parts = found["parts"]
    assert "collected" in parts["tests"][0]["last"]
    assert {row["replayed"] for row in parts["speed"] if "graphs" in row["engine"] and "replayed" in row} == {"yes"}
    assert len([row for row in parts["speed"] if "ratio" in row]) == 14
    assert len(parts["memory"]) == 14
    assert 0 < parts["predicted memory"][0]["peak_mib"] < parts["memory"][0]["peak_mib"]  # with cuBLAS' 32 MiB
    assert parts["search"][-1]["finished"]
    assert parts["search"][-1]["lookup"] is not None


@pytest.mark.slow
def test_a_part_that_breaks_stops_no_other(tmp_path: Path) -> None:
    out, script = tmp_path / "gpu.json", str(runtime.REPO / "scripts" / "gpu_once.py")
    words = [*runtime.words(script), "--dry-run", "--parts", "memory,search", "--minutes", "100", "--out", str(out)]
    done = subprocess.run(words, env=runtime.environment(FAKE_GB="0.03"), cwd=tmp_path, capture_output=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert done.returncode == 1
    assert found["ended"]
    assert [error.split(":")[0] for error in found["errors"]] == ["memory", "search"]


def test_time_that_is_over_leaves_the_figures_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(runtime.REPO / "scripts"))
    import gpu_searches

    report = gpu_searches.Report(tmp_path / "gpu.json")

    def part() -> None:
        with gpu_searches.limited(0.2):
            report.add("speed", ms=1.0)
            with contextlib.suppress(Exception):  # on the way, faults are caught
                while True:
                    pass

    with pytest.raises(gpu_searches.TimeUp):
        part()
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"] == {"speed": [{"ms": 1.0}]}


@pytest.mark.slow
def test_all_whole_commands(tmp_path: Path) -> None:
    assert len(commands(tmp_path / "runs")) >= 40
