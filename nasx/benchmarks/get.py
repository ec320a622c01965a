"""Downloads of public tables by name: `nasx bench get` (tables: offers.py; downloads: download.py).

Each file is downloaded to the folder `downloads` next to the tables, verified, converted to columns of the compact
table (columns.py), and removed. Existing columns are not downloaded again. Files come from the authors' servers or from
a mirror, which is a web folder that contains files of the same names (`mirror=URL`, or the environment variable
NASX_MIRROR).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import numpy as np

from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import Column, column, name_of
from nasx.benchmarks.download import fetch, verified
from nasx.benchmarks.foreign_files import load_torch
from nasx.benchmarks.isomorphism import CELLS, official_order
from nasx.benchmarks.nb101 import Nb101
from nasx.benchmarks.nb101_import import import_nb101
from nasx.benchmarks.nb201 import Nb201
from nasx.benchmarks.nb201_import import add, import_nb201, today
from nasx.benchmarks.offers import DEVICES, HELP_COMMIT, LATENCY, MEGABYTE, NB101, OFFERS, TESTS, File
from nasx.benchmarks.store import Say, cache_folder, silent
from nasx.core.spelling import suggest
from nasx.errors import UserError

FILL = "`nasx bench fill outputs` adds its values to the finished runs in outputs/"
SETTINGS = ("devices", "from", "mirror")


def bench_offers() -> dict[str, dict[str, object]]:
    """Return the available tables by name: content, size, license, source, and whether they already exist."""
    found: dict[str, dict[str, object]] = {}
    for name, offer in OFFERS.items():
        found[name] = {
            "answers": offer.answers,
            "size": f"{offer.size / MEGABYTE:.1f} MB",
            "license": offer.license,
            "source": offer.source,
            "here": _here(name),
            "command": f"nasx bench get {name}",
        }
        if name == LATENCY:
            found[name] |= {"devices": ", ".join(DEVICES), "of some": f"nasx bench get {name} devices=raspi4,pixel3"}
    return found


def _here(name: str) -> str:
    """Return a phrase that states whether a table exists and, if so, its sources or devices."""
    if name == NB101:
        table = Nb101().table()
        return "no" if table is None else f"yes, from {table.about['source']}"
    columns = Nb201().table().columns
    if name == LATENCY:
        held = [device for device in DEVICES if f"latency.{device}" in columns]
        return "no" if not held else f"{len(held)} of {len(DEVICES)}: {', '.join(held)}"
    tests = [
        [each for what in ("mean", "runs") if (each := columns.get(name_of(dataset, "test", 200, what)))]
        for dataset in DATASETS
    ]
    if not any(tests):
        return "no"
    sources = dict.fromkeys(f"{each.source}{each.date and f', {each.date}'}" for several in tests for each in several)
    return ("yes" if all(tests) else "in part") + f", from {'; '.join(sources)}"


class Asked(TypedDict):
    """Keyword arguments of `bench_get`."""

    devices: list[str]
    brought: str | None
    mirror: str | None


def asked(words: Iterable[str]) -> Asked:
    """Parse the arguments after `nasx bench get NAME` into keyword arguments of `bench_get`. Raises UserError."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in SETTINGS or not equals or not value:
            raise UserError(
                f"nasx bench get {word}",
                "is not a setting",
                f"choose from {', '.join(f'{name}=...' for name in SETTINGS)}",
            )
        found[key] = value
    devices = [device for device in found.get("devices", "").strip("[]").split(",") if device]
    return {
        "devices": [device.strip() for device in devices],
        "brought": found.get("from"),
        "mirror": found.get("mirror"),
    }


