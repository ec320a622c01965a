"""Conversion of NAS-Bench-101's tfrecord file to nasx's compact table, without TensorFlow.

A tfrecord is a sequence of frames: length (uint64), masked CRC-32C of the length, record, masked CRC-32C of the record,
all little-endian; masked(c) = rotate_right(c, 15) + 0xa282ead8 (mod 2^32). Each record is a JSON list

    [hash, epochs, adjacency (row-major 0 and 1), "input,...,output", base64-encoded ModelMetrics message]

The message (proto2, model_metrics.proto) contains three EvaluationData messages in field 1, from the start, the middle
and the end of training (each with training_time in field 2, validation_accuracy in field 4 and test_accuracy in field
5, all doubles), and trainable_parameters in field 2.

The file is read as a stream. To be fast enough in numpy, the checksums of a block of records are computed together, one
byte position at a time. Only the values at the end of each training run are stored.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nasx.benchmarks.nb101 import CELLS, FORM, Table, graph_hash
from nasx.benchmarks.store import ELSEWHERE, Say, cache_folder, pack, sha256, silent
from nasx.core.files import write_atomic
from nasx.errors import UserError

BUDGETS = (4, 12, 36, 108)
BLOCK = 8192  # number of records whose checksums are computed together
MAX_RECORD = 1 << 16  # bytes; the records of the benchmark have a few hundred
CHECKED = 1000  # the hashes of the first CHECKED graphs and of every CHECKED-th graph after them are recomputed
REMEDY = "download nasbench_only108.tfrecord or nasbench_full.tfrecord again and check its size"
_FAULTS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error)
_HASH = re.compile(r"[0-9a-f]{32}")


def _crc_table() -> np.ndarray:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(0x82F63B78), values >> 1)
    return values


_TABLE = _crc_table()


def masked_crc32c(records: list[bytes]) -> np.ndarray:
    """Compute the masked CRC-32C (Castagnoli) of each record, (n,) uint32."""
    lengths = np.array([len(record) for record in records])
    order = np.argsort(-lengths, kind="stable")  # longest first, so the unfinished records are always a prefix
    lengths = lengths[order]
    width = int(lengths[0]) if len(lengths) else 0
    rows = np.zeros((len(records), width), np.uint8)
    rows[np.arange(width) < lengths[:, None]] = np.frombuffer(b"".join(records[i] for i in order), np.uint8)
    running = np.searchsorted(-lengths, -np.arange(width), side="left")
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for column, count in zip(np.ascontiguousarray(rows.T), running):
        part = crc[:count]
        crc[:count] = _TABLE[(part ^ column[:count]) & 0xFF] ^ (part >> np.uint32(8))
    crc = ~crc
    masked = np.empty_like(crc)
    masked[order] = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    return masked


def blocks(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the records of a tfrecord in blocks. Raises ValueError if a checksum is wrong or the file is truncated."""
    done = 0
    while True:
        heads: list[bytes] = []
        records: list[bytes] = []
        sums: list[tuple[int, int]] = []
        while len(records) < BLOCK and (head := stream.read(12)):
            if len(head) < 12:
                raise ValueError(f"the file ends inside record {done + len(records)}")
            length, head_sum = struct.unpack("<QI", head)
            if length > MAX_RECORD:
                raise ValueError(f"record {done + len(records)} claims {length} bytes; this is not a tfrecord of cells")
            body = stream.read(length + 4)
            if len(body) < length + 4:
                raise ValueError(f"the file ends inside record {done + len(records)}")
            heads.append(head[:8])
            records.append(body[:-4])
            sums.append((head_sum, int.from_bytes(body[-4:], "little")))
        if not records:
            return
        wrong = (np.stack([masked_crc32c(heads), masked_crc32c(records)], 1) != np.array(sums, np.uint32)).any(1)
        if wrong.any():
            raise ValueError(f"the checksum of record {done + int(wrong.argmax())} is wrong")
        yield records
        done += len(records)


# --------------------------------------------------------------------------------------------- one record
def fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield the (number, value) of each field in a protobuf message, in order.

    Varints are converted to int and 64-bit fields (doubles) to float; all other values are bytes.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == 1:
            yield number, struct.unpack_from("<d", message, at)[0]
            at += 8
        elif wire in (2, 5):
            length, at = _varint(message, at) if wire == 2 else (4, at)
            if at + length > len(message):
                raise ValueError("a field extends past the end of its message")
            yield number, message[at : at + length]
            at += length
        else:
            raise ValueError(f"a message has the unsupported wire type {wire}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a varint is longer than ten bytes")


def metrics(message: bytes) -> tuple[int, float, float, float]:
    """Return (number of parameters, validation accuracy, test accuracy, training time) at the end of training.

    Accuracies are fractions; the time is in seconds. Raises ValueError if the ModelMetrics `message` is invalid.
    """
    params, evaluations = 0, []
    for number, value in fields(message):
        if number == 1 and isinstance(value, bytes):
            evaluations.append(value)
        elif number == 2 and isinstance(value, int):
            params = value
    if len(evaluations) != 3:
        raise ValueError(f"the number of evaluations is {len(evaluations)}, not 3")
    end = dict(fields(evaluations[2]))
    valid, test, seconds = float(end[4]), float(end[5]), float(end[2])
    if not (0 <= valid <= 1 and 0 <= test <= 1 and seconds >= 0):
        raise ValueError(f"accuracies {valid}, {test} after {seconds} s are out of range")
    return params, valid, test, seconds


