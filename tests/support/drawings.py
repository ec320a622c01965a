"""Synthetic searches to draw, and the words in a drawing."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from nasx.config import paths

NB201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('sep_conv_3x3', 0)], "
    "normal_concat=range(2, 4), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3])"
)
PNG = b"\x89PNG\r\n\x1a\n"


def words(svg):
    """Return all text in an SVG file, which must be well-formed."""
    return [" ".join("".join(node.itertext()).split()) for node in ET.parse(svg).iter() if node.tag.endswith("}text")]


def writer(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a synthetic search: a folder with metrics.jsonl, config.yaml and genotype.txt."""

    def write(name="run", epochs=4, seed=0, space="nb201", lookup=True):
        folder = tmp_path / name
        folder.mkdir()
        gen = np.random.default_rng(seed)
        shapes = {"cell": (6, 5)} if space == "nb201" else {"normal": (14, 8), "reduce": (14, 8)}
        rows = []
        for epoch in range(1, epochs + 1):
            mix = {k: gen.dirichlet(np.ones(shape[1]), shape[0]).tolist() for k, shape in shapes.items()}
            rows.append(
                {
                    "epoch": epoch,
                    "train_loss": 2.0 / epoch + seed,
                    "train_accuracy": 0.1 * epoch,
                    "mix": mix,
                    "val_loss": 2.5 / epoch,
                    "val_accuracy": 0.09 * epoch,
                    "lookup": {"cifar10": {"valid": 80.0 + epoch + seed, "test": None}} if lookup else None,
                }
            )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        listed = yaml.safe_load((paths.conf_dir() / "space" / f"{space}.yaml").read_text())["operations"]
        (folder / "config.yaml").write_text(
            yaml.safe_dump({"space": {"operations": listed}, "choices": {"space": space}})
        )
        (folder / "genotype.txt").write_text((NB201 if space == "nb201" else DARTS) + "\n")
        return folder

    return write
