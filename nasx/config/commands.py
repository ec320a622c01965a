"""The commands, with their top-level keys, their config groups, and the groups that they do not read."""

from __future__ import annotations

from typing import NamedTuple

from nasx.config import schema


class Command(NamedTuple):
    """A command: its own keys (a class in nasx.config.job_settings), its config groups, and those it does not read."""

    settings: str
    groups: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        """The config groups that the command reads."""
        return tuple(group for group in self.groups if group not in self.unread)


GROUPS = (
    "space", "method", "dataset", "search", "retrain", "benchmark", "engine", "stages", "stop", "budget", "logger",
)  # fmt: skip
"""Config groups whose value is a component: a mapping with `_target_`."""
DELTAS = ("pair", "experiment", "launch", "debug")
"""Config groups whose files set keys of other groups (`# @package _global_`)."""
COMMANDS = {
    "search": Command("SearchJob", GROUPS, ("retrain",)),
    "retrain": Command("RetrainJob", GROUPS, ("method", "search", "benchmark", "stages", "stop")),
    "run": Command("RunJob", GROUPS),
    "study": Command("StudyJob", (*GROUPS, "study")),
    "table": Command("TableJob"),
    "list": Command("ListJob"),
}
TRAINING_GROUPS = {
    name: tuple(group for group in ("search", "retrain") if group in entry.read) for name, entry in COMMANDS.items()
}
"""Command -> groups of training settings (search, retrain) that the command reads."""
HOMES = (
    "nasx.spaces",
    "nasx.methods",
    "nasx.data",
    "nasx.benchmarks",
    "nasx.config.settings",
    "nasx.config.stages",
    "nasx.diagnostics.stop",
    "nasx.searcher.budget",
    "nasx.tracking.loggers",
)
"""Packages and modules of nasx whose classes `_target_` may name."""
NON_IDENTITY_KEYS = frozenset({
    "out", "name", "device", "devices", "threads", "workers", "checkpoint_s", "allow", "draw", "quiet", "profile",
    "seeds_per_job", "logger", "launch", "objective", "hydra", "then",
})  # fmt: skip
"""Top-level keys that do not change the numbers of a run and are not part of its identity."""
NON_IDENTITY_SETTINGS = frozenset({"benchmark.devices", "engine.calibrate", "search.keep_every"})
"""Settings in config groups that change a run's numbers at most by rounding and are not part of its identity."""
_RENAMED = {"from_": "from"}


def settings(command: str) -> dict[str, schema.Field]:
    """Return a command's own top-level settings, by key."""
    component = schema.component(f"nasx.config.job_settings.{COMMANDS[command].settings}")
    assert component is not None, command
    return {_RENAMED.get(name, name): field for name, field in component.fields.items()}
