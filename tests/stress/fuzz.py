"""Fuzz the parsers: valid samples, twisted by hypothesis, until anything but a UserError is raised or the time is up.

    uv run python tests/stress/fuzz.py [TARGET ...] [--seconds 300] [--seed 0]

Targets: those in tests/support/fuzz_targets.py, by default all, one after another. Prints one JSON line per target:
executions, seconds, and the finding, if any, shrunk to the smallest sample; the exit code is 1 if something was found.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from fuzz_targets import TARGETS
from fuzzing import Escaped, fed, warm

LIMIT = 12 << 30
"""Bytes of address space: a sample that requests more fails alone, without affecting the machine."""
BATCH = 200
"""Executions per seed of hypothesis; the next batch has the next seed."""


def fuzz(name: str, seconds: float, seed: int, phases: list[Phase]) -> dict[str, Any]:
    """Feed a target until the time is up or something is found."""
    target, count, began = TARGETS[name], 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        drawn, smallest = target.draw(root), []  # type: tuple[Any, list[Any]]
        while time.monotonic() - began < seconds:

            @hypothesis.seed(seed)
            @settings(
                max_examples=BATCH,
                deadline=None,
                database=None,
                phases=phases,
                verbosity=Verbosity.quiet,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            )
            @given(drawn)
            def feed(sample: Any) -> None:
                nonlocal count
                if time.monotonic() - began > seconds:
                    return
                count += 1
                try:
                    fed(target, root, sample)
                except BaseException:
                    smallest.append(sample)
                    raise

            try:
                feed()
            except (Exception, Escaped) as error:  # noqa: BLE001 (this is what the fuzzer looks for)
                frames = [f for f in traceback.extract_tb(error.__traceback__) if "hypothesis" not in f.filename]
                return {
                    "target": name,
                    "executions": count,
                    "seconds": round(time.monotonic() - began),
                    "seed": seed,
                    "found": "".join(traceback.format_list(frames))
                    + f"{type(error).__name__}: {error}"[:1000]
                    + f"\nsample: {smallest[-1]!r:.1500}",
                }
            seed += 1
    return {"target": name, "executions": count, "seconds": round(time.monotonic() - began), "found": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shrink", action="store_true", help="bring a finding to its smallest sample: takes minutes")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warm()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    found = 0
    for name in args.targets or TARGETS:
        told = fuzz(name, args.seconds, args.seed, [Phase.generate, *([Phase.shrink] if args.shrink else [])])
        found += bool(told["found"])
        print(json.dumps(told | {"found": bool(told["found"])}), flush=True)
        if told["found"]:
            print(told["found"], flush=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
