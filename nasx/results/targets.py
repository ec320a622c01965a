"""Numbers printed in the five papers.

`nasx/results/targets.csv` contains one printed number per row:
    paper, place (table, figure or section), label (the row as printed), method (the corresponding nasx method, if any),
    variant (conditions on our configuration, `key=value`, separated by spaces), own (1: the paper's own method),
    space, searched_on (`each`: on every dataset separately), dataset, metric, mean, std, n, std_over (the values
    over which the paper's ± is computed), selection (best of 4, best, mean, seed 1), protocol, recipe, note
Accuracies and errors are in percent, parameters and operations in millions, and costs in GPU-days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import pandas as pd

from nasx.core.plain import Row
from nasx.errors import UserError
from nasx.results.collect import rows_of
from nasx.results.table_columns import DATASETS

PAPERS = {
    "idarts": "iDARTS (ICML 2021)",
    "amended": "Amended-DARTS (ICLR 2021 submission)",
    "single": "Single-DARTS (ICCV workshops 2021)",
    "lambda": "Λ-DARTS (ICLR 2023)",
    "tse": "TSE-DARTS (MetaLearn 2021)",
}
METRICS = {
    "valid_accuracy": "valid %", "test_accuracy": "test %", "test_error": "test error %", "top1_accuracy": "top-1 %",
    "top1_error": "top-1 error %", "top5_accuracy": "top-5 %", "top5_error": "top-5 error %",
    "params_m": "params (M)", "mult_adds_m": "mult-adds (M)", "flops_m": "FLOPs (M)",
    "search_gpu_days": "search GPU-days", "valid_perplexity": "valid perplexity",
    "test_perplexity": "test perplexity", "parametric_ops_normal": "parametric operations",
}  # fmt: skip
SHORT = {paper: full.partition(" (")[0].replace("Λ", "Lambda") for paper, full in PAPERS.items()}
RESULTS = {
    name: name.replace("_", " ").replace("top1", "top-1").replace("gpu days", "GPU-days")
    for name in (
        "supernet_valid_accuracy", "supernet_valid_error", "test_accuracy", "test_error", "top1_accuracy",
        "top1_error", "valid_perplexity", "test_perplexity", "layer_alignment", "search_gpu_days",
    )
}  # fmt: skip
"""Metrics that `describe` includes, in this order."""
ROW = ["label", "selection", "searched_on", "recipe"]
TEXT = [
    "paper", "place", "label", "method", "variant", "space", "searched_on", "dataset", "metric", "std_over",
    "selection", "protocol", "recipe", "note",
]  # fmt: skip


@lru_cache(maxsize=1)
def _targets() -> pd.DataFrame:
    empty = {name: [""] for name in ("mean", "std", "n")}
    with files("nasx").joinpath("results/targets.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=dict.fromkeys(TEXT, "str"), keep_default_na=False, na_values=empty)
    space_counts = table.groupby(["paper", "place", *ROW])["space"].transform("nunique")
    table["row"] = [_name(line, several > 1) for line, several in zip(rows_of(table), space_counts, strict=True)]
    return table


def _name(line: Row, spaces: bool) -> str:
    """Return the unique name of a printed row: paper, place, label, and the fields that distinguish equal labels."""
    chosen = line["selection"] not in ("", "mean") and line["selection"] not in line["label"]
    return (
        f"{SHORT[line['paper']]}, {line['place']}, {line['label']}"
        + f" ({line['selection']})" * chosen
        + f" on {line['space']}" * spaces
        + f", {line['recipe']}" * bool(line["recipe"])
    )


def describe(lines: Sequence[Row]) -> str:
    """Describe the results of a printed row, for example `test error 2.71 +- 0.09 on CIFAR-10 (over retrainings)`."""
    texts: list[str] = []
    for metric in sorted({line["metric"] for line in lines} & set(RESULTS), key=list(RESULTS).index):
        some = [line for line in lines if line["metric"] == metric]
        if metric == "search_gpu_days" and texts:
            continue
        over = next((line["std_over"] for line in some if line["std_over"]), "")
        n = next((f"{int(line['n'])} " for line in some if not math.isnan(line["n"])), "")
        values = (shown(line["mean"], line["std"], digits(line)) or "as a range" for line in some)
        datasets = (DATASETS.get(line["dataset"], line["dataset"]) for line in some)
        numbers = ", ".join(f"{value} on {dataset}" for value, dataset in zip(values, datasets, strict=True))
        spread = {"": "", "not stated": " (+- not explained)"}.get(over, f" (over {n}{over})")
        texts.append(f"{RESULTS[metric]} {numbers}{spread}")
    return ", ".join(texts).replace("±", "+-")


def load(paper: str | None = None) -> pd.DataFrame:
    """Load the printed numbers of one paper, or of all five; the column `row` contains the name of the printed row.

    Raises UserError for an unknown paper.
    """
    if paper is not None and paper not in PAPERS:
        raise UserError(f"paper={paper}", "is not a paper", f"choose from {', '.join(PAPERS)}")
    table = _targets()
    return (table if paper is None else table[table["paper"] == paper]).reset_index(drop=True)


@lru_cache(maxsize=1)
def means() -> frozenset[str]:
    """Return the names of the printed rows that are means over searches."""
    table = _targets()
    return frozenset(table["row"][(table["selection"] == "mean") | (table["std_over"] == "searches")])


def digits(line: Row) -> int:
    return {"mult_adds_m": 0, "params_m": 1, "parametric_ops_normal": 0}.get(line["metric"], 2)


def shown(mean: float, std: float, digits: int) -> str:
    if math.isnan(mean):
        return ""
    short = f"{mean:.{digits}f}" if float(f"{mean:.{digits}f}") == mean else f"{mean:g}"
    return short + ("" if math.isnan(std) else f" ± {std:.2f}")
