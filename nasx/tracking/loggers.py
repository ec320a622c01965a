"""Loggers: receivers of metrics rows in addition to metrics.jsonl. None is needed and none is the default.

`logger=tensorboard`, `logger=wandb`, `logger=mlflow`; each package is an extra of nasx of that name. A logger
receives each row after the run has written it (`run_folder.Run.append`), and opens its output at the first row: a
finished run opens nothing. It changes no number and is not part of a run's identity. A resumed run continues from its
last checkpoint: TensorBoard hides what was logged beyond it, W&B and MLflow continue the run of the same name.

Shapes: a row is an entry of metrics.jsonl. Its numbers become scalars at step `epoch`, inner names joined by `/`;
lists (mixture weights) and texts stay in metrics.jsonl alone.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nasx.core import extras
from nasx.core.files import no_link
from nasx.core.plain import Row
from nasx.errors import UserError
from nasx.tracking import records


class Sink(Protocol):
    """A receiver of metrics rows."""

    def write(self, row: Mapping[str, object]) -> None: ...
    def close(self) -> None: ...


class NullSink:
    """Takes rows and does nothing with them."""

    def write(self, row: Mapping[str, object]) -> None: ...
    def close(self) -> None: ...


def scalars(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of the finite numbers in a row, mappings entered; the epoch, which is the step, is left out."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and math.isfinite(value)
            and prefix + key != "epoch"
        ):
            yield prefix + key, float(value)


def require(package: str, choice: str) -> None:
    """Raise UserError if `package` is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"logger={choice}", f"{package} is not installed", f"{extras.install(choice)}, or leave the logger out"
        )


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """A logger that does nothing."""

    def open(self, folder: Path, config: Mapping[str, object]) -> Sink:
        return NullSink()


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Event files for TensorBoard in the run folder."""

    folder: str = "tensorboard"

    def check(self) -> None:
        """Raises UserError if TensorBoard is not installed, or the folder is not one within the run's."""
        require("tensorboard", "tensorboard")
        self._within(Path())

    def _within(self, folder: Path) -> Path:
        """The folder of event files within that of a run. Raises UserError if it leads out of it."""
        if self.folder in ("", "..") or Path(self.folder).name != self.folder:
            raise UserError(
                f"logger.folder={self.folder}",
                "is not a plain folder name",
                "name a folder inside the run folder, for example logger.folder=tensorboard",
            )
        return no_link(folder / self.folder)

    def open(self, folder: Path, config: Mapping[str, object]) -> Sink:
        return _TensorBoard(self._within(folder))


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def write(self, row: Row) -> None:
        step = int(row["epoch"])
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in scalars(row):
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """A run of Weights & Biases, offline unless asked for."""

    project: str = "nasx"
    entity: str | None = None
    mode: Literal["offline", "online", "disabled"] = "offline"

    def check(self) -> None:
        """Raises UserError if wandb is not installed."""
        require("wandb", "wandb")

    def open(self, folder: Path, config: Mapping[str, object]) -> Sink:
        return _Wandb(self, folder, config)


class _Wandb:
    def __init__(self, ask: Wandb, folder: Path, config: Mapping[str, object]) -> None:
        self.ask, self.folder, self.config = ask, folder, config
        self.run: Any = None

    def write(self, row: Row) -> None:
        if self.run is None:
            import wandb

            self.run = wandb.init(
                project=self.ask.project,
                entity=self.ask.entity,
                mode=self.ask.mode,
                id=self.folder.name,
                name=self.folder.name,
                dir=str(self.folder),
                config=dict(self.config),
                resume="allow",
            )
        self.run.log(dict(scalars(row)), step=int(row["epoch"]))

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """A logger to a run of MLflow, in a local database unless a server is named."""

    experiment: str = "nasx"
    tracking_uri: str | None = None
    """What MLflow calls the tracking URI; null: mlflow.db in the folder of runs."""

    def check(self) -> None:
        """Raises UserError if MLflow, or what its databases need, is not installed."""
        for package in ("mlflow", *(() if self.tracking_uri else ("sqlalchemy", "alembic"))):
            require(package, "mlflow")

    def open(self, folder: Path, config: Mapping[str, object]) -> Sink:
        return _Mlflow(self, folder, config)


class _Mlflow:
    TAG = "nasx.run"
    """The tag that holds the name of the run folder."""

    def __init__(self, ask: Mlflow, folder: Path, config: Mapping[str, object]) -> None:
        self.ask, self.folder, self.config = ask, folder, config
        self.client: Any = None
        self.run = ""

    def write(self, row: Row) -> None:
        if self.client is None:
            self._begin()
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(row["epoch"])
        self.client.log_batch(self.run, metrics=[Metric(name, value, now, step) for name, value in scalars(row)])

    def _begin(self) -> None:
        """Open the run of this folder's name, or start it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves the machine unasked
        import mlflow
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        home, name = self.folder.absolute().parent, self.folder.name
        client = mlflow.MlflowClient(self.ask.tracking_uri or f"sqlite:///{home / 'mlflow.db'}")
        held = client.get_experiment_by_name(self.ask.experiment)
        place = None if self.ask.tracking_uri else str(home / "mlartifacts")
        number = held.experiment_id if held else client.create_experiment(self.ask.experiment, place)
        found = client.search_runs([number], f"tags.`{self.TAG}` = '{name}'", max_results=1)
        self.client, self.run = (
            client,
            (found or [client.create_run(number, run_name=name, tags={self.TAG: name})])[0].info.run_id,
        )
        client.update_run(self.run, status="RUNNING")
        if not found:
            settings = [Param(key, str(value)) for key, value in records.flatten(self.config).items()]
            for first in range(0, len(settings), 100):  # MLflow's bound of a batch
                client.log_batch(self.run, params=settings[first : first + 100])

    def close(self) -> None:
        if self.client is not None:
            self.client.set_terminated(self.run)