def bench_get(
    name: str, devices: Sequence[str] = (), *, brought: str | None = None, mirror: str | None = None, say: Say = silent
) -> dict[str, object]:
    """Download the table `name`, add it to the existing tables, and return a summary.

    `devices` limits latencies to these devices. `brought` is the path of a manually downloaded file, or of the folder
    that contains it. `mirror` is the address of a web folder to use instead of the authors' servers. If UserError is
    raised, the existing tables are unchanged.
    """
    if name not in OFFERS:
        raise UserError(f"nasx bench get {name}", "unknown table", suggest(name, OFFERS))
    files = _wanted(name, devices, brought)
    if not files:
        return {"table": name, "state": "already exists", "here": _here(name), "next": FILL}
    mirror = mirror or os.environ.get("NASX_MIRROR")
    if mirror and urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(f"mirror={mirror}", "is not the address of a web folder", "write https://HOST/FOLDER")
    if mirror and urlsplit(mirror).scheme == "http" and not brought and not all(file.sha256 for file in files):
        raise UserError(
            f"mirror={mirror}",
            f"does not use HTTPS, and {name} has no published checksum to detect a change",
            "write https://HOST/FOLDER",
        )
    folder = cache_folder() / "downloads"
    downloaded: list[Path] = []
    try:
        if brought:
            path = Path(brought).expanduser()
            summary = _read(
                name, files, [verified(file, path / file.name if path.is_dir() else path) for file in files], say
            )
        else:
            for file in files:
                address = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.address
                say(f"{file.name}: {file.size / MEGABYTE:.1f} MB from {address}")
                by_hand = (
                    f"download {file.address} by hand and run `nasx bench get {name} "
                    f"from={'FOLDER' if len(files) > 1 else 'FILE'}`, or use a mirror with mirror=URL"
                )
                downloaded.append(fetch(file, address, folder, by_hand, say))
            summary = _read(name, files, downloaded, say)
            _remove(downloaded)
    except UserError as error:
        if error.where in map(str, downloaded):  # the error is in a downloaded file
            _remove(downloaded)
        raise
    finally:
        with contextlib.suppress(OSError):  # fails if partial downloads remain
            folder.rmdir()
    return {"table": name, **summary, "license": OFFERS[name].license, "next": FILL}


def _wanted(name: str, devices: Sequence[str], brought: str | None) -> list[File]:
    """Return the requested files whose columns are not in the table yet. Raises UserError for invalid arguments."""
    offer = OFFERS[name]
    if devices and name != LATENCY:
        raise UserError(
            f"devices={','.join(devices)}", f"{name} has no per-device values", f"leave out devices, or get {LATENCY}"
        )
    if unknown := [device for device in devices if device not in DEVICES]:
        raise UserError(
            f"devices={','.join(unknown)}", "has no published latencies", f"choose from {', '.join(DEVICES)}"
        )
    if name == LATENCY and brought and not devices and not Path(brought).expanduser().is_dir():
        devices = [Path(brought).stem]
        if devices[0] not in DEVICES:
            raise UserError(
                f"from={brought}",
                "is neither a folder of latencies nor named after a device",
                f"name it DEVICE.pt, where DEVICE is one of {', '.join(DEVICES)}",
            )
    if name == NB101:
        return [] if Nb101().table() else list(offer.files)
    known = {
        checksum
        for each in Nb201().table().columns.values()
        for checksum in (each.sha256.values() if isinstance(each.sha256, dict) else [each.sha256])
    }
    return [
        file
        for file in offer.files
        if file.sha256 not in known and (name != LATENCY or not devices or file.stem in devices)
    ]


def _read(name: str, files: Sequence[File], paths: Sequence[Path], say: Say) -> dict[str, object]:
    """Add verified files to the tables and return a summary."""
    if name == NB101:
        return import_nb101(paths[0], say=say)
    if name == TESTS:
        return import_nb201(paths[0], say=say, source=OFFERS[name].source)
    new = {f"latency.{file.stem}": latencies(file, path) for file, path in zip(files, paths, strict=True)}
    out = cache_folder() / "nb201.npz"
    kept = add(out, new, paths[0], say=say)
    return {
        "file": str(out),
        "source": OFFERS[name].source,
        "cells": CELLS,
        "columns": {column_: each.meaning for column_, each in new.items()},
        "kept": kept,
    }


def latencies(file: File, path: Path) -> Column:
    """Read a file of 15,625 latencies (in milliseconds, in the official order) and return them as a column.

    Raises UserError if the file is damaged.
    """
    try:
        values = np.asarray(load_torch(path), dtype=np.float64)
        if values.shape != (CELLS,) or not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"it does not contain {CELLS:,} positive numbers")
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise UserError(str(path), f"is not a file of latencies ({error})", f"download {file.address} again") from error
    ordered = np.empty(CELLS)
    ordered[list(official_order())] = values
    return column(
        f"latency.{file.stem}",
        ordered,
        OFFERS[LATENCY].source,
        license=OFFERS[LATENCY].license,
        meaning=f"milliseconds of one forward pass on CIFAR-10, {DEVICES[file.stem].what}",
        version=HELP_COMMIT,
        sha256={file.name: file.sha256 or ""},
        date=today(),
    )


def _remove(paths: Sequence[Path]) -> None:
    """Remove downloaded files, ignoring errors."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
