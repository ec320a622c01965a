"""Tables of finished runs: mean ± sample standard deviation with n, one row a configuration.

    mean = (1/n) Σ x_i      std = sqrt(Σ (x_i − mean)² / (n − 1)),  none where n = 1

A row gathers the runs that differ in nothing but the seed. Runs of different configurations, protocols, recipes or
deviations never share a row, and where a sheet holds more than one protocol it says so. What the ± is over stands in
the caption: independent searches, retrainings of one cell, or retrainings of several cells.

`main(cfg)` reads these keys of conf/table.yaml:
    runs      folders or globs, a text or a list (default: [out])
    out       the folder of runs that is read when `runs` is empty
    format    console | markdown | latex | csv
    out_file  where to write (default: the terminal)
    sort      column or list of columns of `summary`, `-column` for descending (default: space, data set, protocol, …)
    filter    {column: value or list of values}, or a list of `column:value` texts, over the columns of `collect`
    group     further columns of `collect` that split rows (device, commit, seed, …)
    paper     null | idarts | amended | single | lambda | tse: our numbers beside the published ones
    error     true: retrained networks show test error instead of accuracy

Nothing here imports torch. Units: accuracies in percent, `cost_s` in seconds, parameters as counts.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from nasx import baseline, typeset
from nasx.collect import collect
from nasx.errors import UserError
from nasx.typeset import Sheet

__all__ = ["collect", "main", "pick", "sheets", "summary", "to_csv"]

KEYS = ["kind", "method", "space", "searched_on", "dataset", "protocol", "search", "recipe", "retrain", "labels",
        "reduced", "best_of"]
"""Columns whose values split rows, besides the configuration itself."""
CARRIED = ("overrides", "family", "folder", "experiment", "parent_overrides", "parent_folder")  # told of a row's first
MEASURES = ("supernet_valid", "test_accuracy", "params", "cost_s", "peak_mb", "updates", "passes")
CHOSEN = {"method", "space", "dataset", "search", "retrain"}
"""Overrides that stand in a column of their own already."""
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120", "imagenet": "ImageNet",
            "svhn": "SVHN", "ptb": "PTB", "digits": "digits"}
NO_TEST = "n/a: import the full table (the one inside nasx has validation accuracies only)"


# ------------------------------------------------------------------------------------------------------ numbers
def summary(frame: pd.DataFrame, group: Sequence[str] = (), *, reference: bool = True) -> pd.DataFrame:
    """One row a configuration: for each measure `<m>_mean`, `<m>_std` (NaN where n = 1) and `<m>_n`.

    `frame` is from `collect`; `group` names further columns that split rows. Where `reference`, rows for the
    benchmark's random and optimal cell follow (column `reference`). `attrs["notes"]` carries what a reader must know.
    """
    measures = [*MEASURES, *(c for c in frame.columns if c.endswith((".valid", ".test")))]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in frame.to_dict("records"):
        row = {str(k): v for k, v in run.items()}
        # A retraining's own hash names the search that it trains from; its command line tells configurations apart.
        configuration = row["overrides"] if row["parent"] else row["family"] or row["overrides"]
        key = (*(row[k] for k in KEYS), configuration, row["parent_family"], *(row[k] for k in group))
        groups.setdefault(key, []).append(row)
    notes = list(frame.attrs.get("notes", []))
    rows: list[dict[str, Any]] = []
    for members in groups.values():
        first = members[0]
        row = {k: first[k] for k in [*KEYS, *CARRIED, *group]}
        row["n"], row["std_over"], row["reference"] = len(members), _std_over(members), ""
        row["folders"] = tuple(m["folder"] for m in members)
        row["device"] = " / ".join(sorted({m["device"] for m in members if m["device"]}))
        row["gpu"] = all(m["gpu"] for m in members)
        row["benchmark"] = first["benchmark"]
        row["source"] = " / ".join(sorted({m["source"] for m in members if m["source"]}))
        for measure in measures:
            row |= _statistics(measure, [m[measure] for m in members])
        seeds = [m["seed"] for m in members]
        if first["kind"] == "search" and len(set(seeds)) < len(seeds):
            twice = sorted({str(s) for s in seeds if seeds.count(s) > 1})
            notes.append(f"{first['method']} on {first['space']}: seed {', '.join(twice)} occurs more than once among "
                         f"runs of one configuration (other code or settings?); n counts each")
        rows.append(row)
    notes += baseline.judge(rows, list(groups.values()))
    table = pd.DataFrame(rows)
    if len(table):
        table["setting"] = _settings(rows)
        if reference:
            table = _with_reference(table)
        order = ["kind", "space", "searched_on", "dataset", "protocol", "recipe", "reference", "method", "setting"]
        table = table.sort_values(order, kind="stable", ignore_index=True)
    table.attrs["notes"] = notes
    return table


def _std_over(members: Sequence[Mapping[str, Any]]) -> str:
    if members[0]["kind"] == "search":
        return "searches"
    cells = {m["genotype"] or m["parent"] for m in members}
    if len(cells) == 1:
        return "retrainings of one cell"
    return "searches, each retrained once" if len(cells) == len(members) else f"retrainings of {len(cells)} cells"


def _statistics(measure: str, values: Iterable[float]) -> dict[str, float]:
    """Mean and sample standard deviation of the values that are there, and how many they are."""
    known = [float(x) for x in values if isinstance(x, (int, float)) and not math.isnan(x)]
    n = len(known)
    mean = math.fsum(known) / n if n else math.nan
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / (n - 1)) if n > 1 else math.nan
    return {f"{measure}_mean": mean, f"{measure}_std": std, f"{measure}_n": n}


def _settings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """In words, what was set on the command line; the configuration's hash where words do not tell rows apart."""
    texts = []
    for row in rows:
        kept = [line for line in row["overrides"] if line.partition("=")[0].lstrip("+") not in CHOSEN]
        texts.append(" ".join(kept))
    clashes: dict[tuple[Any, ...], set[str]] = {}
    keys = [(*(row[k] for k in KEYS), text) for row, text in zip(rows, texts, strict=True)]
    for key, row in zip(keys, rows, strict=True):
        clashes.setdefault(key, set()).add(row["family"])
    return [f"{text} [{row['family']}]".strip() if len(clashes[key]) > 1 and row["family"] else text
            for key, row, text in zip(keys, rows, texts, strict=True)]


