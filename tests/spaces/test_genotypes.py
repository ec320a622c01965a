"""Genotype text in every dialect; nothing is evaluated, and invalid text always raises UserError."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from genotype_texts import BEST, DIALECTS, NESTED, NORMAL, PLAIN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nasx.errors import UserError
from nasx.spaces import genotypes
from nasx.spaces.darts.genotype import DartsGenotype, UntiedDartsGenotype, read
from nasx.spaces.nb1shot1.genotype import Nb101Genotype
from nasx.spaces.nb201.genotype import Nb201Genotype
from nasx.spaces.operations import OPERATIONS


@pytest.mark.parametrize("text", DIALECTS, ids=range(len(DIALECTS)))
def test_darts_dialects_are_one_cell(text: str) -> None:
    assert DartsGenotype.parse(text) == DartsGenotype.parse(PLAIN) == read(text)


def test_published_names_are_read() -> None:
    assert DartsGenotype.parse("DARTS_V2").normal == DartsGenotype.parse(PLAIN).normal
    with pytest.raises(UserError, match=r"genotype=DARTS_V9: no published cell.*DARTS_V1, DARTS_V2"):
        DartsGenotype.parse("DARTS_V9")


def test_order_within_a_node_does_not_matter() -> None:
    swapped = PLAIN.replace("('sep_conv_3x3', 1), ('skip_connect', 0)", "('skip_connect', 0), ('sep_conv_3x3', 1)")
    assert swapped != PLAIN
    assert DartsGenotype.parse(swapped) == DartsGenotype.parse(PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        str(BEST),
        f"arch = {BEST}",
        f"Structure(4 nodes with {BEST})",
        "333132",
        "[2, 2, 0, 2, 2, 3]",
        "(2,2,0,2,2,3)",
        "((('nor_conv_3x3', 0),), (('nor_conv_3x3', 0), ('nor_conv_3x3', 1)), "
        "(('skip_connect', 0), ('nor_conv_3x3', 1), ('nor_conv_1x1', 2)))",
        json.dumps(BEST.ops),
        "best_cifar10",
    ],
)
def test_nb201_dialects_are_one_cell(text: str) -> None:
    """[2, 2, 0, 2, 2, 3] is NASLib's: edges 0->1, 0->2, 0->3, 1->2, 1->3, 2->3; 0 skip, 1 zero, 2 3x3, 3 1x1."""
    assert Nb201Genotype.parse(text) == BEST


GRAPH = '{"matrix":[[0,1,1],[0,0,1],[0,0,0]],"ops":["input","maxpool3x3","output"]}'


@pytest.mark.parametrize(
    "text",
    [
        GRAPH,
        "ModelSpec(matrix=[[0,1,1],[0,0,1],[0,0,0]], ops=['input', 'maxpool3x3', 'output'])",
        "api.ModelSpec([[0,1,1],[0,0,1],[0,0,0]], ['input', 'maxpool3x3', 'output'])",
        "[[[0,1,1],[0,0,1],[0,0,0]], ['input', 'maxpool3x3', 'output']]",
        GRAPH.replace("matrix", "module_adjacency").replace("ops", "module_operations"),
    ],
)
def test_nb101_dialects_are_one_cell(text: str) -> None:
    assert str(Nb101Genotype.parse(text)) == GRAPH


