"""Keys at the top level of each command: how a job runs, and what it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nasx.core.constraints import Count, NonNegative, Positive, PositiveFloat, Seed, Workers


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Keys at the top level that every job has."""

    seed: Seed = 0
    out: str = "outputs"
    name: str | None = None
    device: str = "auto"
    threads: Count | None = None
    workers: Workers | None = None
    """Processes that decode images, for sets on a disk; null: as many as there are CPUs for this process, less one."""
    deterministic: bool = False
    checkpoint_s: PositiveFloat = 300.0
    allow: tuple[str, ...] = ()
    quiet: bool = False
    profile: NonNegative = 0
    objective: str | None = None
    """The number of result.json that a sweeper compares jobs by; null: none."""
    draw: Literal["cell", "epochs"] = "cell"
    """epochs: of a search, also the cell of each epoch, into the run's folder `epochs`."""
    seeds_per_job: Count = 1
    """Searches that one process takes by turns, of seeds seed, seed + 1, ...: each as its seed alone would be."""


@dataclass(frozen=True, kw_only=True)
class SearchJob(JobSettings):
    """`nasx search`."""

    devices: Count = 1
    """Processes that search together, one for each GPU."""


@dataclass(frozen=True, kw_only=True)
class RetrainJob(JobSettings):
    """`nasx retrain`; the key `from` is named `from_` here, since `from` is a keyword of Python."""

    from_: str | None = None
    epoch: Positive | None = None
    """Epoch of `from_`, from 1, whose cell is trained; None: the cell that the search found."""
    relaxed: bool = False
    """Whether the supernet of `from_` is trained, its architecture fixed."""
    genotype: str | None = None
    devices: Count = 1
    """Processes that train together, one for each GPU."""


@dataclass(frozen=True, kw_only=True)
class RunJob(JobSettings):
    """`nasx run`."""

    then: Literal["auto", "lookup", "retrain"] = "auto"
    devices: Count = 1
    """Processes that retrain together, one for each GPU."""


@dataclass(frozen=True, kw_only=True)
class TableJob:
    """`nasx table`."""

    runs: str | tuple[str, ...] = ()
    out: str = "outputs"
    format: Literal["console", "markdown", "latex", "csv"] = "console"
    out_file: str | None = None
    caption: str | None = None
    label: str | None = None
    sort: str | tuple[str, ...] | None = None
    filter: str | tuple[str, ...] | dict[str, object] | None = ()
    group: str | tuple[str, ...] = ()
    paper: Literal["idarts", "amended", "single", "lambda", "tse"] | None = None
    error: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyJob(JobSettings):
    """`nasx study`."""

    from_: str | None = None
    genotype: str | None = None
    devices: Count = 1


@dataclass(frozen=True, kw_only=True)
class ListJob:
    """`nasx list`."""

    what: str = "all"
    """A kind of `nasx.cli.listing.KINDS`, or all."""
    words: tuple[str, ...] = ()
    """Words that an entry must have; one entry's name: all of it."""
    paper: Literal["idarts", "amended", "single", "lambda", "tse"] | None = None
