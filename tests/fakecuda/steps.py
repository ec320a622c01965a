"""Whole steps of methods on spaces, eagerly and replayed: runtime.py steps.py --space nb201,darts --method darts,gdas

For each pair: tensors of two devices in one operation and other errors; waits and copies inside a step after the
first; what breaks a recording, or works outside it; launches and peak memory of an eager step; launches of a replay.
The last line of the output contains the rows as JSON. `--plant` adds a fault to every step, which its check must find;
`--ceilings` writes launches and peak memory to ceilings.csv; later steps must not exceed them.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"  # 32 MiB of workspace would hide everything else

import arithmetic
import events
import torch
from searches import DEVICE, SPACES, batches, composed, started
from variants import VARIANTS

from nasx.core.bilevel import Method
from nasx.searcher import cuda_graphs

arithmetic.skipped()
Row = dict[str, Any]
CEILINGS = Path(__file__).resolve().parent / "ceilings.csv"
WIDELY = ("nb201", "darts")
"""Spaces on which all variants of methods are tested; on others, only the methods in conf/method."""


def planted(method: Method, plant: str) -> Method:
    """Return the method with a fault in its step."""

    def step(search: Any, train: Any, val: Any) -> Any:
        out = type(method).step(method, search, train, val)
        match plant:
            case "mix":  # a host tensor in an operation on the device
                out["train_loss"] = out["train_loss"] + torch.ones(3)
            case "wait":  # a value that is read back
                float(next(iter(out.values())).sum())
            case "copy":  # a copy from pageable memory
                torch.tensor([1.0, 2.0]).to(DEVICE)
            case "stream":  # work on another stream that is not joined
                other = torch.cuda.Stream()
                other.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(other):
                    torch.zeros(8, device=DEVICE).add_(1)
            case "launches":  # twice the work
                type(method).step(method, search, train, val)
            case "memory":  # tensors that nobody needs
                torch.zeros(1 << 22, device=DEVICE)
        return out

    if not plant:
        return method
    spoilt = type(method.__class__.__name__, (type(method),), {"step": lambda self, *a: step(*a)})
    return spoilt(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})  # type: ignore[no-any-return]


def given(space: Any, method: Method, settings: Any, i: int) -> tuple[Any, Any]:
    return batches(space, method, 10 * i, size=32 if settings.auxiliary else 16)


def eager(space: Any, method: Method, settings: Any, tag: str) -> Row:
    """Take three steps; return what the third does."""
    search, row = started(space, method, settings), {}
    for i in range(3):
        train, val = given(space, method, settings, i)
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        base, before = torch.cuda.memory_allocated(), events.launches()
        events.phase[0] = f"{tag} {'step' if i == 2 else 'first'}"
        method.step(search, train, val)
        events.phase[0] = "set-up"
        search.updates += method.steps_w
        row = {"launches": events.launches() - before, "peak_kib": (torch.cuda.max_memory_allocated() - base) // 1024}
    return row | {
        "waits": events.of(f"{tag} step", "SYNC"),
        "pageable": [e for e in events.of(f"{tag} step", "H2D", "D2H") if "pageable" in e],
    }


def replayed(space: Any, method: Method, settings: Any, tag: str) -> Row:
    """Take five steps: eager, recorded and compared, replayed three times, once in a new epoch."""
    search = started(space, method, settings)
    problem: Any = search.problem
    replay = cuda_graphs.Replayed(method, problem, cuda_graphs.cuda(DEVICE))
    found = []
    for i in range(5):
        train, val = given(space, method, settings, i)
        search.epoch = 2 if i == 4 else 1
        search.w_opt.param_groups[0]["lr"] = 0.1 / search.epoch
        problem.options = settings.options(search.epoch)
        events.phase[0] = f"{tag} {('eager', 'recording')[i] if i < 2 else 'replay'}"
        before = events.launches(), events.replays()
        replay(search, train, val)
        events.phase[0] = "set-up"
        search.updates += method.steps_w
        found.append((events.launches() - before[0], events.replays() - before[1]))
    return {
        "refused": replay.why,
        "replays": [n for _, n in found],
        "replay_launches": found[-1][0],
        "violations": events.of(f"{tag} ", "VIOLATION", "OUTSIDE"),
        "replay_waits": events.of(f"{tag} replay", "SYNC"),
    }


def walked(on: str, name: str, plant: str) -> Row | None:
    """Test one pair; return None if the space has no such method or the method trains nothing."""
    base, *words = VARIANTS[name]
    try:
        space, method, settings = composed(f"method={base}", f"space={on}", *SPACES[on], *words)
    except Exception:  # noqa: BLE001  a pair that nasx refuses
        return None
    if not method.trains:
        return None
    method, tag = planted(method, plant), f"{on} x {name}"
    row: Row = {"space": on, "method": name}
    try:
        row |= eager(space, method, settings, tag)
        row["cannot"] = cuda_graphs.reason(DEVICE, carries=space.data == "text")
        if row["cannot"] is None:
            row |= replayed(space, method, settings, tag)
    except Exception as error:  # noqa: BLE001
        row["error"] = cuda_graphs.error_text(error)
    return row


def wanted(names: str, known: Any) -> list[str]:
    chosen = names.split(",") if names else list(known)
    assert set(chosen) <= set(known), set(chosen) - set(known)
    return chosen


def walk(pairs: list[tuple[str, str]], plant: str = "", show: Callable[[Row], None] | None = None) -> list[Row]:
    events.listen()
    rows = []
    for on, name in pairs:
        row = walked(on, name, plant)
        if row is not None:
            rows.append(row)
            if show:
                show(row)
        events.seen.clear()
        gc.collect()
        torch.cuda.empty_cache()
    events.deaf()
    return rows


def ceilings() -> dict[tuple[str, str], tuple[int, int]]:
    """Return (space, method) -> launches and peak memory in KiB of an eager step, as recorded earlier."""
    with CEILINGS.open(encoding="utf-8") as file:
        return {(r["space"], r["method"]): (int(r["launches"]), int(r["peak_kib"])) for r in csv.DictReader(file)}


def write(rows: list[Row]) -> None:
    """Write the rows of these pairs to ceilings.csv."""
    known = ceilings() if CEILINGS.exists() else {}
    known |= {(row["space"], row["method"]): (row["launches"], row["peak_kib"]) for row in rows if "error" not in row}
    with CEILINGS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("space", "method", "launches", "peak_kib"))
        writer.writerows((*pair, *values) for pair, values in sorted(known.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="", help="several by commas; all")
    parser.add_argument("--method", default="", help="several by commas; all, with variants on nb201 and darts")
    parser.add_argument("--pairs", default="", help="SPACE:METHOD, more of them; several by commas")
    parser.add_argument("--plain", action="store_true", help="no variants of methods")
    parser.add_argument("--plant", default="", help="mix, wait, copy, stream, launches or memory; several by commas")
    parser.add_argument("--ceilings", action="store_true", help="write them")
    args = parser.parse_args()
    pairs = [
        (on, name)
        for on in wanted(args.space, SPACES)
        for name in wanted(args.method, VARIANTS)
        if args.method or (on in WIDELY and not args.plain) or name == VARIANTS[name][0]
    ]
    pairs += [(on, name) for on, _, name in (pair.partition(":") for pair in args.pairs.split(",") if pair)]
    rows = []
    for plant in args.plant.split(","):
        rows += [row | {"plant": plant} for row in walk(pairs, plant, lambda row: print(row, flush=True))]
    if args.ceilings:
        write(rows)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
