"""Checks of search settings that other settings make ineffective, and of settings that vary in a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nasx.config import components, instantiate, overrides
from nasx.config.commands import HOMES
from nasx.core import spelling
from nasx.core.plain import Config
from nasx.errors import UserError


def faults(search: Mapping[str, object], space: str) -> Iterator[UserError]:
    """Yield errors for settings of the `search` component that have no effect; `space` is the class of the space."""
    momentum, rate = search.get("arch_momentum"), search.get("skip_dropout")
    if momentum and search.get("arch_optimizer") == "adam":
        yield UserError(
            f"search.arch_momentum={momentum}",
            "is only used by search.arch_optimizer=sgd",
            "set search.arch_momentum=0; Adam uses search.arch_betas",
        )
    if search.get("diagnose_order") == 2 and not search.get("diagnose_steps"):
        yield UserError(
            "search.diagnose_order=2",
            "has no effect with search.diagnose_steps=0",
            "set search.diagnose_steps to 1 or more",
        )
    if rate and space.startswith("nasx.spaces.nb1shot1.space."):
        yield UserError(
            f"search.skip_dropout={rate}", "this space has no skip connections", "set search.skip_dropout=0"
        )


def stopping(cfg: Config) -> Iterator[UserError]:
    """Yield an error if a search with valid values is too short for early stopping to make its first decision."""
    node = cfg.get("stop") or {}
    if node.get("_target_") != "nasx.diagnostics.stop.EigenvalueStop":
        return
    stop, epochs = instantiate.build(node), cfg["search"]["epochs"]
    if epochs < stop.least_epochs:
        yield UserError(
            f"search.epochs={epochs}",
            f"is too few for stop={'eigenvalue' if stop.acts else 'simulate'}, which needs {stop.least_epochs} epochs "
            "to detect growth of the eigenvalue",
            f"set search.epochs to {stop.least_epochs} or more, or stop=off",
        )


def varied(cfg: Mapping[str, object]) -> Iterator[UserError]:
    """Yield errors in `study.vary`: unknown settings, wrong numbers of values, and values that are invalid."""
    study, search = cfg.get("study"), cfg.get("search")
    vary = study.get("vary") if isinstance(study, Mapping) else None
    if not isinstance(vary, Mapping) or not isinstance(search, Mapping) or "_target_" not in search:
        return
    count = study.get("searches") if isinstance(study, Mapping) else None
    for key, values in vary.items():
        place = f"study.vary.{key}"
        if key not in search or key == "_target_":
            known = (name for name in search if name != "_target_")
            yield UserError(place, "is not a setting of search", spelling.suggest(key, known))
        elif not isinstance(values, list | tuple) or len(values) != count:
            yield UserError(
                f"{place}={overrides.format_value(values)}",
                f"is not a list of length {count}",
                "give one value for each search",
            )
        else:
            for value in values:
                for fault in components.component_faults("search", {**search, key: value}, HOMES):
                    yield UserError(f"{place}: {fault.where}", fault.fault, fault.remedy)
