"""Fuzz targets: checkpoints, run folders and rows."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import finished
import torch
from fuzz_lines import examined
from fuzzing import as_json, mangled
from hypothesis import strategies as st

from nasx.cli import main, report, status, table
from nasx.results import collect, differences
from nasx.tracking import checkpoints, records, run_folder


def _checkpoint() -> bytes:
    blob = io.BytesIO()
    torch.save(
        {
            "w": {"x": torch.arange(6.0).reshape(2, 3)},
            "rows": 2,
            "updates": 4,
            "started": "now",
            "metrics": '{"epoch": 1}\n{"epoch": 2}\n',
        },
        blob,
    )
    return blob.getvalue()


def damaged_checkpoints(root: Path) -> st.SearchStrategy[Any]:
    legacy = io.BytesIO()
    torch.save({"w": torch.ones(3), "rows": 1}, legacy, _use_new_zipfile_serialization=False)
    bodies = mangled([_checkpoint(), legacy.getvalue(), pickle.dumps({"rows": 1})])
    return st.tuples(bodies, st.booleans(), st.integers(0, 100))


def read_checkpoint(root: Path, drawn: tuple[bytes, bool, int]) -> None:
    body, signed, cut = drawn
    data = checkpoints.MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "000000004.ckpt").write_bytes(data if signed else data[: len(data) - cut])
    checkpoints.last(root)


def _record(**fields: Any) -> dict[str, Any]:
    return {
        "kind": "search",
        "name": "a",
        "status": "finished",
        "seed": 0,
        "identity": "0" * 8,
        "family": "f" * 8,
        "choices": {"method": "darts", "space": "nb201", "dataset": "cifar10", "search": "nb201_v1"},
        "protocol": "nb201-v1",
        "overrides": ["seed=0", "search.epochs=2"],
        "labels": ["best_of_2", "x"],
        "genotype": finished.CELL,
        "supernet": {"valid_accuracy": 0.5, "valid_loss": 2.0},
        "test_accuracy": None,
        "lookup": {"benchmark": "nb201", "source": "built-in", "params": 1, "cifar10": {"valid": 90.0, "test": None}},
        "params": None,
        "wall_s": 7200.0,
        "peak_mb": 100,
        "updates": 6,
        "passes": 12,
        "reduced": False,
        "changed": {"search.epochs": [50, 2]},
        "hardware": {"device": "cpu", "name": "A CPU", "threads": 1},
        "versions": {"nasx": "0", "torch": "2"},
        "commit": "abc",
        "command": "nasx search",
        "parent": None,
        "operations": {"nor_conv_3x3": 6},
        "reference": {"cifar10": {"valid": {"optimum": 91.6, "mean": 83.7, "median": 87.3}}},
        "verdict": {"collapsed": False, "not_converged": True, "why": ["x"]},
        "started": "2026-11-25T18:23:06+0000",
        "finished": "2026-11-25T18:23:06+0000",
        "stopped": None,
        "missing": None,
        "diagnostics": {},
        **fields,
    }


def _row(epoch: int) -> dict[str, Any]:
    mix = [[[0.2] * 5 for _ in range(6)]]
    return {
        "epoch": epoch,
        "updates": 3 * epoch,
        "lr": 0.1,
        "train_loss": 2.0,
        "train_accuracy": 0.3,
        "val_loss": 2.1,
        "val_accuracy": 0.2,
        "valid_loss": 2.0,
        "valid_accuracy": 0.4,
        "genotype": finished.CELL,
        "wall_s": 1.0 * epoch,
        "lookup": {"cifar10": {"valid": 80.0 + epoch, "test": None}},
        "mix": {"normal": mix},
        "entropy": 1.0,
        "saturation": 0.1,
        "change": 0.1,
        "moved": 0.2,
        "cells": {"normal": {"depth": 3, "width": 2, "skip": 1, "skip_ratio": 0.2}},
        "eigenvalue": 0.5,
    }


SAMPLES = [
    [
        _record(name="a"),
        [_row(1), _row(2)],
        {"kind": "search", "search": {"epochs": 2}, "choices": {"method": "darts"}},
    ],
    [
        _record(name="a", kind="retrain", protocol="darts-cifar", lookup=None, test_accuracy=0.97, parent="b"),
        [{"epoch": 1, "train_loss": 1.0, "test_accuracy": 0.9, "test_loss": 0.3, "wall_s": 2.0}],
        {"kind": "retrain", "retrain": {"epochs": 2}, "choices": {}},
    ],
]


def write_run(root: Path, drawn: list[Any]) -> None:
    """Write a run folder with what was drawn (record, rows, configuration), next to a valid one."""
    right = [_record(name="right", seed=1, identity="1" * 8), [_row(1), _row(2)], SAMPLES[0][2]]
    for name, parts in (("runs/right", right), ("runs/a", drawn)):
        (root / name / "checkpoints").mkdir(parents=True)
        parts = parts if isinstance(parts, list) else [parts]
        for file, part in zip(("result.json", "metrics.jsonl", "config.yaml"), parts, strict=False):
            many = isinstance(part, list) and file == "metrics.jsonl"
            (root / name / file).write_bytes(b"".join(as_json(row) + b"\n" for row in part) if many else as_json(part))


def read_run(root: Path, drawn: tuple[list[Any], str]) -> None:
    parts, reader = drawn
    write_run(root, parts)
    differences._configuration.cache_clear()
    frame = collect.collect("runs")
    if reader in ("console", "markdown", "latex", "csv"):
        table.main({"runs": ["runs"], "format": reader})
    elif reader == "differences":
        differences.rows([list(frame["folder"])[:1], list(frame["folder"])[1:]])
    elif reader == "retrain":
        examined(root, ("retrain", ["from=runs/a", "dataset=digits"]))
    else:
        main.dispatch(reader.split())


READERS = (
    "console",
    "markdown",
    "latex",
    "csv",
    "differences",
    "status runs",
    "compare seed=0 seed=1 runs=runs",
    "bench fill runs",
    "export from=runs/a",
    "info from=runs/a",
    "diagnose from=runs/a",
    "whatif runs/a auto",
    "whatif runs/a epoch=1",
    "retrain",
)


def write_report(root: Path, drawn: list[Any]) -> None:
    write_run(root, drawn)
    differences._configuration.cache_clear()
    report.main(["runs"])
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<u>" not in text


def lines_of_rows(root: Path) -> st.SearchStrategy[Any]:
    lines = b"".join(as_json(_row(n)) + b"\n" for n in (1, 2, 3))
    return mangled([lines, as_json(_row(1)), b"[" * 3000, b'{"epoch": 1' + b"0" * 5000 + b"}"])


def read_rows(root: Path, data: bytes) -> None:
    (root / "run").mkdir()
    (root / "run" / "metrics.jsonl").write_bytes(data)
    records.read_rows(root / "run")
    status.main(["run"])
    with run_folder.Run(root / "run", {"seed": 0}, {"kind": "search", "search": {"epochs": 3}}) as run:
        run.keep_rows('{"epoch": 1}\n')
        assert run.rows() == records.read_rows(root / "run") == [{"epoch": 1}]
