"""Option names in other architecture search programs, and the equivalent nasx settings.

Source: the command lines of quark0/darts and its derivatives (PC-DARTS, RobustDARTS, SmoothDARTS, DrNAS), of
AutoDL-Projects (NAS-Bench-201, NATS-Bench), and of NNI (its DARTS example and trainer).
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from nasx.core.plain import Config

with Path(__file__).with_name("field_names.csv").open(encoding="utf-8", newline="") as _rows:
    OURS = {theirs: tuple(ours.split()) for theirs, ours in [*csv.reader(_rows)][1:]}
"""Option of another program -> nasx settings; only those that the command reads apply."""
VALUES = {"unrolled": "2"}
"""Option of another program -> the equivalent value of the nasx setting."""
NEEDLESS = frozenset({"report_freq", "print_freq", "print_freq_eval", "log_frequency", "log_every"})
"""Options that nasx does not need, because it shows progress at time intervals."""


def remedy(name: str, cfg: Config, groups: Collection[str]) -> str:
    """Suggest the nasx setting for an option of another program; empty for other names.

    `cfg` is the composed configuration, `groups` are the config groups that the command reads.
    """
    name = name.lstrip("-").replace("-", "_").lower()
    if name in NEEDLESS:
        return "leave it out: nasx always shows progress"
    found = []
    for key in OURS.get(name, ()):
        group, dot, last = key.partition(".")
        if (group in groups and last in (cfg.get(group) or ())) if dot else group in cfg:
            found.append(key)
    value = VALUES.get(name, "...")
    return f"in nasx it is {' or '.join(f'{key}={value}' for key in found)}" if found else ""
