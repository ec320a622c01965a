"""Tabular benchmarks: published accuracies of architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasx.benchmarks.official import TableApi


def nb201_api(path: str | None = None, *, device: str | None = None, verbose: bool = True) -> TableApi:
    """Return a `nas_201_api.NASBench201API` that reads nasx's compact NAS-Bench-201 table.

    Args:
        path: A table file; None uses the imported table if there is one, otherwise the table included in nasx.
        device: The name of a device with a column `latency.DEVICE` in the table. The official interface then returns
            the latencies on this device, in seconds.
        verbose: Whether to print a line for each call, as the official class does.

    Raises:
        UserError: If the package nas-bench-201 is not installed, or if the table cannot be read or has no latencies on
            `device`.
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
