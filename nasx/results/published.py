"""Compare finished runs with the printed numbers of the papers: `nasx table paper=idarts|amended|single|lambda|tse`.

Rules
1. A run is compared with a printed number only if space, dataset and method are the same; ablations and baselines that
   nasx lacks are shown without a run. A run of an experiment is compared only with the rows that the experiment lists
   (nasx.config.experiments), and only if it has the overrides that the experiment lists for them.
2. Protocols are never mixed: `compare` raises an error that suggests a filter if our runs for a printed table were
   searched under several protocols or under one other than the paper's, or were retrained with several recipes.
   The same method, DARTS, scores 54.30 or 59.84 on CIFAR-10 depending on the protocol (NAS-Bench-201 or NATS-Bench).
3. A column states which values the ± is computed over, because the papers differ (retrainings of the best cell,
   independent searches, best of four).
4. Reduced runs are shown and marked; they are not reproductions.
5. A cell chosen among several is compared neither with a mean over searches nor with the best of a different number of
   searches. If the paper does not state how its cell was chosen, our label states how ours was: `best of 4`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from nasx.config import experiments
from nasx.config.experiments import Experiment, Printed
from nasx.core.plain import Config, Row
from nasx.core.quantities import value_at
from nasx.errors import UserError
from nasx.results.collect import SIZES, rows_of
from nasx.results.table_columns import DATASETS, NO_TEST, chosen, distinct, marks, name, value
from nasx.results.table_formats import Sheet
from nasx.results.targets import METRICS, PAPERS, ROW, digits, load, means, shown
from nasx.tracking import records

METHOD_OF = {"lambda_darts": "lambda", "lambda_": "lambda", "amended_darts": "amended", "single_darts": "single"}
RETRAINED = {
    "valid_perplexity": "valid_perplexity",
    "test_perplexity": "test_perplexity",
    "params_m": "params",
    **dict.fromkeys(("test_accuracy", "top1_accuracy", "test_error", "top1_error"), "test_accuracy"),
}
CHOICES = frozenset({"search", "retrain"})
"""Config groups whose choice has its own column and is compared like an override."""
PLACES = frozenset({"from", "method", "space", "dataset"})
"""Overrides that select the run and its data; they are compared separately."""


def compare(ours: pd.DataFrame, paper: str) -> tuple[list[Sheet], pd.DataFrame]:
    """Return the tables of `paper` as sheets with our rows below the printed ones, and a frame with one number per row.

    `ours` is the `summary` of the runs without reference rows. Tables without comparable runs are omitted; if no table
    has any, all tables are returned as printed. Raises UserError if protocols would be mixed.
    """
    printed = load(paper)
    rows = rows_of(ours)
    sheets: list[Sheet] = []
    bare: list[Sheet] = []
    numbers: list[dict[str, object]] = []
    left: list[str] = []
    faults: list[UserError] = []
    for (place, space), section in printed.groupby(["place", "space"], sort=False):
        lines = rows_of(section)
        matches = {id(row): row for row in rows for line in lines if _fits(line, row)}
        try:
            _same_protocol(paper, str(place), str(space), lines, list(matches.values()))
        except UserError as fault:
            faults.append(fault)
            continue
        sheet, found = _section(paper, str(place), str(space), lines, list(matches.values()))
        (sheets if matches else bare).append(sheet)
        if matches:
            numbers += found
        else:
            left.append(f"{place} ({space})")
    if faults:
        raise UserError.join(faults)
    table = pd.DataFrame(numbers if sheets else printed)
    table.attrs["notes"] = list(ours.attrs.get("notes", []))
    if sheets and left:
        table.attrs["notes"].append(f"{PAPERS[paper]}, not shown, without runs: {', '.join(left)}")
    if not sheets:
        table.attrs["notes"].append(f"no run is comparable with {PAPERS[paper]}: only printed numbers are shown")
    return sheets or bare, table


def _fits(line: Row, row: Row) -> bool:
    """Return whether our row `row` has the method, space, dataset, selection and metric of the printed number."""
    if not _measure(line, row):
        return False
    experiment = experiments.find(row["experiment"])
    if experiment and experiment.published:
        named = any(_named(printed, experiment, line, row) for printed in experiment.published)
        return named and _same_selection(line, row)
    best = f"best of {int(row['best_of'])}" if row["best_of"] else ""
    return (
        METHOD_OF.get(row["method"], row["method"]) == line["method"] != ""
        and row["space"] == line["space"]
        and (row["kind"] == "search" or row["dataset"] == line["dataset"])
        and _searched(line) in ("", row["searched_on"])
        and (line["selection"] or "mean") == (best or "mean")
        and ("stages=" in line["variant"]) == any(text.startswith("stages=") for text in row["overrides"])
        and all(_holds(c, row) for c in line["variant"].split())
    )


def _same_selection(line: Row, row: Row) -> bool:
    """Return whether our cells may be compared with the printed row, given how both were chosen (rule 5)."""
    if line["selection"].startswith("best of"):
        return bool(line["selection"] == f"best of {int(row['best_of'])}")
    return not row["best_of"] or line["row"] not in means()


def _named(printed: Printed, experiment: Experiment, line: Row, row: Row) -> bool:
    """Return whether our row is the experiment's result for the printed number.

    It must have the experiment's components and the overrides that the experiment lists for the number, and no other
    overrides of the method or of keys that the experiment varies. A reduced row, which is marked (rule 4), may also
    have the overrides that reduce it.
    """
    if printed.row != line["row"] or DATASETS.get(line["dataset"], line["dataset"]) not in printed.datasets:
        return False
    words = printed.settings
    chosen = {**experiment.choices, **words}
    searched = experiment.choices if "from" in words else chosen
    if any(row[group] != chosen[group] for group in ("method", "space", "dataset") if group in chosen):
        return False
    if row["searched_on"] != searched.get("dataset", row["searched_on"]):
        return False
    known = {word for other in experiment.published for word in other.overrides}
    given = {
        text.lstrip("+").partition("=")[0]
        for text in (*row["overrides"], *row["parent_overrides"])
        if not row["reduced"] or text in known or text.partition("=")[0].rpartition(".")[2] not in SIZES
    }
    other = {key for key in given if key in experiment.keys | CHOICES or key.startswith("method.")}
    if other - words.keys():
        return False
    return all(_holds(f"{key}={value}", row) for key, value in words.items() if key not in PLACES)


def _searched(line: Row) -> str:
    return str(line["dataset"] if line["searched_on"] == "each" else line["searched_on"])


def _holds(condition: str, row: Row) -> bool:
    """Return whether our row has the setting `key=value`, on the command line or else in the run's config.yaml."""
    key, _, wanted = condition.partition("=")
    if wanted.isupper():  # RUN: a placeholder for the user's run
        return True
    if key == "space.keep":  # config.yaml contains the genotype of that run
        search = row["parent_folder"] or row["folder"]
        kept = Path(search).parent / wanted / "genotype.txt"
        return kept.is_file() and bool(kept.read_text(encoding="utf-8").strip() == _configured(search, key))
    if key in CHOICES:
        return bool(row[key] == wanted)
    if key == "seed":
        return {_seed(folder) for folder in row["folders"]} == {wanted}
    for line in (*row["overrides"], *row["parent_overrides"]):
        name, _, setting = line.partition("=")
        if name.lstrip("+") == key:
            return bool(setting == wanted)
    found = (_configured(folder, key) for folder in (row["folder"], row["parent_folder"]))
    return str(next((value for value in found if value is not None), None)) == wanted


