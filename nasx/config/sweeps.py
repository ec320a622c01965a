"""Rules for sweeps: settings of Hydra's launchers and sweepers, and requirements on their jobs.

The files in conf/launch determine where the jobs of `--multirun` run: one after the other in this process, or through a
Hydra plugin in other processes or on other machines. A restarted job continues from the checkpoint in its run folder
(`Signals` in tracking/environment.py requeues a preempted job).

A sweeper that searches for the best setting (hydra/sweeper=optuna) needs a number to optimize: `objective` is the
dotted key of a number in the job's record, for example supernet.valid_accuracy or lookup.cifar10.valid.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.core import extras, quantities
from nasx.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "joblib": "joblib", "optuna": "optuna"}
"""Hydra launcher or sweeper -> the extra of nasx that installs it."""
BASIC = "hydra._internal.core_plugins."


# -------------------------------------------------------------------------------------- before the sweep starts
def seed_samplers() -> None:
    """Change the default seed of the samplers of hydra/sweeper=optuna from null to 0, if the plugin is installed.

    With a fixed seed (nasx's choice, as in conf/experiment/tune_arch_lr.yaml), a repeated sweep proposes the same
    trials and resumes. A file in conf/ cannot set it, because it would replace a sampler's schema, or set a key that
    Hydra's basic sweeper does not have.
    """
    from hydra.core.config_store import ConfigStore

    for file in ConfigStore.instance().repo["hydra"]["sweeper"].get("sampler", {}).values():
        if file.node.get("seed", 0) is None:
            file.node.seed = 0


def missing_plugin(text: str) -> UserError | None:
    """Return an error if `text` is Hydra's message that a launcher or sweeper is missing; None for other messages."""
    found = re.search(r"Could not find 'hydra/(launcher|sweeper)/(\w+)'", text)
    if found is None:
        return None
    kind, name = found[1], found[2]
    if name not in EXTRAS:
        return UserError(
            f"hydra/{kind}={name}",
            f"unknown {kind}",
            "nasx list launchers shows those of nasx"
            if kind == "launcher"
            else "use hydra/sweeper=optuna, or leave it out",
        )
    return UserError(f"hydra/{kind}={name}", "its package is not installed", extras.install(EXTRAS[name]))


def faults(cfg: DictConfig, overrides: Sequence[Override], *, multirun: bool) -> Iterator[UserError]:
    """Yield errors in the launcher, sweeper and overrides of the composed configuration `cfg`."""
    launcher, sweeper = (str(cfg.hydra[part]._target_) for part in ("launcher", "sweeper"))
    chosen = cfg.hydra.runtime.choices.get("launch")
    for where, target in ((f"launch={chosen}" if chosen else "hydra/launcher", launcher), ("hydra/sweeper", sweeper)):
        if not multirun and not target.startswith(BASIC):
            yield UserError(where, "starts the jobs of a sweep, but this is a single job", "add --multirun")
    if cfg.hydra.job.get("chdir"):
        yield UserError(
            "hydra.job.chdir=true",
            "would start jobs in another folder, where out= and relative paths point elsewhere",
            "leave it out: each run has its own folder under out=",
        )
    for override in overrides:
        if override.is_sweep_override() and override.key_or_group.startswith(("launch", "hydra")):
            yield UserError(str(override.input_line), "one launcher starts all jobs of a sweep", "give one value")
        if override.is_sweep_override() and override.is_interval_sweep() and sweeper.startswith(BASIC):
            yield UserError(
                str(override.input_line),
                "an interval needs a sweeper that chooses values from it",
                "add hydra/sweeper=optuna and objective=..., or list the values, separated by commas",
            )
    if not sweeper.startswith(BASIC) and cfg.get("objective") is None:
        yield UserError(
            "objective=null",
            "the sweeper needs a number to compare jobs by",
            "name one from result.json, for example objective=supernet.valid_accuracy",
        )
    given, names = cfg.hydra.sweeper.get("direction"), ("", "maximize", "minimize")
    direction, best = getattr(given, "name", given), names[quantities.better(str(cfg.get("objective")))]
    if direction in names and best not in ("", direction):
        yield UserError(
            f"hydra.sweeper.direction={direction}",
            f"would optimize {cfg.objective} in the wrong direction",
            f"set hydra.sweeper.direction={best}",
        )
    yield from _gpus(cfg, launcher)


def sweeper_params(cfg: DictConfig, overrides: Sequence[Override], parser: OverridesParser) -> list[Override]:
    """Return the overrides in hydra.sweeper.params that the command line does not set."""
    given = {override.key_or_group for override in overrides}
    params = cfg.hydra.sweeper.get("params") or {}
    return parser.parse_overrides([f"{key}={value}" for key, value in params.items() if key not in given])


def _gpus(cfg: DictConfig, launcher: str) -> Iterator[UserError]:
    """Yield an error if jobs would wait for a GPU that they do not use or that this machine does not have."""
    from omegaconf import OmegaConf

    key = {"RayLauncher": "ray.remote.num_gpus", "SlurmLauncher": "gpus_per_node"}.get(launcher.rpartition(".")[2])
    if key is None or not OmegaConf.select(cfg.hydra.launcher, key):
        return
    remedy = f"add hydra.launcher.{key}=0"
    if cfg.get("device") == "cpu":
        yield UserError("device=cpu", "each job still requests a GPU from the launcher", remedy)
        return
    here = not (OmegaConf.select(cfg.hydra.launcher, "ray.init.address") or os.environ.get("RAY_ADDRESS"))
    if key.startswith("ray") and here and not list(Path("/dev").glob("nvidia[0-9]*")):
        yield UserError("launch=ray", "each job requests a GPU, but this machine has none", remedy)


def is_exhaustive(cfg: DictConfig) -> bool:
    """Return whether the sweeper runs all combinations of the listed values; False if it chooses values as it runs."""
    return str(cfg.hydra.sweeper._target_).startswith(BASIC)


def count(cfg: DictConfig, values: Sequence[int]) -> int | None:
    """Return the number of jobs in the sweep, given the number of values of each override; None if unknown."""
    if is_exhaustive(cfg):
        return math.prod(values)
    trials: int | None = cfg.hydra.sweeper.get("n_trials")
    return trials


@contextlib.contextmanager
def without_validation() -> Iterator[None]:
    """Disable the validation of jobs by Hydra's sweeper within the block, because `preflight` has checked them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    BasicSweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del BasicSweeper.validate_batch_is_legal


# ----------------------------------------------------------------------------------------- while the sweep runs
def enter_folder(folder: str) -> None:
    """Change to the folder in which the command was run; a launcher's worker may start elsewhere. Raises UserError."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            folder,
            f"does not exist or is not accessible on this machine ({error.strerror})",
            "start sweeps across several machines in a folder that they share",
        ) from error


def objective(record: Mapping[str, object], path: str) -> float:
    """Return the number at a dotted path in a record. Raises UserError if there is none."""
    node = quantities.value_at(record, path)
    if isinstance(node, bool) or not isinstance(node, (int, float)):
        raise UserError(
            f"objective={path}",
            "is not a number in this job's record",
            f"its result.json is in the folder {record.get('name')}",
        )
    return float(node)
