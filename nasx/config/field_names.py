"""Option names of the field's scripts, and the equivalent settings of nasx.

Source: the command lines of quark0/darts and its successors (PC-DARTS, RobustDARTS, SmoothDARTS, DrNAS), of
AutoDL-Projects (NAS-Bench-201, NATS-Bench), and of NNI (its DARTS example and trainer).
"""

from __future__ import annotations

from collections.abc import Collection

from nasx.core.plain import Config

OURS: dict[str, tuple[str, ...]] = {
    "alpha_lr": ("search.arch_lr",),
    "alpha_weight_decay": ("search.arch_weight_decay",),
    "arc_learning_rate": ("search.arch_lr",),
    "arc_lr": ("search.arch_lr",),
    "arch": ("genotype",),
    "arch_learning_rate": ("search.arch_lr",),
    "arch_nas_dataset": ("benchmark.path",),
    "auxiliary_weight": ("search.auxiliary", "retrain.auxiliary"),
    "batch_size": ("search.batch", "retrain.batch"),
    "begin": ("search.arch_warmup",),
    "channel": ("space.channels",),
    "cutout_length": ("search.cutout", "retrain.cutout"),
    "data": ("dataset.path",),
    "data_dir": ("dataset.path",),
    "data_path": ("dataset.path",),
    "drop_path_prob": ("search.drop_path", "retrain.drop_path"),
    "drop_path_probability": ("search.drop_path", "retrain.drop_path"),
    "gpu": ("device",),
    "grad_clip": ("search.clip", "retrain.clip"),
    "gradient_clip": ("search.clip", "retrain.clip"),
    "init_channels": ("space.channels", "retrain.channels"),
    "label_smooth": ("retrain.label_smoothing",),
    "learning_rate": ("search.lr", "retrain.lr"),
    "learning_rate_min": ("search.lr_min", "retrain.lr_min"),
    "max_epochs": ("search.epochs", "retrain.epochs"),
    "model": ("method",),
    "num_cells": ("space.layers",),
    "num_epochs": ("search.epochs", "retrain.epochs"),
    "num_layers": ("space.layers", "retrain.layers"),
    "num_workers": ("workers",),
    "optimizer": ("method",),
    "parallel": ("devices",),
    "rand_seed": ("seed",),
    "random_seed": ("seed",),
    "save": ("name", "out"),
    "save_dir": ("out",),
    "search_space": ("space",),
    "search_space_name": ("space",),
    "set": ("dataset",),
    "tmp_data_dir": ("dataset.path",),
    "track_running_stats": ("space.batch_norm",),
    "train_portion": ("dataset.fraction",),
    "unrolled": ("method.order",),
    "width": ("space.channels", "retrain.channels"),
}
"""Their name -> our settings; of several, those that a command reads."""
VALUES = {"unrolled": "2"}
"""Their name -> the value of our setting that it stands for."""
NEEDLESS = frozenset({"report_freq", "print_freq", "print_freq_eval", "log_frequency", "log_every"})
"""Names of settings that nasx does not need: it shows progress by time."""


def remedy(name: str, cfg: Config, groups: Collection[str]) -> str:
    """Suggest the setting of nasx for an option of the field's scripts; empty for other names.

    `cfg` is the composed configuration, `groups` are those that the command reads.
    """
    name = name.lstrip("-").replace("-", "_").lower()
    if name in NEEDLESS:
        return "leave it out: progress is shown all the time"
    found = []
    for key in OURS.get(name, ()):
        group, dot, last = key.partition(".")
        if (group in groups and last in (cfg.get(group) or ())) if dot else group in cfg:
            found.append(key)
    value = VALUES.get(name, "...")
    return f"in nasx it is {' or '.join(f'{key}={value}' for key in found)}" if found else ""
