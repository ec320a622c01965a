"""The top-level keys of each command: how a job runs, and the run or architecture that it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nasx.core.constraints import Count, NonNegative, Positive, PositiveFloat, Seed, Workers


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Top-level keys of every job."""

    seed: Seed = 0
    out: str = "outputs"
    name: str | None = None
    device: str = "auto"
    threads: Count | None = None
    workers: Workers | None = None
    """Number of processes that decode images on disk; null: the number of CPUs of this process minus one."""
    deterministic: bool = False
    checkpoint_s: PositiveFloat = 300.0
    allow: tuple[str, ...] = ()
    quiet: bool = False
    profile: NonNegative = 0
    objective: str | None = None
    """Key in result.json of the number by which a sweeper compares jobs; null: none."""
    draw: Literal["cell", "epochs"] = "cell"
    """epochs: a search also draws the cell of every epoch, in the subfolder `epochs` of the run folder."""
    seeds_per_job: Count = 1
    """Number of searches interleaved in one process, with seeds seed, seed + 1, ...; same results as separate jobs."""


@dataclass(frozen=True, kw_only=True)
class SearchJob(JobSettings):
    """Top-level keys of `nasx search`."""

    devices: Count = 1
    """Number of processes per search, one per GPU."""


@dataclass(frozen=True, kw_only=True)
class RetrainJob(JobSettings):
    """Top-level keys of `nasx retrain`; the key `from` is named `from_` here, because `from` is a Python keyword."""

    from_: str | None = None
    epoch: Positive | None = None
    """Epoch of `from_`, counted from 1, whose cell is trained; None: the final cell of the search."""
    relaxed: bool = False
    """Whether to train the supernet of `from_` with a fixed architecture."""
    genotype: str | None = None
    devices: Count = 1
    """Number of processes per training, one per GPU."""


@dataclass(frozen=True, kw_only=True)
class RunJob(JobSettings):
    """Top-level keys of `nasx run`."""

    then: Literal["auto", "lookup", "retrain"] = "auto"
    devices: Count = 1
    """Number of processes for the retraining, one per GPU."""


@dataclass(frozen=True, kw_only=True)
class TableJob:
    """Top-level keys of `nasx table`."""

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
    """Top-level keys of `nasx study`."""

    from_: str | None = None
    genotype: str | None = None
    devices: Count = 1


@dataclass(frozen=True, kw_only=True)
class ListJob:
    """Top-level keys of `nasx list`."""

    what: str = "all"
    """A kind in `nasx.cli.listing.KINDS`, or all."""
    words: tuple[str, ...] = ()
    """Words that an entry must contain; if the only word is an entry's name, that entry is shown in full."""
    paper: Literal["idarts", "amended", "single", "lambda", "tse"] | None = None
