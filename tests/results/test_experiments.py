"""Experiments and printed rows match in both directions: every file states its command, rows and cost like the printed
numbers; every printed row is in a file or in the list of rows that are not run, with a reason; every command passes the
checks; a finished run of an experiment is compared only with the rows that the experiment lists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import FILES, HEADS, record
from hydra.types import RunMode

from nasx.cli import arguments, audit, listing, preflight
from nasx.config import commands, experiments, paths
from nasx.errors import UserError
from nasx.results import coverage, published, targets
from nasx.results.aggregate import summary
from nasx.results.collect import collect

ROWS: dict[str, list[dict[str, Any]]] = {}
for _line in targets.load().to_dict("records"):
    ROWS.setdefault(str(_line["row"]), []).append({str(k): v for k, v in _line.items()})


def texts(words: str, folder: Path) -> str:
    """A command's words with something that the placeholders may stand for."""
    return re.sub(r"\bspace\.keep=\S+", "space.keep=DARTS_V2", re.sub(r"\bfrom=RUN", f"from={folder}", words))


# ---------------------------------------------------------------------------------------------------- what they say
@pytest.mark.parametrize("name", FILES)
def test_the_head_of_a_file(name: str) -> None:
    head, lines = HEADS[name], FILES[name].read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1:3] == ["meta:", "  commands:"]
    assert re.match(rf"nasx (search|run|study) (--multirun )?experiment={name}( |$)", head.commands[0])
    assert all(f" experiment={name} " in f"{command} " for command in head.commands)
    assert head.summary.endswith(".")
    assert bool(head.published) != bool(head.unpublished), "printed rows, or why there is none"
    assert re.search(r"GPU-days?\b.*\b(1080 Ti|V100|2080 Ti|card not stated|TSE-DARTS-20|NAS-Bench-201)|CPU", head.cost)
    assert max(map(len, lines[: lines.index("defaults:")])) <= 120
    assert not head.published or {"space", "method", "dataset"} <= set(head.choices), (
        "a published one chooses all three"
    )


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.published])
def test_the_printed_numbers_are_those_of_the_papers(name: str) -> None:
    for printed in HEADS[name].published:
        assert printed.row in ROWS, f"{name}: no such row: {printed.row}"
        lines = [line for line in ROWS[printed.row] if coverage.named(line["dataset"]) in printed.datasets]
        assert printed.text == targets.describe(lines), f"{name}: {printed.row}"
        assert printed.datasets <= {coverage.named(line["dataset"]) for line in ROWS[printed.row]}


def test_every_printed_row_is_named_once_or_said_not_to_be() -> None:
    """Rows of methods that nasx does not have too: an empty `method` hides nothing."""
    wanted = {(row, coverage.named(line["dataset"])) for row, lines in ROWS.items() for line in lines}
    run = [(row.row, dataset) for head in HEADS.values() for row in head.published for dataset in row.datasets]
    assert len(run) == len(set(run)), f"named twice: {sorted(x for x in run if run.count(x) > 1)}"
    left = {(row, name) for row, reasons in coverage.not_run().items() for some in reasons.values() for name in some}
    assert sorted(left - wanted) == [], "no such row"
    assert sorted(wanted - set(run) - left) == []
    assert sorted(set(run) & left) == [], "named by an experiment, and said not to be run"


def test_no_row_and_no_figure_is_without_command_and_reason() -> None:
    rows = [entry for paper in targets.PAPERS for entry in coverage.rows(paper)]
    figures = [entry for paper in targets.PAPERS for entry in coverage.figures(paper)]
    assert {entry.name for entry in rows} == ROWS.keys()
    assert len({entry.name for entry in figures}) == len(figures) == 18
    silent = [entry.name for entry in (*rows, *figures) if not entry.commands and not entry.reason]
    assert (len(silent), silent) == (0, [])
    pairs = {(entry.name, name) for entry in rows for name in entry.shows.split(", ")}
    assert pairs == {(row, coverage.named(line["dataset"])) for row, lines in ROWS.items() for line in lines}


