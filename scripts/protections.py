"""Every fault that nasx is protected against: the protection, and a test that fails without it.

    uv run python scripts/protections.py                     all, one after another (a quarter of an hour)
    uv run python scripts/protections.py --only "full disk"

In a copy of the checkout, the tests run once unchanged and then once for each row with a line or two replaced: the test
of the row must fail. The rows are in protections.yaml. A table is printed; the exit code is 1 if a test passes without
its protection.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """A fault; the file of its protection, the code there, the code that replaces it, and the test that then fails."""

    fault: str
    file: str
    there: str
    instead: str
    test: str


ROWS = [Row(**row) for row in yaml.safe_load((ROOT / "scripts" / "protections.yaml").read_text(encoding="utf-8"))]


def passes(copy: Path, tests: list[str]) -> tuple[bool, str]:
    """Return whether the tests pass in the copy, and pytest's last line."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        text=True,
        capture_output=True,
    )
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    return done.returncode == 0, re.sub(r" in .*", "", last)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose fault contains this")
    args = parser.parse_args()
    rows = [row for row in ROWS if args.only in row.fault]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "nasx"
        unneeded = shutil.ignore_patterns(".venv", ".git", "outputs", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=unneeded)
        good, said = passes(copy, sorted({row.test for row in rows}))
        print(f"with all protections: {said}\n\n| fault | taken out | test | then |\n|---|---|---|---|", flush=True)
        wrong = int(not good)
        for row in rows:
            path = copy / row.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(row.there, row.instead), encoding="utf-8")
            good, said = passes(copy, [row.test])
            path.write_text(text, encoding="utf-8")
            wrong += good
            line = " ".join(row.there.split())
            print(f"| {row.fault} | `{row.file}`: `{line}` | `{row.test}` | {said} |", flush=True)
    print(f"\n{len(rows) - wrong} of {len(rows)} tests fail without their protection")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
