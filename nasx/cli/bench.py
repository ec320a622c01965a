"""Download, import, query and fill benchmark tables (`nasx bench`):

    nasx bench get [nb201-test|nb201-latency|nb101] [devices=raspi4,pixel3] [from=FILE] [mirror=URL]
    nasx bench import nb201|nb101 SOURCE [out=FILE]
    nasx bench query GENOTYPE
    nasx bench info
    nasx bench fill [FOLDER] [devices=raspi4,pixel3]
    nasx bench rank from=RUN | column=NAME | file=FILE.csv    (nasx bench rank --help; nasx/cli/rank.py)

Each subcommand is a function that returns plain values, which `main` prints. No space needs to be given, because the
text of a genotype determines its benchmark.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from tabulate import tabulate

from nasx.benchmarks.base import Benchmark, Score
from nasx.benchmarks.get import asked, bench_get, bench_offers
from nasx.benchmarks.isomorphism import CELLS, canonical, cell_code, cell_text
from nasx.benchmarks.nb101 import Nb101, graph_hash, graph_of, prune
from nasx.benchmarks.nb101_import import import_nb101
from nasx.benchmarks.nb201 import Nb201
from nasx.benchmarks.nb201_import import import_nb201
from nasx.benchmarks.store import Say, silent
from nasx.core import spelling
from nasx.core.files import write_atomic
from nasx.core.plain import Config, Row
from nasx.errors import UserError, printable

IMPORTS: dict[str, Callable[..., dict[str, object]]] = {"nb201": import_nb201, "nb101": import_nb101}


def bench_import(kind: str, path: str, out: str | None = None, say: Say = silent) -> dict[str, object]:
    """Convert a published benchmark to a table for nasx, and return a summary of the table.

    `kind` is nb201 or nb101, and `say` receives progress messages. If a UserError is raised, an existing table
    is left unchanged.
    """
    if kind not in IMPORTS:
        raise UserError(f"bench import {kind}", "unknown benchmark", f"choose one of {', '.join(IMPORTS)}")
    return IMPORTS[kind](path, out, say=say)


def bench_info() -> list[Row]:
    """Return the source, checksum, columns, missing parts and reference values of each benchmark table."""
    return [{**benchmark.info(), "reference": benchmark.references()} for benchmark in (Nb201(), Nb101())]


class Answer(TypedDict):
    """Benchmark data on one genotype."""

    benchmark: str
    genotype: str
    facts: dict[str, object]
    rows: list[Row]
    """One row per dataset and split, with the keys dataset, split, mean, std, runs, optimum and rank."""
    missing: str | None
    """A sentence about data missing from the table, or None."""


def bench_query(genotype_text: str) -> Answer:
    """Look up a genotype given as a NAS-Bench-201 string, as the six digits of its operations, or as a graph in JSON.

    Raises UserError if the text has none of these formats.
    """
    text = genotype_text.strip()
    if re.fullmatch("[0-4]{6}", text):
        text = cell_text(int(text, 5))
    return _query_graph(text) if text.startswith("{") else _query_cell(text)


def _query_cell(text: str) -> Answer:
    benchmark, code = Nb201(), cell_code(text)
    devices = tuple(name.removeprefix("latency.") for name in benchmark.table().columns if name.startswith("latency."))
    benchmark = Nb201(devices=devices)
    term = canonical(text)
    equals = [cell_text(other) for other in range(CELLS) if canonical(cell_text(other)) == term]
    others = [other for other in equals if other != text]
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    score = benchmark.query(text)
    assert score is not None  # every cell that cell_code accepts has a row
    facts: dict[str, object] = {
        "row": code,
        "params": score.params,
        "multiply-adds": score.flops,
        "train_s": score.train_s,
        "latency in ms": {device: f"{ms:.3f}" for device, ms in score.latency.items()} or None,
        "function": term,
        "cells with this function": len(equals),
        "isomorphic to": "  ".join(others[:3]) + more or None,
        "source": score.source,
        "protocol": score.protocol,
    }
    missing, rows = benchmark.missing(), _rows(benchmark, score)
    return {"benchmark": "nb201", "genotype": text, "facts": facts, "rows": rows, "missing": missing}


def _query_graph(text: str) -> Answer:
    benchmark, graph = Nb101(), graph_of(text)
    remedy = 'write {"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}'
    try:
        pruned = prune(*graph) if graph is not None else None
    except ValueError as error:
        raise UserError("genotype", str(error), remedy) from error
    if graph is None:
        raise UserError("genotype", "is not a graph with a matrix and operations", remedy)
    if pruned is None:
        raise UserError("genotype", "the output cannot be reached from the input", "add an edge")
    score = benchmark.query(text)
    counts = {"vertices": len(pruned[1]), "edges": sum(map(sum, pruned[0]))}
    facts: dict[str, object] = {"hash": graph_hash(*pruned), **counts}
    missing, rows = benchmark.missing(), list[Row]()
    if score is None:
        missing = missing or "the benchmark does not contain this graph"
    else:
        facts |= {name: getattr(score, name) for name in ("params", "train_s", "source", "protocol")}
        rows = _rows(benchmark, score)
    return {"benchmark": "nb101", "genotype": text, "facts": facts, "rows": rows, "missing": missing}


def _rows(benchmark: Benchmark, score: Score) -> list[Row]:
    ranks = benchmark.rank(score)
    return [
        {
            "dataset": dataset,
            "split": split,
            "mean": values[split],
            "std": values[f"{split}_std"],
            "runs": values[f"{split}_seeds"],
            "optimum": benchmark.reference(dataset)[split]["optimum"],
            "rank": ranks[dataset].get(split),
        }
        for dataset, values in score.datasets.items()
        for split in ("valid", "test")
    ]


def bench_fill(runs_root: str, devices: Sequence[str] = ()) -> list[Row]:
    """Add values from the current tables to the finished searches under `runs_root`.

    Latencies are added for `devices` and for the devices that a run already lists. A result.json is replaced
    atomically, and only if the table has all values in the file and at least one more; only the lookup, the rank and
    the reference values change. Returns one row per run: ``{"run", "state"}``, where state is filled, kept (nothing to
    add), no entry (no benchmark contains the genotype), not finished, not a search, or unreadable (with the reason).
    Raises UserError if `runs_root` does not exist or the table has no latencies for a device.
    """
    root = Path(runs_root).expanduser()
    if not root.is_dir():
        raise UserError(f"runs={runs_root}", "does not exist", "name the folder that contains the runs")
    nb201, nb101 = Nb201(devices=tuple(devices)), Nb101()
    nb201.check()
    return [
        {"run": str(file.parent.relative_to(root)), "state": _fill(file, nb201, nb101)}
        for file in sorted(root.rglob("result.json"))
    ]


def _fill(file: Path, nb201: Nb201, nb101: Nb101) -> str:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        kind, status, genotype, old = (result[key] for key in ("kind", "status", "genotype", "lookup"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"unreadable ({type(error).__name__}: {error})"
    if kind != "search" or status != "finished" or not isinstance(genotype, str):
        return "not finished" if kind == "search" else "not a search"
    held = _mapping(_mapping(old).get("latency"))
    if not held.keys() <= {*nb201.devices}:
        nb201 = Nb201(devices=tuple(dict.fromkeys([*held, *nb201.devices])))
    answers = ((benchmark, benchmark.query(genotype)) for benchmark in (nb201, nb101))
    benchmark, score = next(((b, s) for b, s in answers if s is not None), (None, None))
    if benchmark is None or score is None:
        return "no entry"
    edges = tuple(map(tuple, _mapping(result.get("among")).get("edges") or ()))
    new = {"lookup": score.as_record(), **benchmark.ranked(score, edges)}
    if _known(old) - _known(new["lookup"]) or not _known(new) - _known({key: result.get(key) for key in new}):
        return "kept"
    result |= new
    if result.get("missing"):
        result["missing"] = None
    write_atomic(file, json.dumps(result, indent=1) + "\n")
    return "filled"


def _known(record: object) -> set[str]:
    """Return the dotted paths of all values other than None in part of a record."""
    if isinstance(record, dict):
        return {f"{key}.{place}" for key, value in record.items() for place in _known(value)}
    return set() if record is None else {""}


def _mapping(value: object) -> Config:
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------------------------------------ the command line
USAGE = (
    "nasx bench get [NAME] | import nb201|nb101 SOURCE [out=FILE] | query GENOTYPE | info | fill [FOLDER] "
    "[devices=A,B] | rank ..."
)


def main(words: list[str]) -> int:
    """Run `nasx bench WORDS` and print the result; return 1 if a run is unreadable, else 0."""
    match words:
        case ["get"]:
            _show(bench_offers())
        case ["get", name, *settings]:
            _show(bench_get(name, **asked(settings), say=_tell))
        case ["import", kind, path]:
            _show(bench_import(kind, path, say=_tell))
        case ["import", kind, path, out] if out.startswith("out="):
            _show(bench_import(kind, path, out.removeprefix("out="), say=_tell))
        case ["query", text]:
            found = bench_query(text)
            _show({"genotype": found["genotype"], **found["facts"]})
            _grid(found["rows"])
            print(*([f"note: {found['missing']}"] if found["missing"] else []))
        case ["info"]:
            for info in bench_info():
                _show({key: value for key, value in info.items() if key != "reference"})
                known = info["reference"].items()
                _grid([{"dataset": d, "split": s, **values} for d, splits in known for s, values in splits.items()])
                print()
        case ["fill", *settings]:
            folders = [word for word in settings if not word.startswith("devices=")]
            if len(folders) > 1:
                raise UserError(
                    f"nasx bench fill {' '.join(folders)}", f"takes one folder, but {len(folders)} are given", USAGE
                )
            devices = asked(word for word in settings if word not in folders)["devices"]
            rows = bench_fill(folders[0] if folders else "outputs", devices)
            _grid(rows)
            print(f"{sum(row['state'] == 'filled' for row in rows)} of {spelling.counted(len(rows), 'run')} filled")
            return int(any(row["state"].startswith("unreadable") for row in rows))
        case _:
            raise UserError(f"nasx bench {' '.join(words)}".strip(), "is not a valid command", USAGE)
    return 0


def _tell(message: str) -> None:
    print(printable(message), file=sys.stderr)


def _show(values: Mapping[str, object], indent: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            print(printable(f"{indent}{key}:"))
            _show(value, indent + "  ")
        elif value is not None:
            print(printable(f"{indent}{key}: {value}"))


def _grid(rows: list[Row]) -> None:
    if rows:
        texts = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        table = tabulate(texts, tablefmt="plain", disable_numparse=True)
        print(printable("\n".join(line.rstrip() for line in table.splitlines())))


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