class Collected:
    """The values of the graphs read so far; rows are in the order in which the graphs first appear."""

    def __init__(self) -> None:
        self.rows: dict[bytes, int] = {}
        self.accuracy = np.full((CELLS, len(BUDGETS), 3, 2), np.nan, np.float32)
        self.seconds = np.full((CELLS, 3), np.nan, np.float32)
        self.repeats = np.zeros((CELLS, len(BUDGETS)), np.uint8)
        self.params = np.zeros(CELLS, np.int32)

    def take(self, record: bytes) -> None:
        """Add the record of a training run. Raises ValueError if the record is invalid."""
        key, epochs, adjacency, labels, encoded = json.loads(record)
        if not _HASH.fullmatch(key):
            raise ValueError(f"{key!r} is not a hash")
        budget = BUDGETS.index(epochs)
        params, valid, test, seconds = metrics(b64decode(encoded, validate=True))
        row = self.rows.setdefault(bytes.fromhex(key), len(self.rows))
        repeat = self.repeats[row, budget]
        if repeat == 0 and (row < CHECKED or row % CHECKED == 0):
            self._check(key, adjacency, labels)
        if repeat == 3:
            raise ValueError(f"the graph {key} has more than three runs of {epochs} epochs")
        self.accuracy[row, budget, repeat] = valid, test
        if epochs == 108:
            self.seconds[row, repeat] = seconds
        self.repeats[row, budget] = repeat + 1
        self.params[row] = params

    def _check(self, key: str, adjacency: str, labels: str) -> None:
        names = labels.split(",")
        n = len(names)
        if len(adjacency) != n * n or not set(adjacency) <= {"0", "1"}:
            raise ValueError(f"the adjacency matrix of the graph {key} is not square")
        found = graph_hash([[int(x) for x in adjacency[n * u : n * (u + 1)]] for u in range(n)], names)
        if found != key:
            raise ValueError(f"the graph stored under {key} has the hash {found}")


def import_nb101(
    path: str | Path, out: str | Path | None = None, *, say: Say = silent, complete: bool = True
) -> dict[str, object]:
    """Read a NAS-Bench-101 tfrecord and write the compact table to `out` (None: the default path of `Nb101`).

    `say` receives progress messages. `complete=False` accepts a file that contains only some of the graphs. Returns a
    summary: file, source, sha256, cells, runs, epochs, columns. Raises UserError if the file is damaged or incomplete,
    or lacks training budgets that the existing table contains; the existing table is then unchanged.
    """
    path, out = Path(path).expanduser(), cache_folder() / "nb101.npz" if out is None else Path(out).expanduser()
    collected, runs = Collected(), 0
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            for number, block in enumerate(blocks(stream)):
                for record in block:
                    try:
                        collected.take(record)
                    except _FAULTS as error:
                        raise ValueError(f"record {runs}: {error}") from error
                    runs += 1
                if number % 10 == 0:
                    say(f"{path.name}: {100 * stream.tell() // size} %, {runs} runs of {len(collected.rows)} graphs")
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"is not a NAS-Bench-101 tfrecord, or is damaged ({error})", REMEDY) from error
    n = len(collected.rows)
    full = int((collected.repeats[:n, BUDGETS.index(108)] == 3).sum())
    if n == 0 or (complete and (n, full) != (CELLS, CELLS)):
        raise UserError(
            str(path), f"contains {n} of {CELLS} graphs, {full} of them with three runs of 108 epochs", REMEDY
        )
    arrays, epochs = _arrays(collected)
    if lost := sorted(_budgets(out) - {*epochs}):
        raise UserError(
            str(path),
            f"lacks the accuracies after {', '.join(map(str, lost))} epochs, which the table at {out} contains",
            "import a file that contains them, or move the table elsewhere",
        )
    say(f"{path.name}: computing its checksum")
    about = {
        "form": FORM,
        "epochs": epochs,
        "source": f"NAS-Bench-101 {path.name}",
        "version": path.name,
        "sha256": sha256(path),
        "cells": n,
        "runs": runs,
        "license": "NAS-Bench-101: Apache-2.0",
        "columns": {
            "high, low": "the graph's MD5 hash as two 64-bit numbers, sorted",
            "accuracy": f"fractions after {', '.join(map(str, epochs))} epochs by 3 repeats by "
            "(validation, test) on CIFAR-10, end of training; NaN = not run",
            "params": "trainable parameters",
            "seconds": "training time of 108 epochs, mean over repeats",
        },
        "notes": "imported by the user; published numbers are means over the three repeats of 108 epochs",
    }
    write_atomic(out, pack(arrays, about), ELSEWHERE)
    shown = ("source", "sha256", "cells", "runs", "epochs", "columns")
    return {"file": str(out), **{key: about[key] for key in shown}}


def _budgets(out: Path) -> set[int]:
    """Return the training budgets in the table at `out`, in epochs; empty if the table cannot be read."""
    try:
        return {*Table.read(out).epochs}
    except UserError:
        return set()


def _arrays(collected: Collected) -> tuple[dict[str, np.ndarray], list[int]]:
    n = len(collected.rows)
    keys = np.frombuffer(b"".join(collected.rows), ">u8").reshape(n, 2).astype(np.uint64)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    used = [i for i, epochs in enumerate(BUDGETS) if epochs == 108 or collected.repeats[:n, i].any()]
    seconds = collected.seconds[:n][order].astype(np.float64)
    known = ~np.isnan(seconds)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, seconds, 0.0).sum(1) / known.sum(1)
    arrays = {
        "high": keys[order, 0],
        "low": keys[order, 1],
        "accuracy": collected.accuracy[:n][order][:, used],
        "params": collected.params[:n][order],
        "seconds": mean.astype(np.float32),
    }
    return arrays, [BUDGETS[i] for i in used]
