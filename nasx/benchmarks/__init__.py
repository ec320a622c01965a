"""Tabular benchmarks: published accuracies of architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasx.benchmarks.official import TableApi


def nb201_api(path: str | None = None, *, device: str | None = None, verbose: bool = True) -> TableApi:
    """Return a `nas_201_api.NASBench201API` for NAS-Bench-201 that reads nasx's compact table.

    Args:
        path: A table file; None uses the imported table if there is one, else the table inside the package.
        device: A device with a column `latency.DEVICE` in the table; the official interface then returns the latencies
            of this device, in seconds.
        verbose: Whether each call prints a line, like the official class.

    Raises:
        UserError: The package nas-bench-201 is not installed, the table cannot be read, or it does not have `device`.
    """
    from nasx.core import extras
    from nasx.errors import UserError

    try:
        import nas_201_api  # noqa: F401 (slow: it imports torch)
    except ModuleNotFoundError as error:
        if error.name != "nas_201_api":
            raise
        raise UserError("nb201_api()", "the package nas-bench-201 is not installed", extras.install()) from error
    from nasx.benchmarks.nb201 import Nb201
    from nasx.benchmarks.official import TableApi

    return TableApi(Nb201(path=path), device=device, verbose=verbose)
