"""A plain recipe, batches of random images, and the command line of a short retraining on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.types import RunMode

from nasx.cli import arguments, preflight
from nasx.config import check
from nasx.config import compose as composing
from nasx.config.job_info import JobInfo
from nasx.config.settings import RetrainSettings
from nasx.data.batch_stream import Batch

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
PLAIN = RetrainSettings(
    recipe="test", layers=None, channels=None, stem="cifar", epochs=4, batch=12, lr=0.1, momentum=0.0
)


def images(n: int = 12, seed: int = 0) -> Batch:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 6, 6, generator=gen, dtype=torch.float64)
    return Batch(x, torch.randint(5, (n,), generator=gen), 2**61 + seed)


def composed(*overrides: str) -> tuple[dict[str, Any], JobInfo]:
    """Return (configuration, info) of a command line, as the command passes them to nasx.jobs.search."""
    line = preflight.normalize("retrain", arguments.split_options(list(overrides)))
    loader = preflight.make_loader()
    cfg, choices = preflight.resolved(loader.load_configuration("retrain", list(line.overrides), RunMode.RUN))
    check.check(cfg, choices, line.overrides, "retrain")
    published = composing.published("retrain", choices, cfg, None)
    return cfg, JobInfo(choices=choices, overrides=overrides, command="nasx retrain", published=published)


def digits(out: Path, *overrides: str) -> tuple[str, ...]:
    return (
        "space=nb201",
        "dataset=digits",
        f"genotype={CELL}",
        f"out={out}",
        "retrain.layers=1",
        "retrain.channels=8",
        "retrain.batch=32",
        "threads=1",
        "device=cpu",
        "quiet=true",
        *overrides,
    )
