"""Measure latencies of the operations and networks in a space on this device: the table for `budget=latency`.

    nasx latency space=NAME [layers=N] [channels=N] [image=32] [classes=10] [stem=cifar|imagenet|single]
                 [runtime=onnxruntime|eager|compiled] [device=cpu|cuda] [threads=1] [batch=1] [networks=20]
                 [repeats=100] [seed=0] [out=FILE.json] [allow=PACKAGE]
    nasx latency from=RUN       times the network found by a search with such a budget, and checks the target

Every operation is timed at each shape that it has in networks of the given size (default: the retraining size of the
space). A number of random networks (networks=20) is also timed. All timings take place after a warm-up, in interleaved
rounds. Times are medians with the 10th and 90th percentiles. An additive model (the latency of a network is the sum
over its operations) is fitted to these networks, and its error is printed.

Tables are kept in the user's cache, one per device, runtime, size and set of versions, or written to FILE.json. The
same command prints an existing table; remove the file to measure again. Use a table in a search with
budget.device=FILE.json. runtime=onnxruntime needs the extra onnx and runs on the CPU.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.cli.arguments import Arguments, parse
from nasx.config import instantiate
from nasx.core import budgets, files, spelling
from nasx.errors import UserError
from nasx.spaces import latency
from nasx.spaces.latency import Latencies
from nasx.tracking import lineage

if TYPE_CHECKING:
    import torch

OPTIONS = {
    "space": "",
    "from": "",
    "layers": "",
    "channels": "",
    "image": "32",
    "classes": "10",
    "stem": "cifar",
    "runtime": "onnxruntime",
    "device": "cpu",
    "threads": "1",
    "batch": "1",
    "networks": "20",
    "repeats": "100",
    "seed": "0",
    "out": "",
    "allow": "",
}
RUNTIMES = ("onnxruntime", "eager", "compiled")


def main(words: Sequence[str]) -> int:
    """Measure a latency table, or time the network found by a search, and print the result."""
    args = parse("latency", words, OPTIONS)
    given = args.options
    if bool(given["space"]) == bool(given["from"]):
        raise UserError("nasx latency", "needs a space or a run", "give either space=nb201 or from=RUN")
    if given["runtime"] not in RUNTIMES:
        raise UserError(f"runtime={given['runtime']}", "unknown runtime", spelling.suggest(given["runtime"], RUNTIMES))
    if given["runtime"] == "onnxruntime" and given["device"] != "cpu":
        raise UserError(
            f"device={given['device']}", "nasx runs onnxruntime only on the CPU", "use device=cpu, or runtime=eager"
        )
    if given["out"] and not given["out"].endswith(latency.SUFFIX):
        raise UserError(
            f"out={given['out']}", "is not the name of a JSON file", f"use a name that ends in {latency.SUFFIX}"
        )
    print(*(found(args) if given["from"] else measured(args)), sep="\n")
    return 0


def measured(args: Arguments) -> list[str]:
    """Return the lines of a latency table, measuring it first if its file does not exist. Raises UserError."""
    from nasx.cli.info import compose_job

    given, allow = args.options, args.allowed
    numbers = {name: args.number(name, 1) for name in ("image", "classes", "threads", "batch", "repeats")}
    count, seed = args.number("networks", 2), args.number("seed", 0)
    cfg, choices = compose_job({"space": given["space"]})
    space = instantiate.build(cfg["space"], allow)
    if space.data != "images":
        fault = "is a space of text networks, but latencies are measured with images"
        raise UserError(f"space={given['space']}", fault, "use a space of image networks, for example space=nb201")

    from nasx.tracking import environment

    device = environment.device(given["device"])
    with environment.prepared(device, threads=numbers["threads"], deterministic=False, seed=seed):
        about: dict[str, object] = {
            "space": cfg["space"]["_target_"],
            **{name: args.optional(name, 1) for name in ("layers", "channels")},
            "stem": given["stem"],
            "image": [3, numbers["image"], numbers["image"]],
            **{name: numbers[name] for name in ("classes", "batch", "threads")},
            **where(given["runtime"], device),
        }
        digest = hashlib.sha256(json.dumps([about, cfg["space"]], sort_keys=True).encode()).hexdigest()[:8]
        name = f"{choices['space']}-{given['runtime']}-{digest}{latency.SUFFIX}"
        path = Path(given["out"]).expanduser() if given["out"] else files.user_cache() / "latency" / name
        if path.exists():
            table = latency.read(path)
            if any(table.about.get(key) != value for key, value in about.items()):
                raise UserError(str(path), "contains a different table", "choose another file, or remove it")
            return lines(table, path, choices["space"], f"measured {table.about['date']}; remove the file to repeat")
        from nasx.export import latency as export_latency

        about["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        table = export_latency.measure(space, about, device, count=count, repeats=numbers["repeats"], seed=seed)
    files.write_atomic(path, table.text())
    return lines(table, path, choices["space"], "")


def where(runtime: str, device: torch.device) -> dict[str, object]:
    """Return the runtime, the device, and the versions that latencies depend on. Raises UserError."""
    from nasx.tracking import environment

    versions = environment.versions()
    if runtime == "onnxruntime":
        from nasx.export.runtime import library

        versions["onnxruntime"] = library().__version__
    return {"runtime": runtime, "device": environment.hardware(device), "versions": versions}


def lines(table: Latencies, path: Path, space: str, note: str) -> list[str]:
    """Format the latencies as a table for the terminal, with a summary and the command of a search that uses them."""
    from nasx.export import latency as export_latency

    width = max(len(key.operation) for key in table.operations) + 2
    rows = [f"{'operation'.ljust(width)}channels     size  stride  median ms  10 to 90 %"]
    for key, one in table.operations.items():
        row = f"{key.operation.ljust(width)}{key.channels:8}{f'{key.width} x {key.height}':>9}{key.stride:8}"
        rows.append(f"{row}{one.median_ms:11.4f}  {one.low_ms:.4f} to {one.high_ms:.4f}")
    whole = sorted(one.latency.median_ms for one in table.networks)
    error, tau = export_latency.error(table)
    target = f"{whole[len(whole) // 2]:.3f}ms"
    words = ["nasx", "search", f"space={space}", "budget=latency", lineage.override("budget.device", str(path))]
    return [
        *rows,
        f"{spelling.counted(len(whole), 'network')}: {whole[0]:.3f} to {whole[-1]:.3f} ms ({table.about['runtime']}, "
        f"threads={table.about['threads']}, batch={table.about['batch']}, n={table.networks[0].latency.n})",
        f"additive model on these networks: median relative error {100 * error:.1f} %, Kendall's tau {tau:.2f} "
        f"({table.fixed_ms:.3f} ms + {table.scale:.2f} x operations, fitted to them)",
        f"table: {path}" + f" ({note})" * bool(note),
        *lineage.format_commands([*words, f"budget.target={target}"]),
    ]


def found(args: Arguments) -> list[str]:
    """Time the network found by a search, under the conditions of its table; return the lines. Raises UserError."""
    folder, record = lineage.finished_search(args.options["from"], "outputs")
    run = lineage.open_parent(folder)
    budget, kept = run.config.get("budget") or {}, record.get("budget")
    if kept is None or not str(budget.get("device")).endswith(latency.SUFFIX):
        fault = "is not a search with a budget from a measured table"
        raise UserError(f"from={args.options['from']}", fault, "search with budget=latency budget.device=FILE.json")
    table = latency.read(budget["device"])
    about = table.about
    space = instantiate.build(run.block("space"), args.allowed)
    genotype = space.parse(record["genotype"])

    from nasx.export import latency as export_latency
    from nasx.tracking import environment

    device = environment.device(about["device"]["device"])
    with environment.prepared(device, threads=about["threads"], deterministic=False, seed=0):
        here = where(about["runtime"], device)
        [timed] = export_latency.timed(space, [genotype], dict(about), device, args.number("repeats", 1))
    met = "met" if timed.median_ms <= kept["target"] else "not met"
    spread = f"10 to 90 %: {timed.low_ms:.3f} to {timed.high_ms:.3f} ms"
    other = [name for name in ("device", "versions") if here[name] != about[name]]
    return [
        *[f"note: the table differs from this machine in {' and '.join(other)}"] * bool(other),
        f"genotype   {genotype}",
        f"predicted  {budgets.text(kept['cost'], 'latency')}",
        f"measured   {budgets.text(timed.median_ms, 'latency')} ({spread}, n={timed.n})",
        f"target     {budgets.text(kept['target'], 'latency')}: {met}",
    ]