@lru_cache(maxsize=256)
def _configuration(folder: str) -> Config:
    return records.configuration(Path(folder)) or {}


def _configured(folder: str, key: str) -> object:
    return value_at(_configuration(folder), key)


def _seed(folder: str) -> str:
    """Return the seed of a search or, for a retraining, of the search that found its cell."""
    parent = _configured(folder, "from")
    sibling = Path(folder).parent / Path(str(parent)).name
    return str(_configured(str(sibling) if parent and sibling.is_dir() else folder, "seed"))


def _measure(line: Row, row: Row) -> str:
    """Return the column of `summary` with the metric of the printed number; empty if our row has none."""
    metric, dataset = line["metric"], line["dataset"]
    if row["kind"] == "retrain":
        return RETRAINED.get(metric, "")
    if metric in ("valid_accuracy", "test_accuracy") and row.get(f"{dataset}.valid_n"):
        return f"{dataset}.{metric.partition('_')[0]}"
    return "cost_s" if metric == "search_gpu_days" and row["gpu"] else ""


def _ours(line: Row, row: Row) -> tuple[float, float, int]:
    """Return mean, sample standard deviation (NaN if unknown) and n of our row, in the unit of the printed number."""
    measure = _measure(line, row)
    scale = {"cost_s": 1 / 86400, "params": 1e-6}.get(measure, -1.0 if line["metric"].endswith("error") else 1.0)
    mean, n = row.get(f"{measure}_mean", math.nan), row.get(f"{measure}_n", 0)
    offset = 100.0 if scale == -1.0 else 0.0
    return mean * scale + offset, row.get(f"{measure}_std", math.nan) * abs(scale), 0 if math.isnan(mean) else int(n)


def _same_protocol(paper: str, place: str, space: str, lines: Sequence[Row], matches: Sequence[Row]) -> None:
    """Raise UserError if the protocol of a run differs from the paper's, or if runs differ in protocol or recipe.

    Runs of experiments may differ from each other, because each has the protocol of its printed row.
    """
    printed = {line["protocol"] for line in lines} - {""}
    found = sorted({row["protocol"] for row in matches if row["protocol"]})
    where = f"paper={paper}, {place} ({space})"
    if printed and set(found) - printed:
        named = ", ".join(sorted(printed))
        fault = f"the paper used the protocol {named}, but your runs used {', '.join(found)}"
        raise UserError(
            where, fault, f"select the matching runs with filter=protocol={named}, or search again with that protocol"
        )
    for key in ("protocol", "recipe"):
        values = sorted({row[key] for row in matches if row[key] and not row["experiment"]})
        if len(values) > 1:
            fault = f"your runs differ in {key} ({', '.join(values)})"
            raise UserError(where, fault, f"select one with filter={key}={values[0]}")


