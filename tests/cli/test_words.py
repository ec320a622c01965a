"""Arguments of the commands without a configuration."""

from __future__ import annotations

import pytest

from nasx.cli import arguments
from nasx.errors import UserError


def test_words_and_options_are_distinguished() -> None:
    got = arguments.parse(
        "report",
        ["runs/a", "out=x.html", "--title=My runs"],
        {"out": "r.html", "title": "", "n": "3"},
        positional="RUN",
    )
    assert got.positional == ("runs/a",)
    assert got.options == {"out": "x.html", "title": "My runs", "n": "3"}
    assert got.number("n") == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["ot=x"], "did you mean out"),
        (["out="], "has no value"),
        (["--verbose"], "is not recognized"),
        (["word"], "is not recognized"),
        ([], "needs from="),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        arguments.parse("report", given, {"out": "r.html", "from": None})


@pytest.mark.parametrize(
    ("options", "plain", "word", "said"),
    [
        ({}, "FOLDER", "out=/x", "has no option out; write FOLDER without out=: nasx this /x; see"),
        ({}, "FOLDER", "ot=/x", "has no option ot; it takes FOLDER; see"),
        ({}, None, "ot=/x", "has no option ot; it has none; see"),
        (
            {"metric": "", "runs": ""},
            "GROUP",
            "out=X",
            "has no option out; set the folder that contains the runs with runs=X; see",
        ),
        (
            {"out": "", "title": ""},
            "RUNS",
            "out_file=x",
            "did you mean out?; see",
        ),
        ({"out": "", "title": ""}, "RUNS", "runs=x", "write RUNS without runs=: nasx this x; see"),
    ],
)
def test_what_to_write_instead_of_an_option_of_another_command(
    options: dict[str, str | None], plain: str | None, word: str, said: str
) -> None:
    with pytest.raises(UserError) as told:
        arguments.parse("this", [word], options, positional=plain)
    assert said in str(told.value)


@pytest.mark.parametrize("value", ["1x", ""])
def test_a_number_that_is_none(value: str) -> None:
    with pytest.raises(UserError, match=r"integer|no value"):
        arguments.parse("report", [f"n={value}"], {"n": "3"}).number("n")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--paper", "idarts", "format=csv"], ["paper=idarts", "format=csv"]),
        (["--paper=idarts"], ["paper=idarts"]),
        (["--filter", "method=darts"], ["filter=method=darts"]),
        (["--error", "false"], ["error=false"]),
        (["--error"], ["error=true"]),
        (["--error", "paper=tse"], ["error=true", "paper=tse"]),
        (["--error", "--paper", "tse"], ["error=true", "paper=tse"]),
        (["--cfg", "job", "-m"], ["--cfg", "job", "-m"]),
    ],
)
def test_settings_may_be_written_with_dashes(given: list[str], found: list[str]) -> None:
    assert arguments.normalize_flags(given, ("paper", "error", "filter"), ("error",)) == found


def test_a_setting_with_dashes_and_nothing_after_it_needs_a_value() -> None:
    with pytest.raises(UserError, match="--paper: needs a value; write paper=VALUE"):
        arguments.normalize_flags(["--paper"], ("paper",))


def test_plain_commands_take_dashes_too() -> None:
    assert arguments.parse("report", ["a", "--title", "My runs"], {"title": ""}, positional="RUN").options == {
        "title": "My runs"
    }


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("filter=method=darts,space=nb201", "filter=[method:darts,space:nb201]"),
        ("sort=-n", "sort=-n"),
        ("filter=[search.lr=0.1]", "filter=[search.lr:0.1]"),
        ("filter=['a:b=c']", "filter=['a:b=c']"),
        ("filter={method:darts}", "filter={method:darts}"),
        ("filter=null", "filter=null"),
    ],
)
def test_a_filter_may_be_written_as_conditions(given: str, found: str) -> None:
    assert arguments.normalize_filter(given) == found