def benchmark_reference(benchmark: str, dataset: str) -> dict[str, dict[str, float]]:
    """{"random": {"valid": …, "test": …}, "optimum": …} of a benchmark in percent; empty where it has none."""
    import importlib

    try:
        module = importlib.import_module(f"nasx.benchmarks.{benchmark}")
        found = getattr(module, benchmark.capitalize())().reference(dataset)
    except (ImportError, AttributeError, UserError):
        return {}
    return {kind: {part: float(found[part][key]) for part in found if found[part].get(key) is not None}
            for kind, key in (("random", "mean"), ("optimum", "optimum"))}


def _with_reference(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the benchmark's random and optimal cell for every space that was looked up."""
    datasets = list(dict.fromkeys(c.rsplit(".", 1)[0] for c in table.columns if c.endswith((".valid_mean",
                                                                                         ".test_mean"))))
    empty: dict[str, Any] = {str(c): 0 if c.endswith("_n") else math.nan if c.endswith(("_mean", "_std")) else ""
                             for c in table.columns}
    empty |= {"kind": "search", "n": 0, "reduced": False, "best_of": 0, "gpu": False, "labels": (), "overrides": ()}
    more = []
    searches = table[(table["kind"] == "search") & (table["benchmark"] != "")]
    for (space, benchmark), _ in searches.groupby(["space", "benchmark"]):
        values = {dataset: benchmark_reference(str(benchmark), dataset) for dataset in datasets}
        for kind in ("random", "optimum"):
            scores = {f"{dataset}.{part}_mean": value for dataset, named in values.items()
                      for part, value in named.get(kind, {}).items()}
            if scores:
                more.append(empty | {"space": space, "reference": kind, "benchmark": benchmark} | scores)
    return pd.concat([table, pd.DataFrame(more)], ignore_index=True) if more else table


# -------------------------------------------------------------------------------------------------------- words
def value(row: Mapping[str, Any], measure: str, digits: int = 2, scale: float = 1.0, missing: str = "") -> str:
    """`91.55 ± 0.12`, without ± where n = 1, with its own n where it is not the row's; `missing` where not known."""
    mean, std, n = row.get(f"{measure}_mean", math.nan), row.get(f"{measure}_std", math.nan), row.get(f"{measure}_n", 0)
    if mean is None or math.isnan(mean):
        return missing
    text = f"{mean * scale:.{digits}f}" + ("" if std is None or math.isnan(std) else f" ± {std * scale:.{digits}f}")
    return text + (f" (n={int(n)})" if n and not math.isnan(n) and n != row.get("n") else "")


def cost(row: Mapping[str, Any]) -> str:
    """Wall time of a run in the largest unit that keeps it above one: s, min, GPU-hours or GPU-days (CPU- on a CPU)."""
    seconds = row.get("cost_s_mean", math.nan)
    if seconds is None or math.isnan(seconds):
        return ""
    where = "GPU" if row.get("gpu") else "CPU"
    units = ((86400.0, f"{where}-days"), (3600.0, f"{where}-hours"), (60.0, f"{where}-min"), (1.0, f"{where}-s"))
    scale, unit = next(((size, name) for size, name in units if seconds >= size), units[-1])
    return f"{value(row, 'cost_s', 2 if scale > 60 else 1, 1 / scale)} {unit}"


def name(row: Mapping[str, Any]) -> str:
    """The method as a table shows it; reference rows and best-of-k rows are marked."""
    if row.get("reference"):
        return {"random": "random cell (benchmark mean)", "optimum": "optimum (of each column)"}[row["reference"]]
    return (row["method"] or "–") + (f" (best of {int(row['best_of'])})" if row.get("best_of") else "")


def marks(row: Mapping[str, Any]) -> str:
    """Deviations that were switched on, and whether the run was smaller than its protocol."""
    return ", ".join([*row["labels"], *(["reduced"] if row["reduced"] is True else [])])


def sheets(table: pd.DataFrame, *, error: bool = False) -> list[Sheet]:
    """`summary`'s rows as sheets: searches with a look-up, searches without, retrained networks."""
    made = []
    rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    looked_up = [row for row in rows if row["kind"] == "search" and row["benchmark"]]
    plain = [row for row in rows if row["kind"] == "search" and not row["benchmark"]]
    retrained = [row for row in rows if row["kind"] == "retrain"]
    if looked_up:
        datasets = [c.removesuffix(".valid_mean") for c in table.columns if c.endswith(".valid_mean")]
        pairs = [(f"{DATASETS.get(d, d)} {part}", f"{d}.{part}") for d in datasets for part in ("valid", "test")
                 if any(value(row, f"{d}.valid") for row in looked_up)]
        benches = ", ".join(sorted({str(row["benchmark"]) for row in looked_up}))
        made.append(_sheet(f"Searches, looked up in {benches}", looked_up, pairs, "accuracy in %", missing="n/a"))
    if plain:
        pairs = [("supernet valid", "supernet_valid")]
        made.append(_sheet("Searches without a look-up", plain, pairs, "accuracy of the supernet in %; it does not "
                           "rank methods, retrain the cells for that"))
    if retrained:
        if error:
            retrained = [row | {"test_accuracy_mean": 100 - row["test_accuracy_mean"]} for row in retrained]
        word = "error" if error else "accuracy"
        made.append(_sheet("Retrained networks", retrained, [(f"test {word}", "test_accuracy")],
                           f"test {word} of the last epoch in %"))
    return made


def _sheet(title: str, rows: list[dict[str, Any]], measures: Sequence[tuple[str, str]], what: str,
           missing: str = "–") -> Sheet:
    """Columns of words that hold one value for all rows move to the caption; the protocol always stays."""
    words = [("method", name), ("space", lambda r: str(r["space"])), ("searched on", lambda r: str(r["searched_on"])),
             ("trained on", lambda r: str(r["dataset"]) if r["kind"] == "retrain" else ""),
             ("protocol", lambda r: str(r["protocol"])), ("recipe", lambda r: str(r["recipe"])),
             ("setting", lambda r: str(r["setting"])), ("marks", marks), ("against random", lambda r: str(r["versus"])),
             ("verdict", lambda r: str(r["verdicts"])), ("device", lambda r: str(r["device"]))]
    own = [row for row in rows if not row["reference"]]
    rows = own + [row for row in rows if row["reference"]]
    kept, constant = [], []
    for head, text in words:
        values = {text(row) for row in own}
        if head in ("method", "protocol") or len(values) > 1:
            kept.append((head, text))
        elif "".join(values):
            constant.append(f"{head} {values.pop()}")
    kept = [(head, text) for head, text in kept if any(map(text, rows))]
    at = next((i for i, (head, _) in enumerate(kept) if head in ("against random", "verdict", "device")), len(kept))
    numbers: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [("n", lambda r: str(r["n"]) if r["n"] else "")]
    numbers += [(head, partial(value, measure=measure, missing=missing)) for head, measure in measures]
    numbers += [("params (M)", lambda r: value(r, "params", scale=1e-6, missing="–")),
                ("cost", lambda r: cost(r) or "–")]
    columns = [*kept[:at], *numbers, *kept[at:]]
    over = sorted({str(row["std_over"]) for row in own if row["n"] > 1})
    caption = f"Mean ± sample standard deviation over {' or '.join(over)} (n of them); {what}." if over else \
        f"Single runs (n = 1), so no ±; {what}."
    caption += f" All rows: {'; '.join(constant)}." if constant else ""
    notes = []
    if len(over) > 1:
        notes.append("the ± is not over the same in all rows: " + "; ".join(
            sorted({f"{name(r)}: {r['std_over']}" for r in own if r["n"] > 1})))
    for column in ("protocol", "recipe"):
        several = sorted({str(row[column]) for row in own if row[column]})
        if len(several) > 1:
            notes.append(f"rows differ in {column} ({', '.join(several)}): compare within one {column} only")
    if any(row["reduced"] is True for row in own):
        notes.append("reduced: smaller than the protocol (fewer epochs, cells or channels); not a published setting")
    if any(row["best_of"] for row in own):
        notes.append("best of k: the best of k searches by a short retraining, not a mean over searches")
    if any(" / " in str(row["device"]) for row in own):
        notes.append("cost is a mean over different devices where a row names several")
    if any(m.endswith(".test") and not value(row, m) for row in rows for _, m in measures):
        notes.append(NO_TEST)
    left = frozenset(i for i, (head, _) in enumerate(columns) if head in dict(words))
    return Sheet(title, tuple(head for head, _ in columns), tuple(tuple(f(row) for _, f in columns) for row in rows),
                 caption, tuple(notes), frozenset({len(own)} if len(own) < len(rows) else ()), left)


def to_csv(table: pd.DataFrame) -> str:
    """Every number of `summary` in full precision: separate columns for mean, std and n; labels joined by `|`."""
    plain = table.assign(labels=["|".join(x) for x in table["labels"]],
                         overrides=[" ".join(x) for x in table["overrides"]]) if len(table) else table
    places = ["folder", "folders", "parent_folder", "parent_overrides"]
    return plain.drop(columns=places, errors="ignore").to_csv(index=False, lineterminator="\n")


# ---------------------------------------------------------------------------------------------------------- ask
def pick(frame: pd.DataFrame, wanted: Any) -> pd.DataFrame:
    """Rows of `frame` whose columns have the values `wanted` ({column: value(s)} or `column:value` texts).

    A column that is named twice may have either value; `labels` and `overrides` must contain it.
    """
    if not isinstance(wanted, Mapping):
        texts = [wanted] if isinstance(wanted, str) else [str(text) for text in wanted or []]
        pairs = [re.split("[:=]", text, maxsplit=1) for text in texts]
        faults = [UserError(f"filter={pair[0]}", "not of the form column:value", "write filter=[method:darts]")
                  for pair in pairs if len(pair) < 2]
        if faults:
            raise UserError.join(faults)
        wanted = {column: [value for name, value in pairs if name == column] for column, _ in pairs}
    for column, values in wanted.items():
        _known("filter", str(column), frame.columns)
        choices = {str(v) for v in values} if isinstance(values, (list, tuple)) else {str(values)}
        cells = frame[column]
        keep = [bool(choices & set(c)) if isinstance(c, tuple) else str(c) in choices for c in cells]
        notes, frame = frame.attrs, frame[keep]
        frame.attrs = dict(notes)
    return frame


def _known(key: str, column: str, columns: Iterable[str]) -> None:
    if column not in columns:
        columns = [name.removesuffix("_mean") for name in columns if not name.endswith(("_std", "_n"))]
        near = difflib.get_close_matches(column, columns, 1)
        raise UserError(f"{key}={column}", "no such column", f"did you mean {near[0]}?" if near else
                        f"there are {', '.join(columns)}")


def _sorted(table: pd.DataFrame, by: Any) -> pd.DataFrame:
    names = [by] if isinstance(by, str) else [str(x) for x in by or []]
    if not names or table.empty:
        return table
    columns = []
    for text in names:
        column = text.lstrip("-")
        column = column if column in table.columns else f"{column}_mean"
        _known("sort", column.removesuffix("_mean") if column not in table.columns else column, table.columns)
        columns.append(column)
    ordered = table.sort_values(columns, ascending=[not text.startswith("-") for text in names], kind="stable",
                                ignore_index=True)
    ordered.attrs = dict(table.attrs)
    return ordered


def main(cfg: Mapping[str, Any]) -> str:
    """Make the table that `cfg` asks for (keys: see the top of this module), print or write it, and return it."""
    ask = dict(cfg)
    runs = ask.get("runs") or ask.get("out") or "outputs"
    roots = [str(runs)] if isinstance(runs, (str, Path)) else [str(root) for root in runs]
    form = str(ask.get("format") or "console")
    if form not in ("console", "markdown", "latex", "csv"):
        raise UserError(f"format={form}", "no such format", "use console, markdown, latex or csv")
    frame = collect(roots)
    paper, found = ask.get("paper"), len(frame)
    if not found and not paper:
        skipped = "; ".join(frame.attrs["notes"])
        raise UserError(f"runs={','.join(roots)}", "no finished run there" + (f" ({skipped})" if skipped else ""),
                        "name folders of runs, for example `nasx table runs=outputs`")
    frame = pick(frame, _plain(ask.get("filter")))
    if found and frame.empty:
        raise UserError(f"filter={_plain(ask.get('filter'))}", f"none of {found} runs is left", "loosen the filter")
    group = [group] if isinstance(group := _plain(ask.get("group")) or [], str) else list(group)
    for column in group:
        _known("group", column, frame.columns)
    if paper:
        from nasx import published

        made, table = published.compare(summary(frame, group, reference=False), str(paper))
    else:
        table = _sorted(summary(frame, group), _plain(ask.get("sort")))
        made = sheets(table, error=bool(ask.get("error", False)))
    notes = table.attrs.get("notes", [])
    out_file = ask.get("out_file")
    if form == "csv":
        text = to_csv(table) if not paper else table.to_csv(index=False, lineterminator="\n")
    elif form == "console":
        text = _for_terminal(made, notes, to_file=bool(out_file))
    else:
        text = {"markdown": typeset.markdown, "latex": typeset.latex}[form](made, notes)
    if out_file:
        _write(Path(os.path.expanduser(str(out_file))), text)
    else:
        print(text, end="")
    return text


def _plain(node: Any) -> Any:
    """A list or dict of plain values, whether `node` is OmegaConf's or Python's."""
    if isinstance(node, str) or node is None:
        return node
    if isinstance(node, Mapping):
        return {str(k): _plain(v) for k, v in node.items()}
    return [_plain(x) for x in node] if hasattr(node, "__iter__") else node


def _for_terminal(made: Sequence[Sheet], notes: Sequence[str], *, to_file: bool) -> str:
    import shutil
    import sys

    on_screen = not to_file and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_screen else None
    return typeset.console(made, notes, width=width, color=on_screen and "NO_COLOR" not in os.environ)


def _write(path: Path, text: str) -> None:
    """Written beside and renamed, so that a reader never sees half a table."""
    half = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding="utf-8", newline="\n")
        os.replace(half, path)
    except OSError as fault:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)
        raise UserError(f"out_file={path}", f"cannot be written ({fault.strerror})", "name another file") from fault
