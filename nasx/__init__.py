"""nasx: differentiable architecture search with composable spaces, methods and datasets.

The public functions and classes are imported on first use, so that `import nasx` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.api.architectures import list_models
    from nasx.api.jobs import retrain, search
    from nasx.api.models import create_model
    from nasx.api.runs import RetrainRun, RunFrame, SearchRun, runs
    from nasx.core.bilevel import Batch, Method, Outcome, Problem, Search
    from nasx.export.model import load
    from nasx.spaces.base import Space

__version__ = "0.2.0"
__all__ = [
    "Batch",
    "Method",
    "Outcome",
    "Problem",
    "RetrainRun",
    "RunFrame",
    "Search",
    "SearchRun",
    "Space",
    "UserError",
    "create_model",
    "list_models",
    "load",
    "retrain",
    "runs",
    "search",
]
_HOMES = {
    "nasx.api.architectures": ("list_models",),
    "nasx.api.jobs": ("retrain", "search"),
    "nasx.api.models": ("create_model",),
    "nasx.api.runs": ("RetrainRun", "RunFrame", "SearchRun", "runs"),
    "nasx.core.bilevel": ("Batch", "Method", "Outcome", "Problem", "Search"),
    "nasx.export.model": ("load",),
    "nasx.spaces.base": ("Space",),
}
"""Module -> names in `__all__` that are imported from it on first use."""


if not TYPE_CHECKING:  # type checkers use the imports above and can thus report misspelled names

    def __getattr__(name: str) -> object:
        for module, names in _HOMES.items():
            if name in names:
                globals()[name] = found = getattr(import_module(module), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
