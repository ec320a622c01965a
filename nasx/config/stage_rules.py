"""Checks of a staged search, in which each stage is checked as a separate search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nasx.config.stages import count, stage_config, with_defaults
from nasx.core import spelling
from nasx.core.plain import Config
from nasx.errors import UserError


def faults(cfg: Config, overrides: Sequence[str], allowed: Sequence[str]) -> Iterator[UserError]:
    """Yield errors for inconsistent stages in a configuration whose values are valid. No component is imported."""
    from nasx.config import components, space_rules
    from nasx.config import overrides as config_overrides

    node = with_defaults(cfg)
    n = count(cfg)
    for group in ("space", "search"):
        for key, value in node[group].items():
            if isinstance(value, list | tuple) and len(value) != n:
                yield UserError(
                    f"stages.{group}.{key}={config_overrides.format_value(value)}",
                    f"has {spelling.counted(len(value), 'value')} for {spelling.counted(n, 'stage')}",
                    "give one for each stage, or one for all (stages.keep has one entry fewer than there are stages)",
                )
                return
            for text in overrides:
                if text.partition("=")[0].lstrip("+") == f"{group}.{key}":
                    yield UserError(
                        text, "each stage needs its own value", f"set stages.{group}.{key}=[{','.join(['...'] * n)}]"
                    )
    for i in range(n if n > 1 else 0):
        own = stage_config(cfg, i)
        found = [
            fault for group in ("space", "search") for fault in components.component_faults(group, own[group], allowed)
        ]
        for fault in found or space_rules.faults(own["space"]):
            yield UserError(f"stages, stage {i + 1}: {fault.where}", fault.fault, fault.remedy)
    if n > 1 and not str((cfg.get("stop") or {}).get("_target_")).endswith(".NoStop"):
        yield UserError(
            "stop",
            "stages run for a fixed number of epochs and cannot be stopped by an eigenvalue",
            "set stop=off, or stages=none",
        )
    lists = [cfg["space"].get(key) for key in ("normal", "cell", "operations")]
    left = len(next((row[0] if isinstance(row[0], list | tuple) else row for row in lists if row), ()))
    for kept in node["keep"]:
        if kept is not None and left and kept > left:
            yield UserError(
                f"stages.keep={config_overrides.format_value(node['keep'])}",
                f"keeps {kept} of {left} operations",
                "the first entry may be at most the number of operations per edge, and no entry may exceed the "
                "previous one",
            )
        left = kept or left
