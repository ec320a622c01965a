"""Every schedule of stages and every combination, small, on real CIFAR-10, killed with kill -9 in each of its stages.

    NASX_DATA=DIR uv run python scripts/stages.py OUT

Each search runs once to its end; the same command in another folder is killed after the first checkpoint of each stage
(including the last one) and started again. Checkpoints, metrics and records of all stages (except times) must be equal
bit for bit. A table is printed and written to OUT/stages.md; searches found equal before are not repeated.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

from forks import starters
from kills import add, compared, equal_rows, small, told

from nasx.config import stages
from nasx.tracking import checkpoints, records


class Case(NamedTuple):
    """A search: its name, its words, its number of stages."""

    name: str
    method: str
    space: str
    words: tuple[str, ...]
    count: int


DEEP = ("stages.space.layers=[3,4,5]",)
FEW = ("space.layers=3", "space.channels=24")
CASES = (
    Case("P-DARTS", "darts", "darts", ("stages=pdarts", *DEEP), 3),
    Case("P-DARTS without priors", "darts", "darts", ("stages=pdarts_no_priors", *DEEP), 3),
    Case("Lambda-P-DARTS without priors", "lambda", "darts", ("stages=pdarts_no_priors", *DEEP), 3),
    Case("P-DARTS- without priors", "darts_minus", "darts", ("stages=pdarts_no_priors", *DEEP), 3),
    Case("TSE-PDARTS", "tse", "darts", ("stages=tse_pdarts", *DEEP), 3),
    Case("DrNAS", "drnas", "darts", ("stages=drnas_darts", *FEW), 2),
    Case("DrNAS", "drnas", "nb201", ("stages=drnas_nb201",), 2),
    Case("TSE-DrNAS", "tse_drnas", "darts", ("stages=drnas_darts", *FEW), 2),
    Case("TSE-DrNAS", "tse_drnas", "nb201", ("stages=drnas_nb201",), 2),
    Case(
        "Amended-DARTS, edges first",
        "amended",
        "amended_s2",
        ("stages=edges", "space.auxiliary=false", "search.auxiliary=0", "space.layers=4"),
        2,
    ),
    Case("Lambda-SDARTS-RS", "lambda_sdarts", "darts", (), 1),
    Case("TSE-DARTS-20", "tse", "darts", ("experiment=tse/darts_20", "space.layers=20"), 1),
)


def command(case: Case, args: argparse.Namespace, out: Path) -> list[str]:
    own = [
        word
        for word in small(case.method, case.space)
        if not (word.startswith("space.layers") and DEEP[0] in case.words)
    ]
    given = {word.partition("=")[0] for word in case.words}
    return [
        "search",
        *(word for word in own if word.partition("=")[0] not in given),
        *case.words,
        "dataset=cifar10",
        f"out={out}",
        "name=run",
        "device=cpu",
        "threads=1",
        "quiet=true",
        "checkpoint_s=0.3",
        f"search.epochs={args.epochs}",
        f"search.updates_per_epoch={args.updates}",
        f"search.batch={args.batch}",
        "search.arch_warmup=1",
        "search.evaluate_every=0",
        "search.evaluate_images=256",
    ]


def folders(run: Path, case: Case) -> list[Path]:
    """Return the folder of each stage, the last stage first."""
    return [run, *(run / stages.name(i) for i in range(case.count - 1))]


def check(case: Case, args: argparse.Namespace) -> dict[str, object]:
    base, began = args.out / "-".join([*re.findall(r"\w+", case.name), case.space]), time.monotonic()
    row: dict[str, object] = {
        "name": case.name,
        "words": " ".join([f"method={case.method}", f"space={case.space}", *case.words]),
    }
    code, said = args.through(command(case, args, base / "through")).end()
    if code:
        return {**row, "outcome": "failed: " + said.strip()[-300:]}
    words, kills = command(case, args, base / "killed"), 0
    for i in range(case.count):
        folder = base / "killed" / "run" / ("" if i + 1 == case.count else stages.name(i))
        job = args.killed(words)
        while job.running() and not checkpoints.found(folder):
            time.sleep(0.02)
        if job.running():
            kills += 1
            job.kill()
    code, said = args.killed(words).end()
    if code:
        return {**row, "outcome": "resume failed: " + said.strip()[-300:]}
    pairs = zip(folders(base / "through" / "run", case), folders(base / "killed" / "run", case), strict=True)
    found = [compared(one, two) for one, two in pairs]
    differ = [name for _, names in found for name in names]
    result = records.finished(base / "through" / "run") or {}
    return {
        **row,
        "stages": case.count,
        "updates": result["updates"],
        "passes": result["passes"],
        "kills": kills,
        "compared": sum(count for count, _ in found),
        "seconds": round(time.monotonic() - began),
        "outcome": "equal" if not differ else f"differs: {', '.join(differ[:4])}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=2, help="of each stage")
    parser.add_argument("--updates", type=int, default=6, help="weight updates per epoch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--fork", action="store_true", help="fork the searches instead of starting Python for each")
    args = parser.parse_args()
    args.through, args.killed = starters(args.fork)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = equal_rows(args.out)
    for case in CASES:
        words = " ".join([f"method={case.method}", f"space={case.space}", *case.words])
        if words not in {row["words"] for row in rows}:
            add(check(case, args), rows, args.out)
    lines = [
        "| system | search | stages | weight updates | passes | kill -9 | values compared | resumed run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['name']} | `{r['words']}` | {r.get('stages')} | {r.get('updates')} | {r.get('passes')} | "
        f"{r.get('kills')} | {r.get('compared')} | {r['outcome']} |"
        for r in rows
    ]
    return told(rows, lines, args.out / "stages.md")


if __name__ == "__main__":
    sys.exit(main())
