"""`nasx info`: known parameter counts, multiply-adds and sizes, as printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasx.cli import info
from nasx.errors import UserError

NO_BRANCH = '{"matrix":[[0,1,1],[0,0,1],[0,0,0]],"ops":["input","conv3x3-bn-relu","output"]}'


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """What `nasx info WORDS` prints, by name."""
    assert info.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    column = max(len(line.split("  ")[0]) for line in lines) + 2
    return {line[:column].strip(): line[column:] for line in lines}


@pytest.mark.parametrize(
    ("words", "params", "with_head"),
    [  # counted apart from this code
        (("genotype=DARTS_V2",), "3349342", "3825768"),
        (("genotype=DARTS_V2", "dataset=cifar100"), "3401272", "3946908"),
        (("genotype=DARTS_V2", "layers=8", "classes=10"), "1154926", None),
        (("genotype=darts_v1", "layers=8"), "1094950", None),
        (("genotype=all_conv3x3",), "1531546", None),
        (("genotype=all_skip",), "73306", None),
        (("genotype=best_found",), "1288506", None),
    ],
)
@pytest.mark.sample(3)
def test_parameters_of_published_cells(
    words: tuple[str, ...], params: str, with_head: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(capsys, *words)
    assert found["parameters"] == params
    if with_head:
        assert found["parameters with auxiliary head"] == with_head


@pytest.mark.slow
def test_imagenet_recipe_costs_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "genotype=DARTS_V2", "retrain=imagenet_linear")
    assert found["parameters"] == "4718752"
    assert found["multiply-adds"] == "529911552"
    assert found["image"] == "224x224"
    assert found["classes"] == "1000"
    assert found["recipe"] == "imagenet-linear (retrain=imagenet_linear)"
    assert found["source"].startswith("DARTS_V2, DARTS (Liu et al. 2019)")


@pytest.mark.parametrize(
    ("words", "params", "size", "own"),
    [
        (("space=darts",), "1930618", str((3 * 6 * 10 * 7**8) ** 2), "224"),
        (("space=darts", "layers=20"), "4548730", str((3 * 6 * 10 * 7**8) ** 2), "224"),
        (("space=nb201",), "1686106", "15625", "30"),
    ],
)
@pytest.mark.slow
def test_supernets_leave_the_architecture_out(
    words: tuple[str, ...], params: str, size: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(capsys, *words)
    assert (found["parameters"], found["genotypes"], found["architecture parameters"]) == (params, size, own)


def test_a_supernets_multiply_adds_are_those_of_its_operations(capsys: pytest.CaptureFixture[str]) -> None:
    """One more cell of NAS-Bench-201 a stage adds its six edges of a 1x1 and a 3x3 convolution, at each width."""
    one, two = (int(facts(capsys, "space=nb201", f"layers={n}")["multiply-adds"]) for n in (1, 2))
    assert two - one == sum(6 * 10 * c * c * side * side for c, side in ((16, 32), (32, 16), (64, 8)))


@pytest.mark.slow
def test_a_text_finds_its_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(capsys, "genotype=|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|")["space"] == "nb201"
    other = facts(capsys, "genotype=DARTS_V2")["genotype"].replace("skip_connect", "sep_conv_3x3")
    assert facts(capsys, f"genotype={other}")["space"] == "darts"
    text = "Genotype(normal={0}, normal_concat=range(2, 6), reduce={0}, reduce_concat=range(2, 6))".format(
        [("noise", j) for _ in range(4) for j in (0, 1)]
    )
    assert facts(capsys, f"genotype={text}", "size=16")["space"] == "s4"


@pytest.mark.slow
def test_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
    record = {"status": "finished", "genotype": cell, "command": "nasx search seed=3"}
    (tmp_path / "result.json").write_text(json.dumps(record))
    (tmp_path / "config.yaml").write_text("choices: {}\n")
    found = facts(capsys, f"from={tmp_path}")
    assert found["genotype"] == cell
    assert found["source"] == f"{tmp_path}: nasx search seed=3"


@pytest.mark.slow
def test_a_run_has_its_own_space_and_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "Genotype(normal={0}, normal_concat=range(2, 6), reduce={0}, reduce_concat=range(2, 6))".format(
        [("sep_conv_3x3", j) for _ in range(4) for j in (0, 1)]
    )
    choices = {"space": "s3", "dataset": "svhn", "method": "darts"}
    (tmp_path / "result.json").write_text(
        json.dumps({"status": "finished", "genotype": cell, "command": "nasx search space=s3", "choices": choices})
    )
    (tmp_path / "config.yaml").write_text(json.dumps({"choices": choices, "space": {}, "dataset": {}}))
    found = facts(capsys, f"from={tmp_path}")
    assert (found["space"], found["recipe"]) == ("s3", "robust-c10 (retrain=robust_c10)")
    assert facts(capsys, f"from={tmp_path}", "space=darts")["recipe"] == "darts-cifar (retrain=darts_cifar)"


def test_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pygraphviz")
    facts(capsys, "genotype=all_conv3x3", f"out={tmp_path / 'cell.svg'}")
    assert (tmp_path / "cell.svg").read_text().count("nor_conv_3x3") == 6
    drawing = facts(capsys, "space=s1", "layers=3", f"out={tmp_path / 's1.svg'}")["drawing"]
    assert drawing == f"{tmp_path / 's1-normal.svg'} {tmp_path / 's1-reduce.svg'}"
    text = (tmp_path / "s1-normal.svg").read_text()
    found = {name: text.count(name) for name in ("dil_conv_5x5", "max_pool_3x3", "sep_conv_3x3", "avg_pool")}
    # the table of S1, RobustDARTS src/spaces.py
    assert found == {"dil_conv_5x5": 4, "max_pool_3x3": 2, "sep_conv_3x3": 4, "avg_pool": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs a genotype, a run or a space; give genotype=DARTS_V2"),
        (("genotype=DARTS_V3",), "no published cell has that name; did you mean DARTS_V"),
        ((f"genotype={NO_BRANCH}",), "does not belong to any search space"),
        (("genotype=DARTS_V2", "retrain=imagenet"), "unknown retrain 'imagenet'.*did you mean imagenet_"),
        (("genotype=DARTS_V2", "space=nb201"), "is not a NAS-Bench-201 cell"),
        (("genotype=DARTS_V2", "from=x"), "both given"),
        (("space=s1", "out=cell.pdf"), "is not the name of an image file; use a name that ends in .svg"),
        (("space=s1", "layers=many"), "layers=many: is not an integer"),
        (("sapce=s1",), "did you mean space"),
        (("from=nowhere",), "run not found"),
    ],
)
@pytest.mark.sample(4)
def test_faults_name_place_and_remedy(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        info.main(words)
