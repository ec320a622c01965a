"""The cache of torch's compiler after a kill."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from nasx.tracking import compiled

LIBRARIES = sorted(Path(sysconfig.get_config_var("DESTSHARED") or "/none").glob("*.so"))


def empty(content: bytes) -> bytes:
    return b""


def without_header(content: bytes) -> bytes:
    return bytes(64) + content[64:]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.skipif(not LIBRARIES, reason="this Python has no shared libraries")
@pytest.mark.parametrize("damage", [empty, without_header, cut])
def test_a_library_that_a_killed_compiler_left_is_removed(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    whole = LIBRARIES[0].read_bytes()
    if whole[:4] != b"\x7fELF" and damage is not empty:
        pytest.skip("only ELF headers are read")
    for name, content in (("ca/cab.main.so", whole), ("cb/cba.main.so", damage(whole)), ("cb/cbb.o", damage(whole))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / "cbb.lock"):  # another process compiles this one
        compiled.keep_compiled()
    assert [path.name for path in sorted(tmp_path.glob("c*/*"))] == ["cab.main.so", "cbb.o"]
    compiled.keep_compiled()
    assert [path.name for path in sorted(tmp_path.glob("c*/*"))] == ["cab.main.so"]
