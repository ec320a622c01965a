"""A search in stages: consecutive searches, each on the space that the previous one narrowed.

    stage 1      the full space, with the settings of stage 1
    stage i + 1  the `keep[i]` strongest operations of each edge in stage i (null: all; the edges searched in stage i
                 are then fixed). The supernet is newly initialized, or with `inherit`, weights, architecture,
                 optimizers and the cosine schedule of the learning rate continue.

Each stage except the last is an ordinary search in its own folder, RUN/stage-1, RUN/stage-2, ..., and the last stage is
the run itself. Resume, interruption, records and figures are the same as for any search, and the search loop does not
depend on stages. In the YAML, a setting of `space` or `search` is one value for all stages, or a list of one per stage.

Sources: Chen, Xie, Wu, Tian, P-DARTS (2019), section 3.2; Chen, Wang, Cheng, Tang, Hsieh, DrNAS (2021), section 4.2 and
released code; Amended-DARTS, appendix B.2 (edges first).

Deviations
1. Each stage draws training and validation images in the same order; the released codes shuffle them again.
2. A stage with `inherit` starts with the logits of the kept operations. The released code of DrNAS sets the logits of
   dropped operations to 0 and masks them; a Dirichlet sample restricted to some entries and normalized has the
   distribution of a Dirichlet sample of these entries alone.
3. P-DARTS clips the architecture gradient; here only the weight gradient is clipped.
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
    """Settings that change between stages; the number of stages is the number of entries in `keep` plus one."""

    keep: tuple[Positive | None, ...] = ()
    inherit: bool = False
    space: dict[str, object] = field(default_factory=dict)
    search: dict[str, object] = field(default_factory=dict)


def with_defaults(cfg: Config) -> Config:
    """Return the settings of stages, with defaults for those that a user's file does not set."""
    return {**NONE, **(cfg.get("stages") or {})}


def count(cfg: Config) -> int:
    """Return the number of stages of a configuration."""
    return len(with_defaults(cfg)["keep"]) + 1


def name(i: int) -> str:
    """Return the name of the folder of stage i (from 0) in the run folder."""
    return f"stage-{i + 1}"


def stage_values(values: Config, i: int) -> dict[str, object]:
    """Return the values of stage i (from 0): entry i of each list, and all values that are not lists."""
    return {key: value[i] if isinstance(value, list | tuple) else value for key, value in values.items()}


def stage_config(cfg: Config, i: int, space: Config | None = None) -> Config:
    """Return the configuration of stage i (from 0) alone, on `space` (default: the space of `cfg`, not narrowed)."""
    node = with_defaults(cfg)
    return {
        **cfg,
        "stages": NONE,
        "space": {**(cfg["space"] if space is None else space), **stage_values(node["space"], i)},
        "search": {**cfg["search"], **stage_values(node["search"], i)},
    }
