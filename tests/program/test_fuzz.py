"""Every parser under its fuzzer for a moment; tests/stress/fuzz.py runs for any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuzzing
import pytest
from fuzz_targets import TARGETS
from fuzzing import Escaped, Target, fed
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nasx.errors import UserError

SLOW = {"yaml": 4, "plans": 4, "overrides": 4, "record": 4, "report": 1, "words": 8, "nb201": 10}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.sample(4)
def test_only_user_errors(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    @seed(0)
    @settings(
        max_examples=SLOW.get(name, 40),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.draw(tmp_path))
    def feed(sample: Any) -> None:
        fed(target, tmp_path, sample)

    feed()


def nothing(root: Path) -> st.SearchStrategy[Any]:
    return st.none()


@pytest.mark.parametrize(
    "act",
    [
        lambda outside: __import__("os").system("true"),
        lambda outside: __import__("subprocess").run(["true"], check=False),
        lambda outside: (outside / "x").write_text("x"),
        lambda outside: (outside / "x").mkdir(),
        lambda outside: (outside / "there").unlink(),
        lambda outside: (outside / "there").rename(outside / "gone"),
        lambda outside: Path("link").symlink_to(outside) or Path("link/x").write_text("x"),
    ],
)
def test_the_watch_sees_what_is_executed_and_written_outside(act: Any, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "there").touch()
    with pytest.raises(Escaped):
        fed(Target(nothing, lambda root, sample: act(outside)), root, None)
    assert [path.name for path in outside.iterdir()] == ["there"]


def test_the_watch_lets_a_parser_work_inside(tmp_path: Path) -> None:
    def work(root: Path, sample: Any) -> None:
        (root / "x").mkdir()
        (root / "x" / "y").write_text("z")
        raise UserError("x", "is refused")

    fed(Target(nothing, work), tmp_path, None)
    assert not list(tmp_path.iterdir())
    assert fuzzing._inside is None
