"""Texts on the command line: genotypes and names arrive unchanged or are refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import DARTS, FAKE, call, created, ran
from hydra.core.override_parser.overrides_parser import OverridesParser

from nasx.cli import arguments, main
from nasx.cli.commands import COMMANDS


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ("darts", "DARTS_V2"),
        ("darts", DARTS),
        ("darts", f"'{DARTS}"),
        ("nb201", "421211"),
        ("nb201", "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"),
        ("nb1shot1_1", '{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}'),
    ],
)
def test_a_genotype_arrives_as_it_was_written(space: str, text: str, tmp_path: Path) -> None:
    done = call(tmp_path, "retrain", f"space={space}", f"genotype={text}", "dataset=digits", code=FAKE)
    if text[0] == "'":  # quoted by the user: Hydra's own reading holds, and the quotation has no end
        assert done.returncode == 2
        return
    assert done.returncode == 0, done.stderr
    assert ran(done)[0]["cfg"]["genotype"] == text


@pytest.mark.parametrize(
    "text", ['a "b" \\ c, {d: [e]} $f ~h', "421211", "3.5", "a|b", 'x\\"y', "", "[[1, 2]", "k=v, w"]
)
def test_hydra_reads_what_was_written(text: str) -> None:
    line = arguments.quote_override(f"genotype={text}")
    assert OverridesParser.create().parse_override(line).value() == text


@pytest.mark.parametrize("text", ["123", "1e5", "nan", "-3", "true", "1_000", "plain", "a.b", "ö", "phötos"])
@pytest.mark.parametrize("key", ["name", "out", "from", "dataset.path"])
def test_a_name_may_look_like_a_number_or_have_any_letters(key: str, text: str) -> None:
    if key == "dataset.path" and text.isascii():
        return  # a value as any other
    assert OverridesParser.create().parse_override(arguments.quote_override(f"{key}={text}")).value() == text
    [sweep] = OverridesParser.create().parse_overrides([arguments.quote_override(f"{key}={text},7")])
    assert [value.text if hasattr(value, "text") else value for value in sweep.sweep_iterator()] == [text, "7"]
    assert arguments.quote_override(f"{key}=null") == f"{key}=null"


@pytest.mark.parametrize(
    ("words", "place", "remedy"),
    [
        (["genotype=missing.txt", "space=darts"], "'missing.txt' is not a DARTS genotype", "write Genotype("),
        (["genotype=held.txt"], "genotype=held.txt: is a file", 'genotype="$(cat held.txt)"'),
        (["genotype=DARTS_V2", "space=nb201"], "genotype=DARTS_V2: is a cell of the space darts", "add space=darts"),
        (["genotype=|a|b", "space=nb201"], "genotype, character 1: '|a|b' is not a NAS-Bench-201 cell", "write |op~0|"),
        (["genotype=[[1]]", "space=nb1shot1_1"], "is not an adjacency matrix", "write {"),
        (["genotype=a ${seed}", "space=darts"], "genotype", ""),
    ],
)
@pytest.mark.parametrize("command", [["retrain"], ["study", "study=transfer"]])
@pytest.mark.sample(5)
def test_a_text_that_is_not_a_genotype_is_reported_before_anything_is_imported_or_made(
    command: list[str], words: list[str], place: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "held.txt").write_text("DARTS_V2", encoding="utf-8")
    done = call(tmp_path, *command, *words, "dataset=digits")
    assert done.returncode == 2
    assert place in done.stderr
    assert remedy in done.stderr
    assert "HEAVY []" in done.stderr
    assert created(tmp_path) == ["held.txt"]


@pytest.mark.parametrize("columns", ["80", "110"])
@pytest.mark.sample(1)
def test_every_help_fits_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in ((), *((name,) for name in COMMANDS), ("bench", "rank")):
        assert main.dispatch([*words, "--help"]) in (0, None)
        text = capsys.readouterr().out
        assert words or "\n  nasx --version\n" in text
        wide = [line for line in text.splitlines() if len(line) > int(columns)]
        assert not [line for line in wide if " " in line.strip()], f"{words}: {wide}"
