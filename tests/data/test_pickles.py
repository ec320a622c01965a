"""Pickles of datasets are read if their md5 is the published one, and not executed otherwise."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasx.data.layouts import unpickled
from nasx.errors import UserError


class Hostile:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def unpickle(file: Path, content: bytes) -> dict[str, Any]:
    file.write_bytes(content)
    return unpickled(file, hashlib.md5(content).hexdigest(), "get it again")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_another_file_is_refused_unexecuted(protocol: int, tmp_path: Path) -> None:
    mark, file = tmp_path / "executed", tmp_path / "data"
    file.write_bytes(pickle.dumps({"data": Hostile(open, str(mark), "w")}, protocol=protocol))
    with pytest.raises(UserError, match="is corrupt or not the published file"):
        unpickled(file, "0" * 32, "get it again")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(6.0).reshape(3, 2).T, np.arange(4, dtype=">i8")]
)
def test_plain_arrays_are_read(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    content = unpickle(tmp_path / "data", pickle.dumps({"data": array, "labels": [1, 2], "name": "a"}, protocol))
    assert np.array_equal(content["data"], array)
    assert content["labels"] == [1, 2]


def test_arrays_pickled_by_python_2(tmp_path: Path) -> None:
    """The byte codes of the published files: byte strings (SHORT_BINSTRING) for keys, types and raw data."""
    content = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x7f\x80\xfe\xfftbs."
    )
    assert unpickle(tmp_path / "data", content)["data"].tolist() == [[0, 1, 127], [128, 254, 255]]
