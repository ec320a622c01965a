"""Files of benchmark tables: compact arrays with a description, written atomically.

A table is an uncompressed ``.npz`` archive, whose members have CRCs that detect flipped bits. Its member ``about`` is a
JSON object with the format of the table, the meaning of each column, and the version and sha256 of each source. The
file contains no pickled objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from nasx.core.files import NPZ_FAULTS, make_folder, remove_empty, unwritable, user_cache
from nasx.core.system import lock_file, open_folder
from nasx.errors import UserError

Say = Callable[[str], None]
Arrays = dict[str, np.ndarray]
MAX_BYTES = 1 << 30
"""Maximum size of an unpacked table in bytes; the largest table, NAS-Bench-101, is less than a tenth of this size."""
ELSEWHERE = "choose another file with out=FILE"
"""Remedy if a table cannot be written."""


def silent(message: str) -> None:
    """Discard a progress message; the default value of `say`."""


def cache_folder() -> Path:
    """Return the folder of imported tables: ``benchmarks`` in NASX_DATA if that is set, else in nasx's user cache."""
    root = os.environ.get("NASX_DATA")
    return (Path(root).expanduser() if root else user_cache()) / "benchmarks"


@contextlib.contextmanager
def one_writer(table: Path) -> Iterator[None]:
    """Lock a table inside the `with` block, so that concurrent imports do not overwrite each other's columns."""
    try:
        made = make_folder(table.parent)
        handle = open_folder(table.parent)
    except OSError as error:
        raise unwritable(table, error, ELSEWHERE) from error
    try:
        with contextlib.suppress(OSError):  # not every file system supports locks
            lock_file(handle, wait=True)
        yield
    finally:
        os.close(handle)
        remove_empty(made)  # if nothing was written


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file or, for a folder, of the sorted names and contents of its files."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def pack(arrays: Arrays, about: dict[str, object]) -> bytes:
    """Return the bytes of an uncompressed .npz archive with `about` as JSON; equal content gives equal bytes."""
    blob = BytesIO()
    text = np.frombuffer(json.dumps(about, indent=1, sort_keys=True).encode(), np.uint8)
    with zipfile.ZipFile(blob, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted({**arrays, "about": text}.items()):
            entry = zipfile.ZipInfo(name + ".npy", date_time=(1980, 1, 1, 0, 0, 0))  # fixed, for reproducible bytes
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            member = BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, member.getvalue())
    return blob.getvalue()


def unpack(path: Path, *forms: str) -> tuple[Arrays, dict[str, Any]]:
    """Read a file written by `pack`. Raises UserError if it is missing, damaged, or has none of the formats `forms`."""
    remedy = "move the file elsewhere, or import the benchmark again with `nasx bench import`"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if sum(entry.file_size for entry in archive.zip.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES} bytes")
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays.pop("about").tobytes())
    except FileNotFoundError as error:
        raise UserError(str(path), "does not exist", remedy) from error
    except NPZ_FAULTS as error:
        raise UserError(str(path), f"cannot be read ({error or type(error).__name__})", remedy) from error
    if not isinstance(about, dict) or about.get("form") not in forms:
        raise UserError(str(path), f"is not a table in the format '{forms[0]}'", remedy)
    return arrays, about


def stamp(file: Path, name: str) -> tuple[int, int]:
    """Return the modification time (ns) and size (bytes) of a table file. Raises UserError if it is missing.

    `name` is the name of the benchmark in the error message.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(
            f"benchmark.path={file}",
            f"no table found ({error.strerror})",
            f"create one with `nasx bench import {name} FILE`, or set benchmark.path=null",
        ) from error
    return stat.st_mtime_ns, stat.st_size


def unsound(path: Path, name: str) -> UserError:
    """Return the error for a table of the benchmark `name` whose columns do not match their description."""
    return UserError(
        str(path),
        "the columns of this table do not match their description",
        f"import the benchmark again with `nasx bench import {name} FILE`",
    )
