"""The user's own code that a run executes: components outside nasx, and the SHA-256 hashes of their source files.

A component is the user's own if its `_target_` names a package other than nasx, even if it is nested in a component of
nasx. Its code consists of the module named by `_target_` and all modules of the same package that it imports, directly
or indirectly; they are read without being imported. Imports at run time (importlib) are not followed.

The code is not part of a run's identity. It is recorded with the environments of the run (`starts`), so that nasx can
warn if a run continues, or its result is shown again, with different code. Tables mark rows that mix code versions.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import traceback
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from nasx.config import schema
from nasx.errors import named

Code = dict[str, str]
"""Source file, relative to the folder that contains its package (`mine/signed.py`) -> SHA-256."""
SHORT = 8
"""Number of digits of a hash to show."""
_imported: WeakKeyDictionary[type, Code] = WeakKeyDictionary()
"""Class -> its code when first built: a process keeps using the imported code even if the files are edited."""


def components(node: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, `_target_`) for each component outside nasx."""
    if not isinstance(node, Mapping):
        return
    target = str(node.get("_target_", "nasx."))
    if not target.startswith("nasx."):
        yield place, target
    for key, value in node.items():
        yield from components(value, f"{place}.{key}" if place else str(key))


def recorded(cfg: Mapping[str, object]) -> Code:
    """Return the code of all components of `cfg` that are outside nasx; empty if there are none."""
    found: Code = {}
    for _, target in components(cfg):
        module, _, name = target.rpartition(".")
        built = getattr(sys.modules.get(module), name, None)
        known = _imported.get(built) if isinstance(built, type) else None
        found |= hashes(module) if known is None else known
    return dict(sorted(found.items()))


def remember(built: type, module: str) -> None:
    """Record the code of a class that has just been imported from `module`."""
    if built not in _imported:
        _imported[built] = hashes(module)


def hashes(module: str) -> Code:
    """Return the code of a module, including all modules of its package that it imports, directly or indirectly."""
    package, todo, seen, found = module.partition(".")[0], [module], set[str](), Code()
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] != package:
            continue
        seen.add(name)
        path = schema.locate(name)
        if path is None:  # a name inside a module, or a package without __init__.py
            continue
        data = path.read_bytes()
        found[short_path(name, path)] = hashlib.sha256(data).hexdigest()
        todo += [name.rpartition(".")[0], *_imports(data, name)]
    return found


def _imports(source: bytes, module: str) -> Iterator[str]:
    """Yield the names of all modules that a source file may import; nothing if it is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = schema.absolute(node, module)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def short_path(module: str, path: str | Path) -> str:
    """Return the path of a module's file relative to the folder that contains its package."""
    own = Path(path)
    return Path(*own.parts[-(module.count(".") + 1 + (own.stem == "__init__")) :]).as_posix()


class Raised(NamedTuple):
    """The origin of an exception (module, function, `mine/signed.py:18`) and its text (`KeyError: 'cell'`)."""

    module: str
    function: str
    line: str
    text: str


def raised(error: BaseException, packages: Collection[str]) -> Raised | None:
    """Return the innermost line of an exception's traceback that is in one of `packages`; None if there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] in packages:
            place = f"{short_path(module, frame.f_code.co_filename)}:{line}"
            return Raised(module, frame.f_code.co_name, place, named(error))
    return None


def fault(
    error: BaseException, cfg: Mapping[str, object], choices: Mapping[str, object], at: str
) -> tuple[str, str] | None:
    """Return the user's component that raised an exception, and a description; None if no such component raised it.

    `at` states the position in the run, for example ` at update 6`.
    """
    own = list(components(cfg))
    found = raised(error, {target.partition(".")[0] for _, target in own})
    if found is None:
        return None
    places = [place for place, target in own if target.rpartition(".")[0] == found.module]
    where = f"{places[0]} {choices.get(places[0]) or ''}".rstrip() if len(places) == 1 else f"module {found.module}"
    return where, f"raised {found.text} in {found.function}{at} ({found.line})"


def changed(before: object, now: Code) -> list[str]:
    """Return the files that differ between the recorded code `before` and `now`; empty if no code was recorded."""
    if not isinstance(before, Mapping) or not before:
        return []
    return sorted(file for file in before.keys() | now.keys() if before.get(file) != now.get(file))


def changed_since(record: Mapping[str, object], now: Code) -> str:
    """Return a warning if the code has changed since the run with this record finished, else an empty string."""
    starts = record.get("starts")
    last = starts[-1] if isinstance(starts, list) and starts else None
    files = changed(last.get("code") if isinstance(last, Mapping) else None, now)
    remedy = "to run the new code, choose another name=..., or delete the folder"
    return f"{', '.join(files)} changed after this result was computed; {remedy}" if files else ""


def labels(starts: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """Return the distinct labels (`mine/signed.py 3f2a9c1b`) of all code files recorded in the `starts` of a run."""
    codes = [code for start in starts if isinstance(code := start.get("code"), Mapping)]
    return tuple(sorted({f"{file} {str(digest)[:SHORT]}" for code in codes for file, digest in code.items()}))


def mixed(codes: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the files that appear in more than one version among the `labels` of several runs."""
    versions: dict[str, set[str]] = defaultdict(set)
    for file, digest in (label.rpartition(" ")[::2] for code in codes for label in code):
        versions[file].add(digest)
    return tuple(sorted(file for file, found in versions.items() if len(found) > 1))
