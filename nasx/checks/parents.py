"""The finished search whose cell a retraining trains: `from=RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nasx import records
from nasx.errors import UserError


def searched(name: str, out: str) -> tuple[Path, dict[str, Any]]:
    """Folder and record of the finished search that `from=` names. Raises UserError where there is none."""
    folder = records.locate(name, out)
    if folder is None:
        raise UserError(f"from={name}", "there is no such run", f"name a run's folder, or a run in {out}")
    found = records.finished(folder)
    if found is None:
        raise UserError(f"from={name}", f"{folder} holds no finished run (no readable result.json)",
                        "give the command of that search again: it resumes and finishes")
    if found.get("kind") != "search" or not found.get("genotype"):
        raise UserError(f"from={name}", f"is a run of nasx {found.get('kind')}, not a search",
                        f"use from={found['parent']}" if found.get("parent") else "name a run of nasx search")
    return folder, found


KEPT = ("name", "choices", "protocol", "seed", "overrides", "labels", "changed", "family", "identity", "genotype")


def kept(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a retraining's record keeps of that of its search, which may be elsewhere when both are read."""
    return None if record is None else {"kind": "search", **{key: record.get(key) for key in KEPT}}
