"""A search in stages: consecutive searches, each on the space narrowed by the one before.

    stage 1      the space as it is, with the settings of stage 1
    stage i + 1  of each edge's operations the `keep[i]` strongest of stage i (null: all; edges that were searched are
                 then fixed); all else newly initialized, or (`inherit`) weights, architecture, optimizers and the
                 cosine of the learning rate continue

An earlier stage is an ordinary search in a folder of its own, RUN/stage-1, RUN/stage-2, ..., and the last one is the
run itself: resume, kill, records and pictures are those of any search, and no loop knows of stages. In the YAML a
setting of `space` or `search` is one value for all stages, or a list with one for each.

Sources: Chen, Xie, Wu, Tian, P-DARTS (2019), section 3.2; Chen, Wang, Cheng, Tang, Hsieh, DrNAS (2021), section 4.2 and
released code; Amended-DARTS, appendix B.2 (edges first).

Deviations
1. Each stage draws the same order of training and validation images; the released codes shuffle again.
2. A stage that inherits starts with its kept operations' logits; the released code of DrNAS keeps those of dropped ones
   at 0 and masks them: a Dirichlet sample restricted to some entries and normalized is one of these entries alone.
3. P-DARTS clips the architecture's gradient; here only weights are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nasx.core.plain import Config

if TYPE_CHECKING:
    from nasx.core.constraints import Positive

NONE: Config = {"_target_": "nasx.config.stages.Stages", "keep": [], "inherit": False, "space": {}, "search": {}}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Settings that change between stages; there is one more stage than entries in `keep`."""

    keep: tuple[Positive | None, ...] = ()
    inherit: bool = False
    space: dict[str, object] = field(default_factory=dict)
    search: dict[str, object] = field(default_factory=dict)


def with_defaults(cfg: Config) -> Config:
    """The settings of stages; those that a file of the user's leaves out have their defaults."""
    return {**NONE, **(cfg.get("stages") or {})}


def count(cfg: Config) -> int:
    """Stages of a configuration."""
    return len(with_defaults(cfg)["keep"]) + 1


def name(i: int) -> str:
    """Return the name of the folder of stage i (from 0) in the run folder."""
    return f"stage-{i + 1}"


def stage_values(values: Config, i: int) -> dict[str, object]:
    """The values of stage i."""
    return {key: value[i] if isinstance(value, list | tuple) else value for key, value in values.items()}


def stage_config(cfg: Config, i: int, space: Config | None = None) -> Config:
    """The configuration of stage i alone, on `space` (default: that of `cfg`, not narrowed)."""
    node = with_defaults(cfg)
    return {
        **cfg,
        "stages": NONE,
        "space": {**(cfg["space"] if space is None else space), **stage_values(node["space"], i)},
        "search": {**cfg["search"], **stage_values(node["search"], i)},
    }
