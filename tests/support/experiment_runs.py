"""Experiment files, and finished runs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from nasx.config import experiments, paths, plugins

FILES = plugins.choices("experiment", paths.conf_dir())
HEADS = {name: experiments.read(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def record(folder: Path, number: int, choices: dict[str, Any], settings: dict[str, Any], **fields: Any) -> None:
    """Write the record and configuration of a finished run. Its accuracy on all datasets is 50 + number / 10."""
    folder.mkdir(parents=True)
    protocol = {"nb201_v1": "nb201-v1"}.get(str(choices.get("search")), str(choices.get("search")))
    held = {
        "kind": "search",
        "name": folder.name,
        "status": "finished",
        "choices": choices,
        "protocol": protocol,
        "identity": folder.name,
        "family": folder.name,
        "labels": [],
        "genotype": folder.name,
        "params": 1,
        "wall_s": 1.0,
        "reduced": False,
        "hardware": {"device": "cpu", "name": "A CPU"},
        **fields,
    }
    (folder / "result.json").write_text(json.dumps(held))
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "choices": choices}))
