"""Stages of a search: the configuration of a stage, and the state that it inherits from the previous stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nasx.config.stages import count, name, stage_config, with_defaults
from nasx.core.plain import Config, Result, State
from nasx.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from nasx.spaces.base import Space


class Stage(NamedTuple):
    """A stage of a search whose earlier stages are finished."""

    config: Config
    """The configuration of this stage alone."""
    last: bool
    done: tuple[Result, ...]
    """The records of the earlier stages."""
    epochs: tuple[int, int]
    """Number of epochs of the learning rate schedule before this stage, and in total."""
    inherited: tuple[Space, State] | None
    """Space and last checkpoint of the previous stage; None if this stage starts from a new supernet."""


def stage(cfg: Config, folder: Path, i: int) -> Stage:
    """Return stage `i`, counted from 0, of the run in `folder`; all earlier stages must be finished.

    Raises UserError if the last checkpoint of the previous stage is missing, or its space cannot be narrowed.
    """
    from nasx.config import instantiate
    from nasx.tracking import checkpoints, records

    node = with_defaults(cfg)
    last, done = i + 1 == count(cfg), tuple(records.finished(folder / name(k)) or {} for k in range(i))
    lengths = [stage_config(cfg, k)["search"]["epochs"] for k in range(count(cfg))]
    epochs = (sum(lengths[:i]), sum(lengths)) if node["inherit"] else (0, lengths[i])
    if i == 0:
        return Stage(stage_config(cfg, i), last, done, epochs, None)
    before = folder / name(i - 1)
    held, state = records.configuration(before), checkpoints.last(before)
    if held is None or state is None or state["updates"] != done[-1].get("updates"):
        raise UserError(
            str(before),
            "is missing the last checkpoint, which the next stage starts from",
            "use a method that trains a supernet; if files were deleted, move the run folder elsewhere",
        )
    old, method = (instantiate.build(part, cfg.get("allow", ())) for part in (held["space"], cfg["method"]))
    narrowed = old.narrow(old.relax(state["a"], method.activate), node["keep"][i - 1])
    return Stage(
        stage_config(cfg, i, component_node(narrowed, held["space"])),
        last,
        done,
        epochs,
        (old, state) if node["inherit"] else None,
    )


def component_node(space: DataclassInstance, node: Config) -> dict[str, object]:
    """Return the configuration `node` of a space, updated with the values of the fields of `space`."""

    def plain(value: object) -> object:
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {**node, **{f.name: plain(getattr(space, f.name)) for f in dataclasses.fields(space)}}


def total_cost(done: Sequence[Config], **own: object) -> dict[str, object]:
    """Return the total cost of all stages: the sums of `own`, the cost of the last stage, and of the records in `done`.

    `stages` lists the costs of the earlier stages.
    """
    diagnostics = [r["diagnostics"] for r in (*done, own) if r.get("diagnostics")]
    return {
        **{key: value + sum(r[key] for r in done) for key, value in own.items() if key != "diagnostics"},
        "diagnostics": {key: round(sum(d[key] for d in diagnostics), 4) for key in diagnostics[0]}
        if diagnostics
        else None,
        "stages": [{key: r[key] for key in ("name", "genotype", "updates", "passes", "wall_s")} for r in done],
    }