# ------------------------------------------------------------------------------------------------------ faults
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("x" * 30_000, "30000 characters"),
        ("__import__('os').system('true')", "not a DARTS genotype"),
        ("Genotype(normal=__import__('os').system('x'), reduce=[])", "character 17: is not a literal"),
        ("Genotype(normal=open('/etc/passwd'), reduce=[])", "cell|pairs"),
        ("Genotype(normal=[1][0], reduce=[])", "character 17: is not a literal"),
        ("Genotype(normal=[(lambda: 1)()], reduce=[])", "character 18: is not a literal"),
        (PLAIN[:-30], "was never closed|unterminated"),
        (PLAIN + ")", "unmatched '\\)'"),
        (PLAIN.replace("range(2, 6)", "range(0, 999999)"), "the range has more than 64 numbers"),
        (PLAIN.replace("range(2, 6)", "range(2, 7)"), "must combine nodes 2 to 5"),
        (PLAIN.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 5"), "5 is not an earlier node"),
        (PLAIN.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 0"), "both pairs have predecessor 0"),
        (PLAIN.replace("'dil_conv_3x3'", "'dil_conv_9x9'"), "is not an operation"),
        (PLAIN.replace("'dil_conv_3x3'", "'none'"), "'none' cannot be selected"),
        (PLAIN.replace(", ('dil_conv_3x3', 2)", ""), "has 7 pairs instead of 8"),
        (PLAIN.replace("reduce=", "reuse="), "reuse is not a field"),
        (f"Genotype({NORMAL}, normal={NORMAL})", "normal is given twice"),
        ("Genotype(normal=[], normal=[])", "character 28: normal is given twice"),
        ("Genotype(" + "[" * 500, "character 209: too many nested parentheses"),
        ("Genotype(normal=" + "a(" * 500, "too many nested parentheses"),
        ("Genotype(normal=" + "(0, " * 50 + ")" * 51, "character 62: brackets are nested more than 12 deep"),
        ("Genotype(0b2)", "character 12: invalid digit"),
        ("é Genotype(normal='é', reduce=1 + 1)", "character 31: is not a literal"),
        ("# é\nGenotype(normal='\\d', # é\n reduce=True)", "character 39: is not a literal"),
        ("Genotype(-1)", "character 10: is not a literal"),
        (PLAIN.replace("2)", "2, 'heavy')", 1), "is not an .operation, predecessor"),
        (PLAIN.replace("2)", "2, 0.1, 0.2)", 1), "is not an .operation, predecessor"),
        (PLAIN.replace("'dil_conv_3x3', 2)", "'dil_conv_3x3', 2.0)"), "is not an .operation, predecessor"),
        (PLAIN[:-1] + ", connects=[(0, 1)])", "connects is not a field"),
        (PLAIN[:-1] + ", connects=none)", "bare name"),
        (PLAIN.replace("normal_concat", "# normal_concat"), "was never closed"),
        ("Genotype()", "has no 'normal' cell"),
        ("{'normal': 3, 'reduce': 3}", "has no .operation, predecessor. pairs"),
        ("{1: 2}", "key must be a string"),
    ],
)
def test_darts_faults_name_place_and_fault(text: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault) as error:
        DartsGenotype.parse(text)
    assert str(error.value).startswith("genotype")
    assert error.value.remedy


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("|nor_conv_3x3~0|", "1 node instead of 3"),
        (str(BEST).replace("~2", "~1"), "character 81: 'nor_conv_1x1~1'"),
        (str(BEST).replace("skip_connect", "skip"), "operation 4='skip': is not an operation"),
        ("999999", "9 is not an operation number"),
        ("[5, 0, 0, 0, 0, 0]", "position 1: 5 is not an operation number"),
        ("[0, 0]", "not a NAS-Bench-201 cell"),
        ("hello world", "not a NAS-Bench-201 cell"),
        ("[[], [], []]", "not a NAS-Bench-201 cell"),
        ("|||+|||+||", "must have 1 operation"),
    ],
)
def test_nb201_faults(text: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        Nb201Genotype.parse(text)


def answers(reader: Callable[[str], object], text: str) -> None:
    """Reads `text`, or raises a UserError and nothing else."""
    with suppress(UserError):
        reader(text)


READERS = (DartsGenotype.parse, UntiedDartsGenotype.parse, read, Nb201Genotype.parse, Nb101Genotype.parse)
PIECES = [
    "Genotype(",
    "normal=",
    "reduce=",
    "cells=",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    "=",
    "'sep_conv_3x3'",
    "'x",
    "0",
    "7",
    "9" * 9,
    "range(2, 6)",
    "range(",
    "|",
    "+",
    "~0",
    "nor_conv_3x3~0",
    '"ops"',
    '"matrix"',
    "\x00",
    "\\",
    "é",
    " ",
    "True",
    "None",
    "-",
    "1e9",
    PLAIN,
    NORMAL,
    NESTED,
    GRAPH,
    "|skip_connect~0|",
    "ModelSpec(",
]
pieces = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), pieces))
@example("Genotype(normal=()")
@example("[" * 19_000)
@example("{" * 19_000)
@example("Genotype(" * 2_000)
@example("²")
@example("[()]")
@pytest.mark.slow
def test_garbage_never_crashes(text: str) -> None:
    for reader in READERS:
        answers(reader, text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(PLAIN) - 1), st.characters(codec="utf-8"))
def test_one_changed_character_never_crashes(place: int, letter: str) -> None:
    answers(DartsGenotype.parse, PLAIN[:place] + letter + PLAIN[place + 1 :])


values = st.recursive(
    st.integers(0, 99) | st.from_regex(r"[a-z0-9_ |~+]{0,9}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)


@given(values)
def test_read_inverts_repr_and_json(value: object) -> None:
    assert genotypes.read(repr(value)) == value
    assert genotypes.read(json.dumps(value)) == value


def test_untied_cells_come_back() -> None:
    genotype = UntiedDartsGenotype((DartsGenotype.parse(PLAIN).normal,) * 3)
    assert UntiedDartsGenotype.parse(str(genotype)) == genotype == read(str(genotype))
    assert genotype.operations() == {"sep_conv_3x3": 15, "skip_connect": 6, "dil_conv_3x3": 3}
    with pytest.raises(UserError, match="has cells for 3 layers"):
        genotype.layers(4)


def test_operation_names_of_the_dialects_exist() -> None:
    assert set(genotypes.NB201_DIGITS) == set(genotypes.NASLIB_OPERATIONS)
    assert set(genotypes.NB201_DIGITS) <= set(OPERATIONS)
