"""A whole nasx command on the fake device: runtime.py nasx search method=darts space=nb201 device=cuda ..."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

import arithmetic
import events


def report(path: Path) -> None:
    events.deaf()
    rows = [f"{n}\t{event}" for event, n in sorted(events.seen.items())]
    path.write_text(
        "\n".join([*rows, f"launches {events.launches()} replays {events.replays()}"]) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    arithmetic.skipped()
    if os.environ.get("FAKE_REPORT"):
        events.listen()
        atexit.register(report, Path(os.environ["FAKE_REPORT"]).resolve())
    from nasx.cli.main import main

    sys.argv[0] = "nasx"
    main()
