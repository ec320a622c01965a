"""A search in stages: searches one after the other, each on the space that the one before has narrowed.

    stage 1      the space as it is, with the settings of stage 1
    stage i + 1  of each edge's operations the `keep[i]` strongest of stage i (null: all; edges that were searched are
                 then fixed); everything else anew, or (`inherit`) weights, architecture, optimizers and the learning
                 rate's cosine go on

An earlier stage is an ordinary search in a folder of its own, RUN/stage-1, RUN/stage-2, ..., and the last one is the
run itself: resume, kill, records and pictures are those of any search, and no loop knows of stages. In the YAML a
setting of `space` or `search` is one value for all stages, or a list with one for each.

Sources: Chen, Xie, Wu, Tian, P-DARTS (2019), section 3.2; Chen, Wang, Cheng, Tang, Hsieh, DrNAS (2021), section 4.2 and
released code; Amended-DARTS, appendix B.2 (edges first).

Deviations
1. Each stage draws the same order of training and validation images; the released codes shuffle anew.
2. A stage that inherits starts with its kept operations' logits; the released code of DrNAS keeps those of dropped ones
   at 0 and masks them: a Dirichlet sample restricted to some entries and normalized is one of these entries alone.
3. P-DARTS clips the architecture's gradient; here only weights are clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.config.settings import Positive

Config = Mapping[str, Any]
NONE: Config = {"_target_": "nasx.config.stages.Stages", "keep": [], "inherit": False, "space": {}, "search": {}}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What changes from stage to stage; there is one more of them than entries in `keep`."""

    keep: tuple[Positive | None, ...] = ()
    inherit: bool = False
    space: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)


class Stage(NamedTuple):
    """One stage, when those before it are finished."""

    config: Config
    """The configuration of this search alone."""
    last: bool
    done: tuple[dict[str, Any], ...]
    """Records of the stages before."""
    epochs: tuple[int, int]
    """Epochs before this stage, and epochs in all, of the learning rate's cosine."""
    inherited: tuple[Any, Config] | None
    """Space and last checkpoint of the stage before, where this one goes on from it."""


def given(cfg: Config) -> Config:
    """The settings of stages; those that a file of the user's leaves out have their defaults."""
    return {**NONE, **(cfg.get("stages") or {})}


def count(cfg: Config) -> int:
    """Stages of a configuration."""
    return len(given(cfg)["keep"]) + 1


def name(i: int) -> str:
    """The folder of stage i (from 0) within the run's."""
    return f"stage-{i + 1}"


def at(values: Config, i: int) -> dict[str, Any]:
    """The values of stage i."""
    return {key: value[i] if isinstance(value, list | tuple) else value for key, value in values.items()}


def configured(cfg: Config, i: int, space: Config | None = None) -> dict[str, Any]:
    """The configuration of stage i alone, on `space` (default: that of `cfg`, not narrowed)."""
    node = given(cfg)
    return {**cfg, "stages": NONE, "space": {**(cfg["space"] if space is None else space), **at(node["space"], i)},
            "search": {**cfg["search"], **at(node["search"], i)}}


def stage(cfg: Config, folder: Path, i: int) -> Stage:
    """Stage i of the run in `folder`; the stages before it have finished there.

    Raises UserError where what the stage before has left cannot be read, and where its space cannot be narrowed.
    """
    from nasx.config import components
    from nasx.runs import checkpoints, records

    node = given(cfg)
    last, done = i + 1 == count(cfg), tuple(records.finished(folder / name(k)) or {} for k in range(i))
    lengths = [configured(cfg, k)["search"]["epochs"] for k in range(count(cfg))]
    epochs = (sum(lengths[:i]), sum(lengths)) if node["inherit"] else (0, lengths[i])
    if i == 0:
        return Stage(configured(cfg, i), last, done, epochs, None)
    before = folder / name(i - 1)
    held, state = records.configuration(before), checkpoints.last(before)
    if held is None or state is None or state["updates"] != done[-1].get("updates"):
        raise UserError(str(before), "has lost the last checkpoint, from which the next stage goes on",
                        "use a method that trains a supernet; where files were lost, move the run's folder away")
    old, method = (components.build(part, cfg.get("allow", ())) for part in (held["space"], cfg["method"]))
    narrowed = old.narrow(old.relax(state["a"], method.activate), node["keep"][i - 1])
    return Stage(configured(cfg, i, written(narrowed, held["space"])), last, done, epochs,
                 (old, state) if node["inherit"] else None)


def written(space: Any, node: Config) -> dict[str, Any]:
    """A space's component node: `node` with its fields."""
    def plain(value: Any) -> Any:
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {**node, **{f.name: plain(getattr(space, f.name)) for f in dataclasses.fields(space)}}


def spent(done: Sequence[Config], **own: Any) -> dict[str, Any]:
    """The costs `own` of the last stage and those of the stages before, added; with a list of these under `stages`."""
    diagnostics = [r["diagnostics"] for r in (*done, own) if r.get("diagnostics")]
    return {**{key: value + sum(r[key] for r in done) for key, value in own.items() if key != "diagnostics"},
            "diagnostics": {key: round(sum(d[key] for d in diagnostics), 4) for key in diagnostics[0]} if diagnostics
            else None,
            "stages": [{key: r[key] for key in ("name", "genotype", "updates", "passes", "wall_s")} for r in done]}


# -------------------------------------------------------------------------------------------------- checks
def faults(cfg: Config, overrides: Sequence[str], allowed: Sequence[str]) -> Iterator[UserError]:
    """What is wrong with the stages of a configuration whose single values are right. Nothing is imported."""
    from nasx.config import components, space_rules

    node = given(cfg)
    n = count(cfg)
    for group in ("space", "search"):
        for key, value in node[group].items():
            if isinstance(value, list | tuple) and len(value) != n:
                yield UserError(f"stages.{group}.{key}={components.show(value)}", f"has {len(value)} values for {n} stages",
                                "give one for each stage, or one for all (stages.keep has one entry less than stages)")
                return
            for text in overrides:
                if text.partition("=")[0].lstrip("+") == f"{group}.{key}":
                    yield UserError(text, "each stage has a value of its own",
                                    f"set stages.{group}.{key}=[{','.join(['...'] * n)}]")
    for i in range(n if n > 1 else 0):
        own = configured(cfg, i)
        found = [fault for group in ("space", "search")
                 for fault in components.component_faults(group, own[group], allowed)]
        for fault in found or space_rules.faults(own["space"]):
            yield UserError(f"stages, stage {i + 1}: {fault.where}", fault.fault, fault.remedy)
    if n > 1 and not str((cfg.get("stop") or {}).get("_target_")).endswith(".NoStop"):
        yield UserError("stop", "stages end after their epochs, not by an eigenvalue", "set stop=off, or stages=none")
    lists = [cfg["space"].get(key) for key in ("normal", "cell", "operations")]
    left = len(next((row[0] if isinstance(row[0], list | tuple) else row for row in lists if row), ()))
    for kept in node["keep"]:
        if kept is not None and left and kept > left:
            yield UserError(f"stages.keep={components.show(node['keep'])}", f"keeps {kept} of {left} operations",
                            "each entry is at most the one before, the first at most the operations of an edge")
        left = kept or left
