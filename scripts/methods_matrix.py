"""Every method on every space, small, on real CIFAR-10: run it, kill -9 it in the middle, resume it, compare the bits.

    NASX_DATA=DIR uv run python scripts/methods_matrix.py OUT --spaces nb201,darts --jobs 2

For each pair, one search runs to its end, and a second one with the same configuration in another folder is killed at a
random moment (seeded) and started again with the same command. Weights, architecture and optimizer states of the last
checkpoints, metrics and records (except times) must be equal bit for bit. A table is printed and written to
OUT/matrix.md; pairs found equal before are not repeated.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from forks import starters
from kills import add, compared, equal_rows, family, small, target, told

from nasx.config import schema
from nasx.config.paths import conf_dir
from nasx.tracking import checkpoints, records


def refused(method: str, space: str) -> bool:
    """Return whether the space lacks what the method needs: edge weights, skip connections, networks for images."""
    kind = family(space)
    return (
        (method == "pc_darts" and kind not in ("darts", "nb201"))
        or (method == "darts_minus" and (space == "s4" or kind in ("nb1shot1", "recurrent")))
        or (kind == "recurrent" and schema.constant(target("method", method), "reads") == "images")
    )


def command(method: str, space: str, args: argparse.Namespace, out: Path) -> list[str]:
    """Return the words of one search: small, one thread, a checkpoint every few seconds."""
    return [
        "search",
        *small(method, space),
        "dataset=cifar10",
        f"out={out}",
        "name=run",
        "device=cpu",
        "threads=1",
        "quiet=true",
        f"checkpoint_s={args.checkpoint_s}",
        f"search.epochs={args.epochs}",
        f"search.updates_per_epoch={args.updates}",
        f"search.batch={args.batch}",
        "search.evaluate_every=0",
        "search.evaluate_images=256",
    ]


def killed(start: Callable[[list[str]], Any], words: list[str], out: Path, delay: float) -> bool:
    """Start the search, wait for a new checkpoint and `delay` seconds, and kill -9 it; False if it ended first."""
    folder = out / "run"
    before, job = set(checkpoints.found(folder)), start(words)
    while job.running() and not set(checkpoints.found(folder)) - before:
        time.sleep(0.05)
    time.sleep(delay)
    ended = not job.running()
    job.end() if ended else job.kill()
    return not ended


def check(method: str, space: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run to the end; kill and resume; compare."""
    base = args.out / f"{method}-{space}"
    shutil.rmtree(base, ignore_errors=True)  # left by an interrupted or failed check, maybe of another version
    draw = random.Random(f"{args.seed}-{method}-{space}")
    began = time.monotonic()
    code, said = args.through(command(method, space, args, base / "through")).end()
    whole = time.monotonic() - began
    if code:
        return {"method": method, "space": space, "outcome": "failed: " + said.strip()[-300:]}
    kills, words = 0, command(method, space, args, base / "killed")
    for attempt in range(4 * args.kills):  # a short run may end before the kill: start over, kill earlier
        kills += killed(args.killed, words, base / "killed", draw.random() * 0.3 * whole / 2**attempt)
        if kills == args.kills or method == "random":
            break
        if not kills:
            shutil.rmtree(base / "killed", ignore_errors=True)
    code, said = args.killed(words).end()
    if code:
        return {"method": method, "space": space, "outcome": "resume failed: " + said.strip()[-300:]}
    values, differ = compared(base / "through" / "run", base / "killed" / "run")
    result = records.finished(base / "through" / "run") or {}
    return {
        "method": method,
        "space": space,
        "updates": result.get("updates"),
        "passes": result.get("passes"),
        "seconds": round(whole, 1),
        "kills": kills,
        "compared": values,
        "outcome": "equal" if not differ else f"differs: {', '.join(differ[:4])}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default=",".join(sorted(p.stem for p in (conf_dir() / "method").glob("*.yaml"))))
    parser.add_argument("--spaces", default="nb201,darts", help="comma-separated, or all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--updates", type=int, default=100, help="weight updates per epoch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--checkpoint-s", type=float, default=4, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--fork", action="store_true", help="fork the searches, one job at a time")
    args = parser.parse_args()
    args.through, args.killed = starters(args.fork)
    args.jobs = 1 if args.fork else args.jobs
    if args.spaces == "all":
        args.spaces = ",".join(sorted(p.stem for p in (conf_dir() / "space").glob("*.yaml")))
    pairs = [(m, s) for s in args.spaces.split(",") for m in args.methods.split(",") if not refused(m, s)]
    args.out.mkdir(parents=True, exist_ok=True)
    rows = equal_rows(args.out)
    known = {(r["method"], r["space"]) for r in rows}
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda pair: check(*pair, args), [pair for pair in pairs if pair not in known]):
            add(row, rows, args.out)
    said = " ".join(["scripts/methods_matrix.py", *sys.argv[1:]])
    lines = [
        f"`{said}`",
        "",
        "| method | space | weight updates | passes | seconds | kill -9 | values compared | resumed run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['method']} | {r['space']} | {r.get('updates')} | {r.get('passes')} | {r.get('seconds')} | "
        f"{r.get('kills')} | {r.get('compared')} | {r['outcome']} |"
        for r in rows
    ]
    return told(rows, lines, args.out / "matrix.md")


if __name__ == "__main__":
    sys.exit(main())
