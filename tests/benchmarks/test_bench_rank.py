"""`nasx bench rank`: rank by a column, a file of scores, finished searches."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_jobs
import torch
from scipy import stats

from nasx.benchmarks.columns import Table
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_text, official_order
from nasx.benchmarks.nb201 import EMBEDDED, params
from nasx.cli import diagnose, main, rank
from nasx.errors import UserError
from nasx.jobs import search
from nasx.tracking import checkpoints

WORDS = (
    "space=nb201",
    "space.layers=1",
    "space.channels=4",
    "dataset=digits",
    "dataset.size=16",
    "search.batch=8",
    "search.epochs=2",
    "search.updates_per_epoch=6",
    "search.evaluate_images=40",
    "quiet=true",
    "device=cpu",
    "threads=1",
)


@pytest.fixture(scope="module")
def valid() -> np.ndarray[Any, Any]:
    """The validation accuracies of all cells on CIFAR-10."""
    return Table.read(EMBEDDED).statistics("cifar10", "valid")[:, 0]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(search, "pictures", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def searched(*words: str) -> dict[str, Any]:
    return search_jobs.search(["method=darts", *WORDS, "out=outputs", "name=run", *words])


def ranked(*words: str) -> dict[str, Any]:
    """What a command writes."""
    assert rank.main([*words, "out_file=found.json"]) == 0
    return json.loads(Path("found.json").read_text())


# ------------------------------------------------------------------------------------------------ columns and files
def test_a_column_against_several_accuracies(capsys: pytest.CaptureFixture[str], valid: np.ndarray[Any, Any]) -> None:
    rows = ranked(
        "column=params,cifar10.seconds",
        "against=cifar10.valid,cifar100.valid",
        "n=200",
        "seed=4",
        "k=5",
        "resamples=20",
    )["rows"]
    assert [(row["score"], row["against"], row["n"], row["k"]) for row in rows] == [
        (score, f"{dataset}.valid", 200, 5)
        for score in ("params", "cifar10.seconds")
        for dataset in ("cifar10", "cifar100")
    ]
    cells = np.sort(np.random.default_rng(4).choice(CELLS, 200, replace=False))
    expected = stats.kendalltau([params(int(cell)) for cell in cells], valid[cells].round(4)).statistic
    assert rows[0]["kendall_tau"] == pytest.approx(expected, abs=1e-3)
    assert rows[0]["kendall_tau_low"] < rows[0]["kendall_tau"] < rows[0]["kendall_tau_high"]
    shown = capsys.readouterr().out
    tau, low, high = (rows[0][f"kendall_tau{end}"] for end in ("", "_low", "_high"))
    assert f"{tau:.3f} [{low:.3f}, {high:.3f}]" in shown
    assert "top 5 of 200" in shown


def test_all_cells_are_taken_where_n_is_not_given_and_a_column_agrees_with_itself(valid: np.ndarray[Any, Any]) -> None:
    (row,) = ranked("column=cifar10.valid", "resamples=1")["rows"]
    assert (row["n"], row["regret"]) == (CELLS, 0.0)
    assert (row["kendall_tau"], row["spearman"]) == pytest.approx((1.0, 1.0), abs=1e-12)
    assert row["best"] == pytest.approx(valid.max())


def test_lower_is_better_turns_the_order_round() -> None:
    up, down = (ranked("column=flops", "n=50", "resamples=5", *more)["rows"][0] for more in ((), ("lower=true",)))
    assert up["kendall_tau"] == -down["kendall_tau"]
    assert up["regret"] != down["regret"]


def test_a_file_by_string_or_by_official_index(tmp_path: Path, valid: np.ndarray[Any, Any]) -> None:
    cells = np.random.default_rng(0).choice(CELLS, 200, replace=False).tolist()
    index = {row: i for i, row in enumerate(official_order())}
    scores = np.random.default_rng(1).normal(size=200)
    named = "".join(f"{cell_text(row)},{score:.6f},x\n" for row, score in zip(cells, scores, strict=True))
    (tmp_path / "named.csv").write_text(f"architecture,score,note\n{named}")
    listed = "".join(f"{score:.6f},{index[row]}\n" for row, score in zip(cells, scores, strict=True))
    (tmp_path / "listed.csv").write_text(f"score,index\n{listed}")
    one, two = (ranked(f"file={name}", "resamples=10")["rows"][0] for name in ("named.csv", "listed.csv"))
    assert {**one, "score": ""} == {**two, "score": ""}
    assert one["n"] == 200
    rounded = [round(float(score), 6) for score in scores]
    assert one["kendall_tau"] == pytest.approx(stats.kendalltau(rounded, valid[cells]).statistic, abs=1e-12)
    assert one["spearman"] == pytest.approx(stats.spearmanr(rounded, valid[cells]).statistic, abs=1e-12)


def test_rows_as_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["bench", "rank", "column=flops", "n=30", "resamples=5", "out_file=rows.csv"]) == 0
    with (tmp_path / "rows.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["score"], row["against"], row["n"]) == ("flops", "cifar10.valid", "30")
    assert f"{float(row['spearman']):.3f} [" in capsys.readouterr().out


BAD = {
    "no column": ("cell,score\nx,1\n", "lacks a required column (it has cell, score)"),
    "no score": ("architecture,value\nx,1\n", "lacks a required column (it has architecture, value)"),
    "no cell": ("architecture,score\n|none~0|,1\n", "line 2: cell='|none~0|': is not a NAS-Bench-201 cell"),
    "no number": (f"architecture,score\n{cell_text(7)},high\n", "line 2: could not convert"),
    "nan": (f"architecture,score\n{cell_text(7)},nan\n", "line 2: the score is not a number"),
    "short": (f"architecture,score\n{cell_text(7)}\n", "line 2:"),
    "twice": (f"architecture,score\n{cell_text(7)},1\n{cell_text(7)},2\n", "line 3: the cell"),
    "index": ("index,score\n15625,1\n", "line 2: the index 15625 is not in the range 0 to 15624"),
    "one cell": (f"architecture,score\n{cell_text(7)},1\n", "the benchmark contains 1 of the 1 cells"),
    "empty": ("", "lacks a required column (it has none)"),
    "bytes": (b"\xff\xfe\x00", "UnicodeDecodeError"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_its_line(kind: str, tmp_path: Path) -> None:
    content, said = BAD[kind]
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        rank.main(["file=bad.csv", "out_file=found.json"])
    assert said in str(caught.value) or (kind == "bytes" and "bad.csv" in str(caught.value))
    assert not Path("found.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give from=RUN, column=NAME or file=FILE.csv"),
        (("column=parms",), "did you mean params?"),
        (("column=params", "against=cifar10.test"), "bench"),
        (("column=cifar10.test",), "bench"),
        (("column=params", "against=cifar10.tets"), "did you mean cifar10.test?"),
        (("column=params", "k=0"), "k=0: is less than 1"),
        (("column=params", "n=1"), "n=1: is less than 2"),
        (("column=params", "seed=-1"), "seed=-1: is not between 0"),
        (("column=params", "resamples=x"), "resamples=x"),
        (("column=params", "out_file=a.txt"), "use FILE.json or FILE.csv"),
        (("column=params", f"seed={2**63}"), "is not between 0"),
        (("column=params", f"out_file={__file__}/a.csv"), "cannot be written"),
        (("file=nowhere.csv",), "nowhere.csv"),
        (("from=nowhere",), "run not found"),
        (("column=params", "ks=3"), "has no option ks"),
    ],
)
def test_bad_words_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        rank.main(words)
    assert said in str(caught.value)


def test_help_shows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["bench", "rank", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}=" in shown for name in rank.DEFAULTS)


# ----------------------------------------------------------------------------------------------------- searches
@pytest.mark.slow
def test_one_shot_accuracies_of_a_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], valid: np.ndarray[Any, Any]
) -> None:
    """Each is the accuracy of the supernet of the last checkpoint with one operation on each edge."""
    searched()
    found = ranked("from=run", "n=12", "seed=3", "resamples=10", "k=2")
    (row,) = found["rows"]
    cells = found["cells"]["run"]
    assert (row["score"], row["against"], row["n"], row["kind"], row["updates"]) == (
        "run",
        "cifar10.valid",
        12,
        "one-shot",
        12,
    )
    assert "run: 12 cells on 40 validation images each" in capsys.readouterr().err

    folder = Path("outputs/run")
    saved, _ = diagnose.open_search(folder)
    state = checkpoints.last(folder)
    assert state is not None
    with diagnose.restored_job(folder, saved, "cpu", 1, ()) as job:
        pass
    supernet = job.space.supernet(10, naive=True)
    assert not supernet.load_state_dict({**state["w"], **state["buffers"]}, strict=False).missing_keys
    gen, drawn = torch.Generator().manual_seed(3), []
    while len(drawn) < 12:
        genotype = job.space.sample(gen)
        if genotype not in drawn:
            drawn.append(genotype)
    assert [each["architecture"] for each in cells] == list(map(str, drawn))
    for genotype, each in zip(drawn, cells, strict=True):
        right = 0
        for batch in job.data.ordered("train", job.a_index[:40], batch=32):
            with torch.no_grad():
                right += int((supernet(batch.x, job.space.encode(genotype)).main.argmax(1) == batch.y).sum())
        assert each["score"] == pytest.approx(right / 40)
        assert each["cifar10.valid"] == pytest.approx(valid[cell_code(each["architecture"])])
    scores, accuracies = ([each[name] for each in cells] for name in ("score", "cifar10.valid"))
    assert len(set(scores)) > 2
    assert row["kendall_tau"] == pytest.approx(stats.kendalltau(scores, accuracies).statistic, abs=1e-12)
    assert ranked("from=run", "n=12", "seed=3", "resamples=10", "k=2") == found, "the same numbers again"
    assert ranked("from=run", "n=5", "images=16", "resamples=5")["rows"][0]["n"] == 5


@pytest.mark.slow
def test_a_search_in_a_restricted_space_is_ranked_among_its_own_cells() -> None:
    searched("space.operations=[skip_connect,nor_conv_3x3]")
    found = ranked("from=run", "n=100", "resamples=2", "images=8")
    cells = {each["architecture"] for each in found["cells"]["run"]}
    assert len(cells) == found["rows"][0]["n"] == 2**6
    assert all(
        {part.split("~")[0] for part in cell.split("|") if "~" in part} <= {"skip_connect", "nor_conv_3x3"}
        for cell in cells
    )


def test_recorded_scores_of_a_zero_cost_search() -> None:
    record = searched("method=naswot", "method.candidates=20")
    (row,) = ranked("from=run", "resamples=5")["rows"]
    assert row["kind"] == "recorded"
    assert row["n"] == len({text for text, *_ in record["choice"]["drawn"]})
    assert row["kendall_tau"] == pytest.approx(record["choice"]["kendall_tau"], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=random",), "has no checkpoint"),
        (("space=darts", "space.layers=3"), "no benchmark covers the cells"),
        (("space=nb1shot1_1", "space.layers=3"), "nasx bench import nb101"),
    ],
)
def test_searches_without_scores_or_accuracies_are_refused(words: tuple[str, ...], said: str) -> None:
    kept = [word for word in WORDS if word.split("=")[0] not in {word.split("=")[0] for word in words}]
    search_jobs.search(["method=darts", *kept, "out=outputs", "name=run", *words])
    with pytest.raises(UserError) as caught:
        rank.main(["from=run"])
    assert said in str(caught.value)


@pytest.mark.parametrize("choice", ["x", {"drawn": [[1]]}, {"drawn": [[1, "high"]]}, {"drawn": 3}, [1]])
def test_a_damaged_record_is_refused(choice: object, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"choice": choice}))
    with pytest.raises(UserError, match=r"result\.json: its recorded scores cannot be read"):
        rank.recorded(tmp_path)


def test_a_recorded_score_that_is_not_a_number_is_the_lowest(tmp_path: Path) -> None:
    drawn = [["a", 1.0, 2.0], ["b", None, 3.0], ["c", float("nan"), 3.0]]
    (tmp_path / "result.json").write_text(json.dumps({"choice": {"drawn": drawn}}))
    assert rank.recorded(tmp_path) == {"a": 1.0, "b": -np.inf, "c": -np.inf}
    (tmp_path / "result.json").write_text(json.dumps({"choice": None}))
    assert rank.recorded(tmp_path) == {}


def test_a_zero_cost_search_without_its_record_is_refused() -> None:
    searched("method=naswot", "method.candidates=3")
    Path("outputs/run/result.json").unlink()
    with pytest.raises(UserError, match="neither trained a supernet nor recorded scores"):
        rank.main(["from=run"])


def test_a_search_whose_checkpoints_are_gone_is_refused() -> None:
    searched()
    for path in checkpoints.found(Path("outputs/run")):
        path.unlink()
    with pytest.raises(UserError, match="has no checkpoint"):
        rank.main(["from=run"])
