"""Malicious files: refused with a UserError or shown as text, no code executed, nothing written outside."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nb101_files
import numpy as np
import pytest
import torch
from composing import faults
from fuzz_records import SAMPLES, read_run, write_run
from fuzzing import Escaped, enclosed

from nasx.benchmarks import foreign_files, nb101_import, nb201_import, store
from nasx.benchmarks.nb201 import Nb201
from nasx.cli import main, report
from nasx.core import files
from nasx.data import folder, layouts, splits
from nasx.errors import UserError
from nasx.export import model
from nasx.results import collect
from nasx.tracking import checkpoints, records


class Payload:
    """Its pickle calls os.system; the audit hook of `watched` raises Escaped where that happens."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/nasx-was-here",)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    with enclosed(tmp_path) as root:
        yield root


def test_the_payload_would_be_seen(here: Path) -> None:
    with pytest.raises(Escaped):
        pickle.loads(pickle.dumps(Payload()))


# --------------------------------------------------------------------------------------------------- pickles
PICKLES = [pickle.dumps(Payload(), protocol) for protocol in (0, 2, 4)] + [
    b"cbuiltins\neval\n(V__import__('os').system('id')\ntR.",
    b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\nttR.",
    b"c__builtin__\ngetattr\n(cos\nVsystem\ntR.",
    pickle.dumps({"data": Payload()}),
]


@pytest.mark.parametrize("data", PICKLES, ids=range(len(PICKLES)))
def test_pickles_are_refused_everywhere(data: bytes, here: Path) -> None:
    (here / "x").write_bytes(data)
    with pytest.raises(UserError, match="is corrupt or not the published file"):
        layouts.unpickled(here / "x", "0" * 32, "y")
    (here / "source").mkdir()
    (here / "source" / "000000.pickle.pbz2").write_bytes(bz2.compress(data))
    (here / "source.pth").write_bytes(data)
    for path in (here / "source", here / "source.pth"):
        with pytest.raises(UserError, match="is not a NA"):
            nb201_import.import_nb201(path, here / "out.npz", complete=False)
    assert not (here / "out.npz").exists()


def test_a_checkpoint_with_code_is_skipped(here: Path) -> None:
    blob = io.BytesIO()
    torch.save({"rows": 0, "w": Payload()}, blob)
    for data in (blob.getvalue(), *PICKLES):
        path = here / "000000001.ckpt"
        body = checkpoints.MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data
        path.write_bytes(body)
        assert checkpoints.read(path) is None


def test_arrays_of_objects_are_refused(here: Path) -> None:
    np.savez(here / "x.npz", x=np.array([Payload()], dtype=object), y=np.arange(1))
    with pytest.raises(UserError):
        folder.read_npz(here / "x.npz", 0.2)
    with pytest.raises(UserError, match="cannot be read"):
        store.unpack(here / "x.npz", "nb201")


# ---------------------------------------------------------------------------------------------------- tables
def test_a_bomb_in_a_table_is_refused_unpacked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, "MAX_CELL_BYTES", 1 << 20)
    (here / "source").mkdir()
    (here / "source" / "000000.pickle.pbz2").write_bytes(bz2.compress(bytes(1 << 22)))
    with pytest.raises(UserError, match="unpacks to more than"):
        nb201_import.import_nb201(here / "source", here / "out.npz", complete=False)


def test_a_pickle_cannot_ask_for_memory(here: Path) -> None:
    """LONG_BINPUT with a large index makes Python's own reader reserve sixteen times as many bytes."""
    (here / "source").mkdir()
    (here / "source" / "000000.pickle.pbz2").write_bytes(bz2.compress(b"\x80\x02}r\x00\x00\x00\x7f."))
    with pytest.raises(UserError, match="MemoryError"):
        nb201_import.import_nb201(here / "source", here / "out.npz", complete=False)


def test_a_tfrecord_cannot_ask_for_memory(here: Path) -> None:
    length = (1 << 60).to_bytes(8, "little")
    (here / "x.tfrecord").write_bytes(length + nb101_files.masked(length) + b"x" * 16)
    with pytest.raises(UserError, match="claims 1152921504606846976 bytes"):
        nb101_import.import_nb101(here / "x.tfrecord", here / "out.npz")


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_an_npz_member_cannot_ask_for_memory(here: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)})
    zipped(here / "x.npz", **{"x.npy": head.getvalue(), "y.npy": head.getvalue()})
    with pytest.raises(UserError):
        folder.read_npz(here / "x.npz", 0.2)
    with pytest.raises(UserError):
        Nb201(path=str(here / "x.npz")).info()


# --------------------------------------------------------------------------------------------- what is shown
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


