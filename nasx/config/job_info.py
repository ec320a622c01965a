"""What a job knows of its command line, from which records are made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """What the command line hands to a job with its configuration."""

    choices: Mapping[str, str]
    """Group -> choice."""
    overrides: Sequence[str] = ()
    options: Sequence[str] = ()
    """Empty, or `--config-dir FOLDER`."""
    command: str = ""
    """The command line that does the job."""
    folders: Sequence[str] = ()
    """Folders in which Hydra looks for configuration files."""
    published: Mapping[str, object] | None = None
    """The configuration of the same choices without overrides."""
    summary: bool = True
    """Whether to print the summary of the run."""
    branch: Mapping[str, object] | None = None
    """Parent, epoch and changed settings of a branch, for its record."""
    origin: str = ""
    """The checkpoint that a branch starts from."""

    def of(self, command: str, overrides: Sequence[str]) -> JobInfo:
        """Return the information of `nasx COMMAND OVERRIDES` with the same options and choices."""
        line = shlex.join(["nasx", command, *self.options, *overrides])
        return replace(self, overrides=overrides, command=line)
