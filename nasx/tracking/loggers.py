"""Loggers that receive metrics rows in addition to metrics.jsonl. No logger is required or used by default.

`logger=tensorboard`, `logger=wandb`, `logger=mlflow`; each package is installed by the extra of the same name.
A logger receives each row after the run has written it (`run_folder.Run.append`), and opens its output at the first
row, so that a finished run opens no output. A logger does not affect results and is not part of a run's identity. A
resumed run continues from its last checkpoint: TensorBoard hides the entries that were logged after the checkpoint, and
W&B and MLflow continue the run with the same name.

A row is an entry of metrics.jsonl. Its numbers become scalars at step `epoch`, with nested names joined by `/`;
lists (mixture weights) and texts are written to metrics.jsonl only.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from nasx.core import extras
from nasx.core.files import no_link
from nasx.core.plain import Config, Row
from nasx.errors import UserError
from nasx.tracking import records

TAG = "nasx.run"
"""The MLflow tag that contains the name of the run folder."""
Output = tuple[Callable[[Mapping[str, float], int], object], Callable[[], object]]
"""A function that logs the numbers of a step, and a function that closes the log."""


class Sink:
    """A receiver of metrics rows; `begin` opens its output at the step of the first row (None: discard all rows)."""

    output: Output | None = None

    def __init__(self, begin: Callable[[int], Output] | None = None) -> None:
        self.begin = begin

    def write(self, row: Row) -> None:
        if self.begin is not None:
            step = int(row["epoch"])
            self.output = self.output or self.begin(step)
            self.output[0](dict(scalars(row)), step)

    def close(self) -> None:
        if self.output is not None:
            self.output[1]()


def scalars(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (name, number) for each finite number in a row and its mappings, except the epoch, which is the step."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif prefix + key == "epoch":
            continue
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield prefix + key, float(value)


def require(package: str, choice: str) -> None:
    """Raise UserError if `package` is not installed."""
    if importlib.util.find_spec(package) is None:
        remedy = f"{extras.install(choice)}, or leave the logger out"
        raise UserError(f"logger={choice}", f"{package} is not installed", remedy)


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """A logger that does nothing."""

    def open(self, folder: Path, config: Config) -> Sink:
        return Sink()


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """A logger that writes event files for TensorBoard to the run folder."""

    folder: str = "tensorboard"

    def check(self) -> None:
        """Raise UserError if TensorBoard is not installed, or if `folder` is not a plain folder name."""
        require("tensorboard", "tensorboard")
        self._within(Path())

    def _within(self, folder: Path) -> Path:
        """Return the folder for event files in a run folder. Raises UserError if it is outside the run folder."""
        if self.folder in ("", "..") or Path(self.folder).name != self.folder:
            remedy = "name a folder inside the run folder, for example logger.folder=tensorboard"
            raise UserError(f"logger.folder={self.folder}", "is not a plain folder name", remedy)
        return no_link(folder / self.folder)

    def open(self, folder: Path, config: Config) -> Sink:
        return Sink(partial(self._begin, self._within(folder)))

    def _begin(self, folder: Path, first: int) -> Output:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder), purge_step=first)

        def log(values: Mapping[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        return log, writer.close


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """A logger that writes to a run in Weights & Biases, offline unless `mode` is changed."""

    project: str = "nasx"
    entity: str | None = None
    mode: Literal["offline", "online", "disabled"] = "offline"

    def check(self) -> None:
        """Raise UserError if wandb is not installed."""
        require("wandb", "wandb")

    def open(self, folder: Path, config: Config) -> Sink:
        return Sink(partial(self._begin, folder, dict(config)))

    def _begin(self, folder: Path, config: Config, first: int) -> Output:
        import wandb

        named = {"id": folder.name, "name": folder.name, "dir": str(folder), "config": config, "resume": "allow"}
        run = wandb.init(project=self.project, entity=self.entity, mode=self.mode, **named)
        return lambda values, step: run.log(values, step=step), run.finish


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """A logger that writes to a run in MLflow, in a local database unless `tracking_uri` is set."""

    experiment: str = "nasx"
    tracking_uri: str | None = None
    """MLflow's tracking URI; null: mlflow.db in the folder that contains the runs."""

    def check(self) -> None:
        """Raise UserError if MLflow, or a package that its local database needs, is not installed."""
        for package in ("mlflow", *(() if self.tracking_uri else ("sqlalchemy", "alembic"))):
            require(package, "mlflow")

    def open(self, folder: Path, config: Config) -> Sink:
        return Sink(partial(self._begin, folder, config))

    def _begin(self, folder: Path, config: Config, first: int) -> Output:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # send no data unless the user requests it
        import mlflow
        from mlflow.entities import Metric, Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        home, name = folder.absolute().parent, folder.name
        client = mlflow.MlflowClient(self.tracking_uri or f"sqlite:///{home / 'mlflow.db'}")
        held = client.get_experiment_by_name(self.experiment)
        place = None if self.tracking_uri else str(home / "mlartifacts")
        number = held.experiment_id if held else client.create_experiment(self.experiment, place)
        found = client.search_runs([number], f"tags.`{TAG}` = '{name}'", max_results=1)
        run = (found or [client.create_run(number, run_name=name, tags={TAG: name})])[0].info.run_id
        client.update_run(run, status="RUNNING")
        settings = [] if found else [Param(key, str(value)) for key, value in records.flatten(config).items()]
        for start in range(0, len(settings), 100):  # MLflow's limit per batch
            client.log_batch(run, params=settings[start : start + 100])

        def log(values: Mapping[str, float], step: int) -> None:
            now = int(1000 * time.time())
            client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

        return log, partial(client.set_terminated, run)
