"""Parts of files equal those of the whole, with bounded memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import composed
from run_states import finished, made, told

from nasx.cli import status
from nasx.config import identity
from nasx.core import files
from nasx.tracking import peek, records


# ---------------------------------------------------------------------------------------------------- lines
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\n"])
@pytest.mark.parametrize("block", [1, 7, 64, 8192])
def test_last_lines_are_those_of_the_whole(
    end: bytes, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peek, "BLOCK", block)
    draw, path = random.Random(block), tmp_path / "lines"
    for lines in range(6):
        data = b"\n".join(b"x" * draw.randrange(40) for _ in range(lines)) + end
        path.write_bytes(data)
        for count in (1, 2, 5, 9):
            assert peek.last_lines(path, count) == data.splitlines()[-count:]


def test_a_million_rows_cost_no_memory(tmp_path: Path) -> None:
    folder, row = made(tmp_path / "run", rows=3, files=finished()), json.dumps({"epoch": 7, "mix": [0.5] * 40})
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{row}\n" for _ in range(100_000))
    tracemalloc.start()
    try:
        assert told(folder).epoch == 7
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000 < (folder / "metrics.jsonl").stat().st_size / 20


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_state_reads_no_whole_file(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("all of a file is read")

    monkeypatch.setattr(records, "read_rows", refused)
    monkeypatch.setattr(files, "read_yaml", refused)
    found = told(made(tmp_path / "run", rows=3, files=finished() if state == "finished" else {}))
    assert (found.state, found.epoch, found.epochs, found.kind) == (state, 3, 50, "search")


def test_last_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", rows=30)
    assert status.last_rows(folder, 11) == records.read_rows(folder)[-11:]
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 31, "upd')  # torn by a kill
    assert status.last_rows(folder, 11) == records.read_rows(folder)[-11:]
    (folder / "metrics.jsonl").unlink()
    assert status.last_rows(folder, 11) == []
    (folder / "metrics.jsonl").mkdir()
    assert status.last_rows(folder, 11) == []


# ----------------------------------------------------------------------------------------------------- YAML
def flat(node: Any, keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """The scalars of what PyYAML makes of a text (BaseLoader: all are text), those in lists left out."""
    if isinstance(node, dict):
        return [pair for key, value in node.items() for pair in flat(value, (*keys, str(key)))]
    return [(keys, node)] if isinstance(node, str) and keys else []


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: {c: x, d: [1, {e: 2}], f: {g: 3}}\nh: [[1], {i: 2}]\nj: null\n",
        "",
        "3",
        "[1, 2]",
        "a: [1]\nb: 2\n",
        "a: {}\nb: []\nc: 'x: y'\n",
        "a: &x 1\nb: 2\n",
    ],
)
def test_scalars_are_those_of_the_whole(text: str) -> None:
    assert list(peek.scalars(text)) == flat(yaml.load(text, Loader=yaml.BaseLoader))


@pytest.mark.parametrize("words", [["dataset=digits"], ["space=darts", "stages=pdarts"]])
def test_of_a_run_it_shows_kind_and_epochs(words: list[str], tmp_path: Path) -> None:
    cfg, choices = composed("search", *words)
    for kind in ("search", "retrain"):
        held = {"kind": kind, "choices": choices, "identity": "x", **identity.identifying(cfg, kind)}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(held, sort_keys=False))
        assert list(peek.scalars((tmp_path / "config.yaml").read_text())) == flat(
            yaml.load((tmp_path / "config.yaml").read_text(), Loader=yaml.BaseLoader)
        )
        assert status.planned(tmp_path / "config.yaml") == (kind, cfg[kind]["epochs"])


def test_a_bomb_of_aliases_is_not_unfolded() -> None:
    text = (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12))
        + "kind: search\n"
    )
    assert list(peek.scalars(text)) == [(("kind",), "search")]
    assert list(peek.scalars("a: &x 1\nb: *x\nc: 2\n")) == [(("a",), "1"), (("c",), "2")]