def test_a_row_that_nothing_is_said_of_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count above can fail: with one reason taken out, its rows are without."""
    reasons = {row: dict(own) for row, own in coverage.not_run().items() if row != "iDARTS, Table 1, ENAS"}
    monkeypatch.setattr(coverage, "not_run", lambda: reasons)
    silent = [entry for entry in coverage.rows("idarts") if not entry.commands and not entry.reason]
    assert [(entry.name, entry.shows) for entry in silent] == [
        ("iDARTS, Table 1, ENAS", "CIFAR-10, CIFAR-100, ImageNet16-120")
    ]


def test_the_list_of_a_paper_has_its_rows_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    listing.main({"what": "experiments", "paper": "tse"}, [str(paths.conf_dir())])
    said = " ".join(capsys.readouterr().out.split())
    assert "a method or a network of other papers that nasx does not have" in said
    assert "$ nasx study experiment=tse/darts_20 study=tse" in said
    assert "Figure 3" in said


@pytest.mark.slow
def test_the_list_has_a_row_for_each_and_all_of_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of 80 columns for each experiment; all that its file says by its name; words filter as in the docs."""
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\n# My own.\n")
    folders = [str(tmp_path), str(paths.conf_dir())]

    def said(what: str, *words: str) -> list[str]:
        listing.main({"what": what, "words": words}, folders)
        return capsys.readouterr().out.splitlines()

    lines = said("experiments")
    assert [line.split()[0] for line in lines[2 : 3 + len(HEADS)]] == sorted([*HEADS, "own"])
    assert max(map(len, lines)) <= 80
    assert "darts/c10 darts darts err. 3.00 % (+19)" in [" ".join(line.split()) for line in lines]
    monkeypatch.setenv("COLUMNS", "120")
    wide = [" ".join(line.split()) for line in said("experiments")]
    assert any(line.startswith("darts/c10 darts darts err. 3.00 % (+19) 0.4 (order 1)") for line in wide)
    monkeypatch.setenv("COLUMNS", "80")
    for name, head in HEADS.items():
        told = " ".join(" ".join(said("experiments", name)).replace(" published ", " ").replace(" run ", " ").split())
        for text in (
            head.summary,
            *head.commands,
            head.unpublished,
            head.cost,
            *(p.row + ": " + p.text for p in head.published),
        ):
            assert text.replace(" published ", " ").replace(" run ", " ") in told, text
    names = [line.split()[0] for line in said("experiments", "TSE", "space=nb201")[2:-3]]
    assert names == [n for n, h in HEADS.items() if h.choices.get("space") == "nb201" and "tse" in str((n, h)).lower()]
    assert "My own." in " ".join(said("all", "own"))
    inherited = " ".join(" ".join(said("spaces", "s2")).split())
    assert "source A. Zela et al., RobustDARTS" in inherited
    assert "edges=pruned" in inherited, "a setting of the space that its file extends"
    for what, words, fault in (
        (
            "experiments",
            ("zzz",),
            "nasx list experiments zzz: no entry matches this word; nasx list experiments prints all ",
        ),
        ("all", ("experimens",), "did you mean experiments?"),
        ("foo", (), "what=foo: unknown kind"),
    ):
        with pytest.raises(UserError) as found:
            said(what, *words)
        assert fault in str(found.value)


def test_the_words_of_the_list_become_settings() -> None:
    assert listing.overrides(["methods"]) == ["what=methods"]
    assert listing.overrides(["method", "darts"]) == ["what=methods", "words=[darts]"]
    assert listing.overrides(["experiments", "space=nb201", "paper=tse"]) == [
        "paper=tse",
        "what=experiments",
        'words=["space=nb201"]',
    ]
    assert listing.overrides(["idarts"]) == ["words=[idarts]"]
    assert listing.overrides([]) == []


