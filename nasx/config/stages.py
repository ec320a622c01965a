"""Staged search: consecutive searches, each on the space narrowed by the previous one.

    stage 1      the full space, with the settings of stage 1
    stage i + 1  on each edge, the strongest operations of stage i, as many as the i-th entry of `keep` (null: all);
                 if stage i searched the edges, those that it selected are fixed. The supernet is newly initialized;
                 with `inherit`, the weights, architecture, optimizers and cosine learning rate schedule continue.

Each stage except the last is an ordinary search in its own folder, RUN/stage-1, RUN/stage-2, ..., and the last stage is
the run itself. Interruption, resumption, records and figures work as in any search; the search loop does not depend
on stages. In the YAML file, a setting under `space` or `search` is either one value for all stages or a list with one
value per stage.

Sources: Chen, Xie, Wu, Tian, P-DARTS (2019), section 3.2; Chen, Wang, Cheng, Tang, Hsieh, DrNAS (2021), section 4.2 and
released code; Amended-DARTS, appendix B.2 (edges first).

Deviations
1. All stages draw the training and validation images in the same order; the released code reshuffles them.
2. With `inherit`, a stage starts from the logits of the kept operations. The released code of DrNAS sets the logits of
   dropped operations to 0 and masks them. The two are equivalent: a Dirichlet sample, restricted to a subset of its
   entries and renormalized, follows the Dirichlet distribution of that subset.
3. P-DARTS also clips the architecture gradient; here only the weight gradient is clipped.
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
    """Settings that differ between stages; the number of stages is the number of entries in `keep` plus one."""

    keep: tuple[Positive | None, ...] = ()
    inherit: bool = False
    space: dict[str, object] = field(default_factory=dict)
    search: dict[str, object] = field(default_factory=dict)


def with_defaults(cfg: Config) -> Config:
    """Return the `stages` settings, with defaults for those that the configuration does not set."""
    return {**NONE, **(cfg.get("stages") or {})}


def count(cfg: Config) -> int:
    """Return the number of stages in a configuration."""
    return len(with_defaults(cfg)["keep"]) + 1


def name(i: int) -> str:
    """Return the name of the run's subfolder for stage i (from 0)."""
    return f"stage-{i + 1}"


def stage_values(values: Config, i: int) -> dict[str, object]:
    """Return the values for stage i (from 0): entry i of each list, and all other values unchanged."""
    return {key: value[i] if isinstance(value, list | tuple) else value for key, value in values.items()}


def stage_config(cfg: Config, i: int, space: Config | None = None) -> Config:
    """Return the configuration of stage i (from 0) as a separate search on `space` (default: the full space)."""
    node = with_defaults(cfg)
    return {
        **cfg,
        "stages": NONE,
        "space": {**(cfg["space"] if space is None else space), **stage_values(node["space"], i)},
        "search": {**cfg["search"], **stage_values(node["search"], i)},
    }
