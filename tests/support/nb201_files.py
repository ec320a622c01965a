"""NAS-Bench-201 files: the public ones, and small ones in the official structures and in common columns."""

from __future__ import annotations

import bz2
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import IMAGES, Table
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_text
from nasx.benchmarks.nb201 import EMBEDDED

SHARED = Path(os.environ.get("NASX_SHARED") or Path(__file__).parents[3] / "shared")
PUBLIC = SHARED / "data" / "nb201.csv.gz"
TABLES = SHARED / "data" / "public"
needs_public = pytest.mark.skipif(
    not (TABLES.is_dir() and PUBLIC.exists()), reason=f"no public tables in {TABLES} (set NASX_SHARED)"
)
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
CONVS = SKIPS.replace("skip_connect", "nor_conv_3x3")
OPTIMUM = BEST.replace("nor_conv_3x3~2", "nor_conv_1x1~2")


# Published: CIFAR-10 valid, test; CIFAR-100 valid, test; ImageNet16-120 valid, test (NAS-Bench-201).
PUBLISHED = {
    SKIPS: (39.77, 54.30, 15.03, 15.61, 16.43, 16.32),
    CONVS: (90.20, 93.76, 70.71, 71.11, 40.78, 41.44),
    BEST: (91.55, 94.36, 73.49, 73.51, 46.37, 46.34),
}
SAMPLE = (BEST, SKIPS, CONVS, OPTIMUM, cell_text(0), cell_text(15624))
SEEDS = {
    ("cifar10-valid", "200"): (777, 888, 999),
    ("cifar10", "200"): (777, 888, 999),
    ("cifar100", "200"): (777, 888),
    ("ImageNet16-120", "200"): (777,),
    ("cifar10-valid", "12"): (111, 777),
    ("cifar10", "12"): (777,),
    ("cifar100", "12"): (777,),
    ("ImageNet16-120", "12"): (777,),
}
SPLITS = {
    "cifar10-valid": ("x-valid",),
    "cifar10": ("ori-test",),
    "cifar100": ("ori-test", "x-valid", "x-test"),
    "ImageNet16-120": ("ori-test", "x-valid", "x-test"),
}
NAMES = {"cifar10-valid": "cifar10", "cifar10": "cifar10", "cifar100": "cifar100", "ImageNet16-120": "imagenet16"}


def accuracy(cell: str, trained_on: str, split: str, hp: str, seed: int) -> float:
    """Return an accuracy: as published for validation after 200 epochs, otherwise made up, but a count of images."""
    dataset, kind = NAMES[trained_on], "valid" if split == "x-valid" else "test"
    if kind == "valid" and hp == "200":
        known = Table.read(EMBEDDED).per_seed(dataset, "valid")[seed][cell_code(cell)]
        if known == known:
            return float(known)
    images = 10_000 if split == "ori-test" else IMAGES[dataset, kind]
    return random.Random(f"{cell}{trained_on}{split}{hp}{seed}").randrange(images) * 100 / images


def state(index: int, cell: str, hp: str) -> dict[str, Any]:
    """ArchResults.state_dict() of the official API, with numpy scalars and OrderedDicts as in the official files."""
    results = {}
    epochs = int(hp)
    for trained_on, splits in SPLITS.items():
        for seed in SEEDS[trained_on, hp]:
            # The accuracies of earlier epochs are there too: only the last one counts.
            values = OrderedDict(
                (
                    f"{split}@{epoch}",
                    np.float64(accuracy(cell, trained_on, split, hp, seed)) if epoch == epochs - 1 else 1.0,
                )
                for split in splits
                for epoch in range(epochs)
            )
            results[trained_on, seed] = {
                "name": "infer.tiny",
                "net_state_dict": None,
                "train_acc1es": {epochs - 1: 99.0},
                "train_acc5es": None,
                "train_losses": {epochs - 1: np.float32(0.5)},
                "train_times": dict.fromkeys(range(epochs), 2.5),
                "arch_config": {"arch_str": cell, "channel": 16},
                "params": 1.1,
                "flop": 7.7,
                "seed": seed,
                "epochs": epochs,
                "latency": [0.01],
                "eval_names": list(splits),
                "eval_acc1es": values,
                "eval_times": {},
                "eval_losses": {},
            }
    seeds = {name: list(SEEDS[name, hp]) for name in SPLITS}
    return {
        "arch_index": index,
        "arch_str": cell,
        "all_results": results,
        "dataset_seed": seeds,
        "clear_net_done": True,
    }


def official(cells: tuple[str, ...] = SAMPLE) -> dict[str, Any]:
    infos = OrderedDict(
        (i, {"less": state(i, cell, "12"), "full": state(i, cell, "200")}) for i, cell in enumerate(cells)
    )
    return {"meta_archs": list(cells), "arch2infos": infos, "evaluated_indexes": set(range(len(cells)))}


def write_pth(path: Path, content: Any) -> Path:
    """Write a file as torch 1.x and numpy 1.x did: no zip archive, numpy's old module names."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    return path


def write_folder(path: Path, protocol: int = 4, cells: tuple[str, ...] = SAMPLE) -> Path:
    path.mkdir()
    (path / "meta.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps({"meta_archs": list(cells)}, protocol)))
    for i, cell in enumerate(cells):
        content = pickle.dumps({"12": state(i, cell, "12"), "200": state(i, cell, "200")}, protocol)
        (path / f"{i:06d}.pickle.pbz2").write_bytes(bz2.compress(content))
    return path


def made_up(valid: float) -> float:
    """Make up a test accuracy for a cell with this validation accuracy."""
    return min(round(valid) + 1.25, 100.0)


FOREIGN = ("CIFAR10TestAccuracy200Epochs", "CIFAR100TestAccuracy200Epochs", "ImageNetTestAccuracy200Epochs")


def foreign_csv(path: Path, order: list[int] | None = None) -> Path:
    """Write test accuracies only, in the columns of a public table; `order` gives each cell the numbers of another."""
    table = Table.read(EMBEDDED)
    means = [table.statistics(name, "valid")[:, 0].tolist() for name in DATASETS]
    lines = [",".join([*FOREIGN, "ArchitectureString", "UniqueString"])]
    lines += [
        ",".join([*(f"{made_up(mean[of]):.4f}" for mean in means), cell_text(code), "x"])
        for code, of in enumerate(order or range(CELLS))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