# ---------------------------------------------------------------------------------------------------- that they run
def searched(folder: Path, head: Any) -> None:
    """A finished search of an experiment, as far as `from=` looks."""
    (folder / "config.yaml").write_text(f"choices: {json.dumps(dict(head.choices))}\nspace: {{}}\ndataset: {{}}\n")
    (folder / "result.json").write_text('{"kind": "search", "status": "finished", "genotype": "of no matter here"}')
    rows = [{"epoch": 1 + e, "genotype": "of no matter here"} for e in range(200)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def refused(command: str, folder: Path) -> list[str]:
    """Faults of a command, but the look at the dataset, which need not be on this machine."""
    _, verb, *words = texts(command, folder).split()
    try:
        if verb == "audit":
            assert audit.request(words)[1]
            return []
        preflight.check_line(verb, preflight.normalize(verb, arguments.split_options(words)))
    except UserError as fault:
        return [text for text in str(fault).splitlines() if not text.lstrip().startswith("dataset")]
    return []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.sample(10)
def test_the_commands_of_a_file_pass_the_checks(name: str, tmp_path: Path) -> None:
    """The file's own for one seed, and of its rows' the one with the most words."""
    head = HEADS[name]
    searched(tmp_path, head)
    longest = max(head.published, key=lambda printed: len(printed.overrides), default=None)
    base = experiments.command(name, head)
    if "override /hydra/sweeper" in FILES[name].read_text(encoding="utf-8"):
        base += " --multirun"
    for command in {base, experiments.command(name, head, longest)} if longest else {base}:
        assert refused(command, tmp_path) == [], command


@pytest.mark.parametrize("paper", targets.PAPERS)
@pytest.mark.sample(4)
def test_the_commands_of_figures_pass_the_checks(paper: str, tmp_path: Path) -> None:
    searched(tmp_path, HEADS["darts/c10_200"])
    for command in sorted({command for figure in coverage.figures(paper) for command in figure.commands}):
        assert refused(command, tmp_path) == [], command


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_command_of_every_row_passes_the_checks(name: str, tmp_path: Path) -> None:
    head = HEADS[name]
    searched(tmp_path, head)
    for command in sorted({*head.commands, *(experiments.command(name, head, printed) for printed in head.published)}):
        assert refused(command, tmp_path) == [], command


# ------------------------------------------------------------------------------------------------- beside the papers
MEASURED = {"test_accuracy", "test_error", "top1_accuracy", "top1_error", "valid_accuracy"}
"""Metrics of printed rows that a run of nasx can have beside them."""


def finish(
    root: Path,
    number: int,
    name: str,
    cfg: dict[str, Any],
    choices: dict[str, Any],
    printed: experiments.Printed,
    *,
    reduced: bool = False,
) -> None:
    """What the command of a printed row leaves: a search, and where no benchmark answers a retraining of its cell."""
    words = {key: value for key, value in printed.settings.items() if key != "from"}
    overrides, seed = [f"experiment={name}", *(f"{k}={v}" for k, v in words.items())], int(words.get("seed", 0))
    if "space.keep" in words:
        (root / words["space.keep"]).mkdir(exist_ok=True)
        (root / words["space.keep"] / "genotype.txt").write_text(f"found by {words['space.keep']}\n")
        overrides = [text for text in overrides if not text.startswith("space.keep")] + ["space.keep=Genotype(...)"]
        cfg = {**cfg, "space": {**cfg["space"], "keep": f"found by {words['space.keep']}"}}
    chosen = {**choices, **{k: v for k, v in words.items() if k in commands.GROUPS}}
    searched = choices if "from" in printed.settings else chosen
    scores = {d: {"valid": 50 + number / 10, "test": 50 + number / 10} for d in ("cifar10", "cifar100", "imagenet16")}
    found = {"benchmark": chosen["benchmark"], "source": "x", "params": 1, **scores}
    record(
        root / f"s{number}",
        number,
        searched,
        {**cfg, "seed": seed},
        seed=seed,
        reduced=reduced,
        lookup=found if chosen["benchmark"] != "none" else None,
        overrides=[text for text in overrides if searched == chosen or text.startswith(("method", "experiment"))],
    )
    if chosen["benchmark"] == "none":
        record(
            root / f"r{number}",
            number,
            {**chosen, "method": None, "search": None, "experiment": None},
            {"seed": seed, "from": f"outputs/s{number}"},
            kind="retrain",
            seed=seed,
            parent=f"outputs/s{number}",
            test_accuracy=0.5 + number / 1000,
            overrides=overrides[1:],
            lookup=None,
            labels=["best_of_4"] if "(best of 4)" in printed.row else [],
        )


@pytest.mark.slow
def test_finished_runs_stand_next_to_the_rows_that_their_experiments_name_and_no_others(tmp_path: Path) -> None:
    """One run for each way in which a file's rows are computed, of all files together."""
    loader, ways = preflight.make_loader(), []
    for name, head in HEADS.items():
        cfg, choices = preflight.resolved(loader.load_configuration("run", [f"experiment={name}"], RunMode.RUN))
        for printed in {printed.overrides: printed for printed in head.published}.values():
            finish(tmp_path, len(ways), name, cfg, choices, printed)
            ways.append((name, apart(printed)))
    ours = summary(collect(tmp_path), reference=False)
    beside: dict[str, set[int]] = {}
    for paper in targets.PAPERS:
        _, numbers = published.compare(ours, paper)
        for line in numbers[(numbers["source"] == "nasx") & numbers["metric"].isin(MEASURED)].to_dict("records"):
            accuracy = 100 - line["mean"] if str(line["metric"]).endswith("error") else line["mean"]
            beside.setdefault(str(line["row"]), set()).add(round(10 * (accuracy - 50)))
    wanted: dict[str, set[int]] = {}
    for name, head in HEADS.items():
        for printed in head.published:
            if {line["metric"] for line in ROWS[printed.row]} & MEASURED:
                words, seed = apart(printed)
                wanted.setdefault(printed.row, set()).update(
                    number
                    for number, (other, (its, own)) in enumerate(ways)
                    if (other, its) == (name, words) and seed in (None, own or "0")
                )
    assert {row: [ways[number] for number in numbers] for row, numbers in beside.items()} == {
        row: [ways[number] for number in numbers] for row, numbers in wanted.items()
    }


@pytest.mark.parametrize(
    ("name", "overrides", "reduced", "rows"),
    [
        ("lambda/nb201", [], False, {"Lambda-DARTS, Table 1, Lambda-DARTS Λ"}),
        ("lambda/nb201", ["search.epochs=2"], True, {"Lambda-DARTS, Table 1, Lambda-DARTS Λ"}),
        ("lambda/nb201", ["method.strength=3"], False, set()),
        ("lambda/nb201", ["search=nats"], False, set()),
        ("lambda/nb201", ["space=nb1shot1_1"], False, set()),
        (
            "lambda/nb201_50",
            ["method.strength=0.5", "search.epochs=2"],
            True,
            set(),
        ),  # its row prints an alignment only
        ("single/table5", ["search.lr=0.025"], True, {"Single-DARTS, Table 5, Single-DARTS lr=0.025"}),
    ],
)
def test_what_a_run_of_an_experiment_may_be(
    tmp_path: Path, name: str, overrides: list[str], reduced: bool, rows: set[str]
) -> None:
    """A smaller run stands beside the printed row, and is marked; another method, protocol or space does not."""
    choices = {**HEADS[name].choices, "experiment": name, "search": "nb201_v1", "benchmark": "nb201"}
    choices |= {key: value for key, value in (text.split("=") for text in overrides) if key in choices}
    record(
        tmp_path / "run",
        0,
        choices,
        {},
        overrides=overrides,
        reduced=reduced,
        seed=0,
        lookup={"benchmark": "nb201", "source": "x", "params": 1, "cifar10": {"valid": 90.0, "test": 90.0}},
    )
    ours = summary(collect(tmp_path), reference=False)
    _, numbers = published.compare(ours, name.partition("/")[0])
    mine = numbers[numbers["source"] == "nasx"] if "source" in numbers else numbers[:0]
    assert set(mine["row"]) == rows
    assert {*mine["note"]} == ({"reduced"} if reduced and rows else {""} if rows else set())


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("search.epochs=200", {"Amended-DARTS, Table 1, Amended-DARTS", "Lambda-DARTS, Table 8, Amended-DARTS"}),
        (
            "search.epochs=2",
            {"Amended-DARTS, Table 2, Amended S1 pruned", "Amended-DARTS, Table 6, Amended S1-A pruned"},
        ),
    ],
)
def test_a_reduced_run_keeps_the_words_of_its_row(tmp_path: Path, given: str, rows: set[str]) -> None:
    choices = {**HEADS["amended/darts_c10"].choices, "experiment": "amended/darts_c10", "benchmark": "none"}
    printed = experiments.Printed("", {}, "", (given,))
    finish(tmp_path, 0, "amended/darts_c10", {}, choices, printed, reduced=True)
    ours = summary(collect(tmp_path), reference=False)
    tell = (published.compare(ours, paper)[1] for paper in ("amended", "lambda"))
    mine = [numbers[numbers["source"] == "nasx"]["row"] for numbers in tell if "source" in numbers]
    assert {row for found in mine for row in found} == rows


def apart(printed: experiments.Printed) -> tuple[dict[str, str], str | None]:
    """A row's words without the seed, and the seed."""
    return {k: v for k, v in printed.settings.items() if k != "seed"}, printed.settings.get("seed")