@pytest.mark.slow
def test_a_report_shows_markup_as_text(here: Path) -> None:
    record = SAMPLES[0][0]
    evil = {
        **record,
        "name": EVIL,
        "choices": dict.fromkeys(record["choices"], EVIL),
        "genotype": EVIL,
        "commit": EVIL,
        "protocol": EVIL,
        "overrides": [EVIL],
        "labels": [EVIL],
        "versions": {EVIL: EVIL},
        "identity": EVIL,
        "hardware": {"device": EVIL, "name": EVIL},
        "lookup": {"benchmark": EVIL, "source": EVIL, EVIL: {"valid": 1.0}},
    }
    rows = [
        {**row, "genotype": EVIL, EVIL: 1.0, "cells": {EVIL: {"depth": 1}}, "mix": {EVIL: row["mix"]["normal"]}}
        for row in SAMPLES[0][1]
    ]
    write_run(here, [evil, rows, {"kind": "search", "choices": {EVIL: EVIL}, "search": {EVIL: EVIL}}])
    report.main(["runs", f"title={EVIL}"])
    text = (here / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<img" not in text


def test_an_exports_description_builds_only_components(here: Path) -> None:
    from safetensors.torch import save

    facts = {
        "format": model.FORMAT,
        "space": {"_target_": "os.system", "command": "id"},
        "settings": {},
        "classes": [EVIL],
        "genotype": "x",
    }
    (here / "model.safetensors").write_bytes(save({"x": torch.zeros(1)}, model.text(facts)))
    with pytest.raises(UserError, match="is not a component of nasx"):
        model.load(here)
    (here / "model.safetensors").write_bytes(
        save({"x": torch.zeros(1)}, model.text({**facts, "space": {"_target_": "mine.space.Space"}}))
    )
    with pytest.raises(UserError, match=r"uses classes from mine, .*; if you trust them, add allow=\[mine\]"):
        model.load(here)
    huge = {
        **facts,
        "space": {
            "_target_": "nasx.spaces.nb201.space.Nb201",
            "layers": 1000,
            "channels": 65536,
            "affine": False,
            "operations": ["none", "skip_connect"],
            "batch_norm": "batch",
        },
        "settings": {"layers": 10**9, "channels": 10**9, "stem": "cifar"},
    }
    (here / "model.safetensors").write_bytes(save({"x": torch.zeros(1)}, model.text(huge)))
    with pytest.raises(UserError, match="is out of range for 1 tensor"):
        model.load(here)
    beyond = {**huge, "space": {**huge["space"], "layers": 10**9}}
    (here / "model.safetensors").write_bytes(save({"x": torch.zeros(1)}, model.text(beyond)))
    with pytest.raises(UserError, match="layers=1000000000: must be above 0 and at most 1000"):
        model.load(here)


def test_foreign_text_does_not_steer_a_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steering = "\x1b]0;owned\x07\x1b[2J\u202e\x9b"
    record = {
        **SAMPLES[0][0],
        "name": steering,
        "labels": [steering],
        "genotype": steering,
        "commit": steering,
        "versions": {steering: steering},
        "hardware": {"device": "cpu", "name": steering},
        "choices": dict.fromkeys(SAMPLES[0][0]["choices"], steering),
    }
    write_run(here, [record, [], {}])
    (here / "runs" / "b").mkdir()
    (here / "runs" / "b" / "fault.txt").write_text(steering)
    (here / "runs" / "b" / "config.yaml").write_text("{}")
    main.dispatch(["status", "runs"])
    with pytest.raises(SystemExit):
        main.main(["bench", "query", steering])
    told = capsys.readouterr()
    assert "failed: b" in told.out
    frame = collect.collect("runs")
    shown = told.out + told.err + frame.drop(columns="folder").to_csv()
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(shown)


def test_what_fuzzing_found(here: Path) -> None:
    """Each of these ended in a traceback once."""
    path = here / "000000001.ckpt"
    for state in ([1, 2], {"rows": "many"}, {"rows": None}):
        blob = io.BytesIO()
        torch.save(state, blob)
        data = blob.getvalue()
        path.write_bytes(checkpoints.MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        assert checkpoints.read(path) is None
    (here / "split").write_text('{"train": ["int", [1000000000000000000000000000000]], "valid": ["int", [0]]}')
    with pytest.raises(UserError, match="is not a split file"):
        splits.read_split(str(here / "split"), 4)
    whole = [nb101_files.HASH, 108, "01", ["input,output"], ""]
    (here / "x.tfrecord").write_bytes(nb101_files.frame(json.dumps(whole).encode()))
    with pytest.raises(UserError, match="is not a NAS-Bench-101 tfrecord"):
        nb101_import.import_nb101(here / "x.tfrecord", here / "out.npz")
    (here / "run").mkdir()
    for text in ("true", "[]", "choices: 3", "choices: {space: ../x}", "dataset: [x]\nchoices: {space: 'darts,nb201'}"):
        (here / "run" / "config.yaml").write_text(text)
        assert faults("from=run", command="retrain")
    for arrays in (
        {"x": np.zeros((4, 8, 8), np.uint8), "y": np.arange(2)},
        {"x": np.uint8(1), "y": np.int64(1)},
        {"x": np.zeros((1, 8, 8), np.uint8), "y": np.arange(1)},
        {},
    ):
        np.savez(here / "x.npz", **arrays)
        with pytest.raises(UserError, match=r"dataset\.path"):
            folder.read_npz(here / "x.npz", 0.2)
    write_run(here, [{**SAMPLES[0][0], "params": 10**400, "peak_mb": -(10**400)}, [], {}])
    assert collect.collect("runs").attrs["skipped"] == {"record unreadable": 1}


@pytest.mark.slow
def test_odd_values_of_rows_and_records_are_borne(here: Path) -> None:
    rows = [
        {"epoch": math.inf},
        {"epoch": 1, "cells": [3], "node_cosine": {}, "output_cosine": [[], {"conv": "y"}]},
        {"epoch": 2, "cells": {"cell": {"depth": 1}, "other": 3}, "output_cosine": 1.0},
    ]
    read_run(here, ([{**SAMPLES[0][0], "seed": [0]}, rows, SAMPLES[0][2]], "markdown"))
    report.main(["runs"])


def test_deep_and_odd_records_are_left_out(here: Path) -> None:
    for name, text in {"deep": "[" * 100_000, "nan": "NaN", "text": '"x"', "odd": '{"kind": ["search"]}'}.items():
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "result.json").write_text(text)
        (here / "runs" / name / "config.yaml").write_text(text)
        (here / "runs" / name / "metrics.jsonl").write_text(text)
    assert records.read_rows(here / "runs" / "deep") == []
    assert files.read_json(here / "runs" / "deep" / "result.json") is None
    assert files.read_yaml(here / "runs" / "deep" / "config.yaml") is None
    main.dispatch(["status", "runs"])