def _section(
    paper: str, place: str, space: str, lines: Sequence[Row], matches: Sequence[Row]
) -> tuple[Sheet, list[dict[str, object]]]:
    columns = list(dict.fromkeys((line["dataset"], line["metric"]) for line in lines))
    datasets = list(dict.fromkeys(dataset for dataset, _ in columns))
    columns.sort(key=lambda c: (datasets.index(c[0]), list(METRICS).index(c[1]) if c[1] in METRICS else len(METRICS)))
    printed: dict[tuple[object, ...], list[Row]] = {}
    for line in lines:
        printed.setdefault(tuple(line[k] for k in ROW), []).append(line)
    body: list[tuple[str, ...]] = []
    rules: set[int] = set()
    numbers: list[dict[str, object]] = []
    remarks: dict[str, list[str]] = {}
    shared, own = distinct(matches)
    settings = {id(row): setting for row, setting in zip(matches, own, strict=True)}
    for members in printed.values():
        cells = {(m["dataset"], m["metric"]): shown(m["mean"], m["std"], digits(m)) for m in members}
        first = members[0]
        for remark in dict.fromkeys(m["note"] for m in members if m["note"]):
            remarks.setdefault(remark, []).append(first["label"])
        selected = first["selection"] not in ("", "mean") and first["selection"] not in first["label"]
        label = first["label"] + (f" ({first['selection']})" if selected else "")
        counts = {int(m["n"]) for m in members if not math.isnan(m["n"])}
        over = next((m["std_over"] for m in members if m["std_over"]), "")
        mine = [row for row in matches if any(_fits(m, row) for m in members)]
        if body and (mine or body[-1][1] == "nasx"):
            rules.add(len(body))
        head = label, "printed", str(counts.pop()) if len(counts) == 1 else "", over, first["protocol"], first["recipe"]
        body.append((*head, *(cells.get(c, "") for c in columns)))
        numbers += [{**m, "source": "printed"} for m in members]
        for row in mine:
            fitting = {(m["dataset"], m["metric"]): _ours(m, row) for m in members if _fits(m, row)}
            words = [f"↳ nasx {name(row)}", settings[id(row)], f"({marks(row)})" if marks(row) else ""]
            over = row["std_over"] if row["n"] > 1 else ""
            head = " ".join(filter(None, words)), "nasx", str(row["n"]), over, row["protocol"], row["recipe"]
            body.append((*head, *(_cell(fitting.get(c), row["n"]) for c in columns)))
            facts = {
                **{key: first[key] for key in ("label", "row", "own")},
                **{key: row[key] for key in ("method", "searched_on", "protocol", "recipe")},
                **{"paper": paper, "place": place, "space": space, "variant": row["setting"], "std_over": over},
                **{"selection": chosen(row) or "mean", "note": marks(row), "source": "nasx"},
            }
            for (dataset, metric), (mean, std, n) in fitting.items():
                numbers.append(facts | {"dataset": dataset, "metric": metric, "mean": mean, "std": std, "n": n})
    heads = ["method", "source", "n", "± over", "protocol", "recipe"]
    for dataset, metric in columns:
        heads.append(f"{DATASETS.get(dataset, dataset)} {METRICS.get(metric, metric.replace('_', ' '))}")
    kept = [i for i in range(len(heads)) if any(row[i] for row in body)]
    rows = {remark: ", ".join(dict.fromkeys(own[:4])) + ", …" * (len(own) > 4) for remark, own in remarks.items()}
    notes = [f"{labels}: {remark}" for remark, labels in rows.items()]
    if shared:
        notes.append(f"set in all our rows: {shared}")
    if any(row["reduced"] is True for row in matches):
        notes.append("reduced: smaller than the paper's setting; not a reproduction")
    if any("n/a" in row for row in body):
        notes.append(NO_TEST)
    sheet = Sheet(
        f"{PAPERS[paper]}, {place}: {space}",
        tuple(heads[i] for i in kept),
        tuple(tuple(row[i] or ("–" if i > 5 else "") for i in kept) for row in body),
        "Printed numbers as the paper gives them; rows marked ↳ are ours: mean ± sample standard deviation.",
        tuple(notes),
        frozenset(rules),
        frozenset(k for k, i in enumerate(kept) if i in (0, 1, 3, 4, 5)),
    )
    return sheet, numbers


def _cell(found: tuple[float, float, int] | None, n: int) -> str:
    if found is None:
        return ""
    if math.isnan(found[0]):
        return "n/a"
    mean, std, known = found
    return value({"m_mean": mean, "m_std": std, "m_n": known, "n": n}, "m")
