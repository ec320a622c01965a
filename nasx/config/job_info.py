"""Information about a command line, which a job receives and records."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """Information about a command line, which a job receives along with its configuration."""

    choices: Mapping[str, str]
    """Config group -> chosen file."""
    overrides: Sequence[str] = ()
    options: Sequence[str] = ()
    """Empty, or `--config-dir FOLDER`."""
    command: str = ""
    """The command line that runs the job."""
    folders: Sequence[str] = ()
    """Folders in which Hydra looks for configuration files."""
    published: Mapping[str, object] | None = None
    """The configuration that results from the same choices without overrides."""
    summary: bool = True
    """Whether to print the summary of the run."""
    branch: Mapping[str, object] | None = None
    """Parent, epoch and changed settings of a branch (`nasx whatif`), for its record."""
    origin: str = ""
    """The checkpoint that a branch starts from."""

    def of(self, command: str, overrides: Sequence[str]) -> JobInfo:
        """Return the information for `nasx COMMAND OVERRIDES` with the same options and choices."""
        line = shlex.join(["nasx", command, *self.options, *overrides])
        return replace(self, overrides=overrides, command=line)
