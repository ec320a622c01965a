"""Typed record of a finished run (result.json); `read` upgrades records from earlier versions.

    SearchRecord    the found cell, its look-up, the supernet, the verdict
    RetrainRecord   the trained cell, the search that found it
    StudyRecord     the runs that a study started, and the runs that it reports

Numbers are read from `Record.content` by nasx.core.quantities, which defines the place of each number.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from nasx.config import identity
from nasx.core import files, versions
from nasx.core.quantities import QUANTITIES, columns
from nasx.errors import printable


def _text(value: object) -> str:
    return "" if value is None else sys.intern(printable(str(value)))  # most texts occur in many runs


Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: value or ())]
Flag = Annotated[bool, BeforeValidator(bool)]
Whole = Annotated[int | None, BeforeValidator(lambda value: value if isinstance(value, int) else None)]
Count = Annotated[int, BeforeValidator(lambda value: value or 1)]
Tree = Annotated[Mapping[str, object], BeforeValidator(lambda value: value or {})]
Starts = Annotated[
    tuple[Mapping[str, object], ...],
    BeforeValidator(lambda value: [x for x in value if isinstance(x, Mapping)] if isinstance(value, list) else ()),
]


def _verdict(value: object) -> object:
    return versions.renamed_keys(value) if isinstance(value, Mapping) and value else value or None


class Unreadable(Exception):
    """Error raised if a run folder has no record that this version can read; the message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The device on which a run was computed."""

    device: Text = ""
    name: Text = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Verdict of the diagnostics on a search: collapsed, warning, or not converged."""

    collapsed: Flag = False
    warning: Flag = False
    not_converged: Flag = False
    text: Text = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a finished run. `content` is the whole file; keys missing in earlier versions have defaults."""

    COPIED: ClassVar = ("kind", "identity", "started", "finished", "commit", "genotype")
    """Fields that are all equal in copies of a run; in a repetition of the run, some differ."""
    kind: Literal["search", "retrain", "study"]
    content: Tree
    format: int = 0
    name: Text = ""
    command: Text = ""
    choices: Mapping[str, Text]
    overrides: Texts = ()
    seed: Whole = None
    identity: Text = ""
    family: Text = ""
    protocol: Text = ""
    genotype: Text = ""
    labels: Texts = ()
    changed: Annotated[Mapping[str, tuple[Any, Any]], BeforeValidator(lambda value: value or {})] = field(
        default_factory=dict
    )
    """Setting -> [published value, value used], for settings in which the two differ."""
    reduced: Annotated[bool | None, BeforeValidator(lambda value: None if value is None else bool(value))] = None
    started: Text = ""
    finished: Text = ""
    commit: Text = ""
    versions: Tree = field(default_factory=dict)
    hardware: Annotated[Hardware, BeforeValidator(lambda value: value or {})] = Hardware()
    starts: Starts = ()
    processes: Count = 1
    together: Count = 1
    """Number of runs interleaved in one process; each records the total time of all."""

    def measured(self) -> dict[str, float]:
        """Return a mapping from table columns to numbers (NaN: unknown). Raises ValueError or TypeError."""
        found = dict.fromkeys(columns(), math.nan)
        for quantity in QUANTITIES:
            if quantity.column and self.kind in quantity.kinds:
                for place, value in quantity.read(self.content):
                    column = quantity.column.replace("*", place)
                    if math.isnan(found.get(column, math.nan)):
                        found[column] = value
        found["cost_s"] *= self.processes / self.together
        return found


@dataclass(frozen=True, kw_only=True)
class SearchRecord(Record):
    """The record of `nasx search`."""

    lookup: Tree = field(default_factory=dict)
    among: Tree = field(default_factory=dict)
    verdict: Annotated[Verdict | None, BeforeValidator(_verdict)] = None

    @property
    def edges(self) -> tuple[tuple[str, ...], ...]:
        """The operations that the space allows on each edge; empty if it allows all cells."""
        rows = self.among.get("edges")
        return tuple(tuple(map(_text, row)) for row in rows) if isinstance(rows, list) else ()


@dataclass(frozen=True, kw_only=True)
class RetrainRecord(Record):
    """The record of `nasx retrain`."""

    parent: Text = ""
    searched: Tree = field(default_factory=dict)
    """Fields copied from the record of the search whose cell is trained."""

    @property
    def held_out(self) -> bool:
        """Whether the network was tested on held-out training images, as in retrainings that rank cells."""
        return self.content.get("test_accuracy") is None and "valid_accuracy" in self.content

    def search(self) -> SearchRecord | None:
        """Return the record of the search from its copied fields; None if they are not the record of a search."""
        try:
            found = parse(self.searched)
        except Unreadable:
            return None
        return found if isinstance(found, SearchRecord) else None


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A retraining that a study used to rank a cell."""

    run: str


@dataclass(frozen=True, kw_only=True)
class StudyRecord(Record):
    """The record of `nasx study`; runs are given by the names of their folders, which lie next to its own."""

    study: Text
    std_over: Text
    rank: Text
    searches: Texts
    retrains: Texts
    ranking: tuple[Ranked, ...]


KINDS = {"search": SearchRecord, "retrain": RetrainRecord, "study": StudyRecord}


@lru_cache(maxsize=3)
def _adapter(kind: str) -> TypeAdapter[Record]:
    return TypeAdapter(KINDS[kind])


def parse(content: Mapping[str, object]) -> Record:
    """Validate a record and convert it to the class of its kind. Raises Unreadable."""
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(content.get("choices"), dict):
        raise Unreadable("not a nasx record")
    if versions.newer(content):
        raise Unreadable("written by a later version of nasx")
    if content.get("status", "finished") != "finished":
        raise Unreadable("not finished")
    try:
        return _adapter(kind).validate_python({**content, "content": content})
    except ValidationError as error:
        raise Unreadable("record unreadable") from error


def read(folder: Path) -> Record:
    """Return the record of the run in `folder`, in the format of this version. Raises Unreadable."""
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Unreadable("not finished") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable("record unreadable") from error
    if not isinstance(content, dict):
        raise Unreadable("not a nasx record")
    return parse(_upgraded(content, folder))


def _upgraded(content: dict[str, object], folder: Path) -> dict[str, object]:
    """Return the record in the format of this version: format 0 (0.1.0) has only the first 8 digits of `family`."""
    family = content.get("family")
    if not isinstance(family, str) or not re.fullmatch(r"[0-9a-f]{8}", family):
        return content
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return content
    whole = _family(re.sub(r"^(seed|from|identity):.*\n", "", text, flags=re.M), str(content.get("kind")))
    return {**content, "family": whole} if whole.startswith(family) else content


@lru_cache(maxsize=4096)
def _family(text: str, kind: str) -> str:
    """Return the family of a run, given the text of its configuration without seed and parent."""
    return identity.family(files.parse_yaml(text) or {}, kind)
