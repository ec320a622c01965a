"""The entries of scripts/protections.py are valid: lines that occur once, and tests that exist."""

from __future__ import annotations

import re

import protections
import pytest

ROOT = protections.ROOT


@pytest.mark.parametrize("row", protections.ROWS, ids=lambda row: row.fault)
def test_a_protection_and_its_test_are_there(row: protections.Row) -> None:
    assert (ROOT / row.file).read_text(encoding="utf-8").count(row.there) == 1
    file, _, name = row.test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M)


def test_the_reader_finds_each_of_them_in_the_documentation() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert not [row.test for row in protections.ROWS if row.test.partition("::")[2] not in text]
