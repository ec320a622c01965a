"""A cache of errors: the jobs of a sweep share most of their configuration and read the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nasx.errors import UserError, raised_by


class FaultCache:
    """The errors found so far, by configuration node and by component check."""

    def __init__(self) -> None:
        # nodes are kept alive, so that their `id` is not reused
        self._nodes: dict[object, tuple[object, list[UserError]]] = {}
        self._checks: dict[str, list[UserError]] = {}

    def of_node(
        self, node: object, allowed: tuple[str, ...], find: Callable[[], Iterable[UserError]]
    ) -> list[UserError]:
        """Return the errors that `find` yields for a node, cached by the node's `id` and the allowed packages."""
        key = id(node), allowed
        if key not in self._nodes:
            self._nodes[key] = node, list(find())
        return self._nodes[key][1]

    def of_check(self, key: str, check: Callable[[], None]) -> list[UserError]:
        """Return the errors that `check` raises, cached by `key`, which identifies the inspected files or packages."""
        if key not in self._checks:
            self._checks[key] = raised_by(check)
        return self._checks[key]
