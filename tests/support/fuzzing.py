"""Mutate valid samples, and watch how parsers handle them.

hypothesis draws the mutation of a sample (cut, doubled, replaced by hostile values), so that a finding has a seed and
can be shrunk. `watched` checks with an audit hook of Python, below everything that a parser can call, that no
code is executed and no file outside a folder is written.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from nasx.errors import UserError

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2,
    10**30,
    -(10**400),
    1e308,
    math.nan,
    math.inf,
    "",
    "x" * 300,
    "\x00",
    "\ud800",
    "../../../etc/x",
    "<script>alert(1)</script>",
    "${oc.env:HOME}",
    [],
    {},
    [[[]]],
    {"_target_": "os.system"},
    {"a": {"b": None}},
]
"""Values that nobody expects."""
TEXTS = [
    "\x00",
    "\n",
    "'",
    '"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "|",
    "~",
    "+",
    "=",
    ",",
    ":",
    "%",
    "#",
    "&",
    "*",
    "!!python/object/apply:os.system [id]",
    "${oc.env:HOME}",
    "${",
    "}",
    "../../",
    "/etc/passwd",
    "<script>",
    "é",
    "\u202e",
    "\ud800",
    "-1",
    "1e999",
    "nan",
    "99999999999999999999",
    "__import__('os').system('id')",
    "_target_",
    "null",
    "x" * 200,
    "\ufeff",
]
"""Parts of texts that mean something to some parser."""


class Escaped(BaseException):
    """Something was executed, or written outside: no handler in the code may swallow this."""


class Target(NamedTuple):
    """What is drawn, and what reads it (it raises nothing but UserError)."""

    draw: Callable[[Path], st.SearchStrategy[Any]]
    feed: Callable[[Path, Any], None]


# ------------------------------------------------------------------------------------------------- the watch
_inside: Path | None = None
_hooked = False
IMPORTED = (
    "torch._dynamo",
    "torch._inductor.codecache",
    "torch.onnx",
    "matplotlib.pyplot",
    "pygraphviz",
    "scipy.stats",
    "nasx.jobs.search",
    "nasx.train.trainer",
    "nasx.cli.info",
    "nasx.cli.export",
    "nasx.cli.evaluate",
    "nasx.cli.diagnose",
    "nasx.cli.whatif",
    "nasx.report.html",
    "nasx.results.compare",
    "nasx.report.cells",
    "nasx.report.curves",
)
EXECUTED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "ctypes.dlopen",
)
CHANGED = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
    "shutil.move",
)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    if event in EXECUTED:
        raise Escaped(f"{event} {args!r:.200}")
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in CHANGED or writes:
        for path in (part for part in args[:2] if isinstance(part, (str, bytes, os.PathLike))):
            place = Path(os.path.realpath(os.fsdecode(path)))
            if (writes and path != args[0]) or place == Path("/dev/null") or "__pycache__" in place.parts:
                continue
            if not place.is_relative_to(_inside):
                raise Escaped(f"{event} {place}")


def warm() -> None:
    """Import what a parser may import, then set the hook: files that imports write (byte code, caches) do not count."""
    global _hooked
    if not _hooked:
        for name in IMPORTED:
            importlib.import_module(name)
        sys.addaudithook(_hook)
        _hooked = True


@contextlib.contextmanager
def watched(root: Path) -> Iterator[None]:
    """In the block, nothing may be executed or written outside `root`, which is the current folder meanwhile."""
    global _inside
    warm()
    before, environment, tempfile.tempdir = Path.cwd(), dict(os.environ), str(root)
    os.chdir(root)
    os.environ["NASX_DATA"] = str(root / "data")
    _inside = root.resolve()
    try:
        yield
    finally:
        _inside = tempfile.tempdir = None
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


@contextlib.contextmanager
def enclosed(tmp_path: Path) -> Iterator[Path]:
    """Make tmp_path/here the current folder; nothing may be executed, and nothing written outside it."""
    root = tmp_path / "here"
    root.mkdir()
    with watched(root):
        yield root
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def fed(target: Target, root: Path, sample: Any) -> None:
    """Feed one sample in its own folder. Raises any finding."""
    with watched(root), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            with contextlib.suppress(UserError):
                target.feed(root, sample)
        finally:
            for path in root.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


# -------------------------------------------------------------------------------------------------- twisting
@st.composite
def mangled(draw: Any, samples: list[Any], tokens: list[Any] | None = None) -> Any:
    """Draw a text (or bytes) from the samples: cut, doubled, joined with parts of others and with hostile tokens."""
    text = draw(st.sampled_from(samples))
    binary = isinstance(text, bytes)
    tokens = tokens or TEXTS
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        what = draw(st.integers(0, 5))
        if what == 0:
            text = text[:start] + text[end:]
        elif what == 1:
            text = text[:start]
        elif what == 2:
            text = text[:end] + text[start:]
        elif what == 3:
            other = draw(st.sampled_from(samples))
            text = text[:start] + other[draw(st.integers(0, len(other))) :]
        elif binary:
            text = text[:start] + draw(st.binary(min_size=1, max_size=4)) + text[start + draw(st.integers(0, 4)) :]
        else:
            token = draw(st.sampled_from(tokens) | st.text(max_size=4))
            text = text[:start] + token + text[end:]
    return text


@st.composite
def twisted(draw: Any, samples: list[Any]) -> Any:
    """Draw a tree from the samples with some of its parts replaced, removed, added, renamed or wrapped."""
    tree = [copy.deepcopy(draw(st.sampled_from(samples)))]
    for _ in range(draw(st.integers(0, 4))):
        node: Any = tree
        key: Any = 0
        while isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 9)) < 8:
            node = node[key]
            key = draw(st.sampled_from(sorted(node, key=str) if isinstance(node, dict) else range(len(node))))
        what = draw(st.integers(0, 5))
        if what == 0 and node is not tree:
            del node[key]
        elif what == 1:
            node[key] = [node[key]]
        elif what == 2 and isinstance(node, dict):
            node[draw(st.sampled_from(["", "../x", "<u>", "x" * 80, "\x00"]))] = node[key]
        elif what == 3 and isinstance(node[key], str):
            node[key] = draw(mangled([node[key]]))
        else:
            node[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return tree[0]


def as_json(value: Any) -> bytes:
    """Return JSON as a careless or hostile writer would write it: NaN, surrogates and all."""
    return json.dumps(value).encode()
