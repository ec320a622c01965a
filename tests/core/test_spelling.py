"""Suggestions: the fewest edits win, a transposition is one edit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from nasx.config import paths
from nasx.core import spelling


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ("", "", 0),
        ("a", "", 1),
        ("", "ab", 2),
        ("drats", "darts", 1),
        ("drats", "drnas", 2),
        ("ab", "ba", 1),
        ("abc", "ca", 3),
        ("kitten", "sitting", 3),
        ("darts", "darts", 0),
    ],
)
def test_edits(one: str, other: str, edits: int) -> None:
    assert spelling.edits(one, other) == spelling.edits(other, one) == edits


METHODS = sorted(path.stem for path in (paths.conf_dir() / "method").glob("*.yaml"))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("drats", "darts"),
        ("idart", "idarts"),
        ("radnom", "random"),
        ("gads", "gdas"),
        ("sans", "snas"),
        ("Darts", "darts"),
        ("darts-pt", "darts_pt"),
        ("quite_other", None),
    ],
)
def test_a_method_that_was_meant(word: str, meant: str | None) -> None:
    assert spelling.nearest(word, METHODS) == meant


@pytest.mark.parametrize("group", ["method", "space", "dataset"])
def test_every_transposition_of_a_name_is_understood(group: str) -> None:
    names = sorted(path.stem for path in (paths.conf_dir() / group).glob("*.yaml"))
    for name, i in itertools.chain.from_iterable(((n, i) for i in range(len(n) - 1)) for n in names if len(n) > 3):
        word = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
        if word not in names and len({other for other in names if spelling.edits(word, other) <= 1}) == 1:
            assert spelling.nearest(word, names) == name


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((0, "run"), "0 runs"),
        ((1, "run"), "1 run"),
        ((1024, "run"), "1,024 runs"),
        ((1, "search", "searches"), "1 search"),
        ((2, "search", "searches"), "2 searches"),
    ],
)
def test_a_noun_agrees_with_its_number(words: tuple[Any, ...], text: str) -> None:
    assert spelling.counted(*words) == text


def test_names_are_suggested_by_one_rule() -> None:
    package = Path(spelling.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "difflib" in path.read_text(encoding="utf-8")] == [
        "spelling.py"
    ]
