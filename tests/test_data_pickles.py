"""Pickled arrays of datasets are read without executing anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from nasx.data.layouts import unpickle
from nasx.errors import UserError


class Hostile:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_are_refused_unexecuted(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for hostile in (
        Hostile(os.system, f"touch {mark}"),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(open, str(mark), "w"),
        Hostile(np.load, str(mark)),
        Hostile(getattr, "a", "upper"),
        np.array([Hostile(os.system, f"touch {mark}")], dtype=object),
        np.dtype("O"),
        np.float64(1),
    ):
        with pytest.raises(UserError, match=r"is not a pickled dictionary of numbers.*refused"):
            unpickle(pickle.dumps({"data": hostile}, protocol=protocol), "file", "get it again")
    assert not mark.exists()


def test_a_pickle_cannot_change_the_reader() -> None:
    """BUILD with a pair sets attributes: here the defaults of the function that was named."""
    for name in ("cnumpy.core.multiarray\n_reconstruct\n", "c_codecs\nencode\n", "cnumpy\nndarray\n"):
        content = b"\x80\x02" + name.encode() + b"N}U\x0c__defaults__)s\x86b."
        with pytest.raises(UserError, match="is not a pickled dictionary of numbers"):
            unpickle(content, "file", "get it again")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"not a pickle",
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
        pickle.dumps([1]),
        pickle.dumps({"data": np.zeros(3)}, 4)[:-9],
    ],
)
def test_damaged_pickles(content: bytes) -> None:
    with pytest.raises(UserError, match="file"):
        unpickle(content, "file", "get it again")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(6.0).reshape(3, 2).T, np.arange(4, dtype=">i8")]
)
def test_plain_arrays_are_read(array: np.ndarray, protocol: int) -> None:
    content = unpickle(pickle.dumps({"data": array, "labels": [1, 2], "name": "a"}, protocol), "file", "")
    assert np.array_equal(content["data"], array)
    assert content["labels"] == [1, 2]


def test_arrays_pickled_by_python_2() -> None:
    """The byte codes of the published files: byte strings (SHORT_BINSTRING) for keys, types and raw data."""
    content = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x7f\x80\xfe\xfftbs."
    )
    assert unpickle(content, "file", "")["data"].tolist() == [[0, 1, 127], [128, 254, 255]]
