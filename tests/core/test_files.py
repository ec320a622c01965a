"""The atomic writer: complete files, no writes through links, no files left by killed writers; and bounded YAML."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from composing import faults

from nasx.benchmarks import store
from nasx.cli import diagnose, report, status, table
from nasx.core import files, system
from nasx.data import survey
from nasx.errors import UserError
from nasx.report import cells, figure_style
from nasx.tracking import lock, run_folder

IDENTITY, EXTRA = {"seed": 0}, {"kind": "search", "choices": {"method": "darts"}, "identity": "0"}
PART = ".nasx-0123456789abcdef.part"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What must stay as it is."""
    path = tmp_path / "victim"
    path.write_text("mine")
    return path


def cleaned() -> None:
    """As in a new process."""
    files._cleaned.clear()


# ------------------------------------------------------------------------------------------------- whole files
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The order in which files are synced and renamed."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def syncs(handle: int) -> None:
        seen.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def renames(old: Path, new: Path) -> None:
        seen.append(("replace", Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(os, "replace", renames)
    return seen


@pytest.mark.unix
def test_a_file_is_synced_before_its_name_and_the_name_with_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calls(monkeypatch)
    files.write_atomic(tmp_path / "new" / "inner" / "x", "text")
    names = [(what, "part" if files.TEMPORARY.fullmatch(name) else name) for what, name in seen]
    assert names == [
        ("fsync", tmp_path.name),
        ("fsync", "new"),
        ("fsync", "part"),
        ("replace", "x"),
        ("fsync", "inner"),
    ]
    assert (tmp_path / "new" / "inner" / "x").read_text() == "text"


WRITERS: dict[str, Callable[[Path], object]] = {
    "picture.svg": lambda path: figure_style.write(path, {"svg": lambda: b"<svg></svg>"}),
    "picture.png": lambda path: figure_style.save(figure_style.figure(1, 1), path),
    "table.tex": lambda path: files.write_atomic(path, "text"),
    "large.npz": lambda path: survey.keep(path, x=survey.np.zeros(3)),
    "log.txt": lambda path: files.stream(path).close(),
    "metrics.jsonl": lambda path: files.append(path, "{}\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_leaves_what_a_link_names(
    name: str, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)  # even where the name is known
    (tmp_path / name).symlink_to(victim)
    (tmp_path / f".nasx-{'0' * 16}.part").symlink_to(victim)
    for old in (f"{name}.part", f".{name}.part"):
        (tmp_path / old).symlink_to(victim)
    with contextlib.suppress(UserError, OSError):
        WRITERS[name](tmp_path / name)
    assert victim.read_text() == "mine"


YAML = ("yaml.load", "yaml.safe_load", "yaml.compose", "yaml.full_load", "OmegaConf.load")


def test_no_module_writes_by_itself() -> None:
    """All writing and all reading of YAML goes through core/files.py; downloads and locks of tables open
    their own."""
    own = {
        "core/files.py",
        "core/system.py",
        "tracking/lock.py",
        "jobs/launch.py",
        "data/fetch.py",
        "benchmarks/download.py",
        "benchmarks/store.py",
        "report/cells.py",
        "spaces/published.py",
    }
    wrong = []
    package = Path(files.__file__).parents[1]
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name in own:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, text = ast.unparse(node.func), ast.unparse(node)
            mode = "".join(
                str(x.value)
                for x in [*node.args, *(k.value for k in node.keywords)]
                if isinstance(x, ast.Constant) and isinstance(x.value, str)
            )
            opens = (called == "open" or called.endswith(".open")) and set(mode) & set("wax+")
            writes = called.endswith(
                (
                    ".write_text",
                    ".write_bytes",
                    ".mkdir",
                    ".symlink_to",
                    ".hardlink_to",
                    "os.rename",
                    "os.replace",
                    "os.open",
                    "open_file",
                    "mkstemp",
                    "mkdtemp",
                )
            )
            if (opens or writes or called in YAML) and "os.devnull" not in text:
                wrong.append(f"{name}:{node.lineno} {called}")
    assert not wrong


# --------------------------------------------------------------------------------------------- what was killed
def test_what_a_killed_writer_has_left_goes_and_what_a_live_one_holds_stays(tmp_path: Path) -> None:
    left, held = tmp_path / PART, tmp_path / PART.replace("0", "9")
    others = [tmp_path / name for name in (".nasx-0.part", "nasx.part", ".x.part", ".nasx-0123456789ABCDEF.part")]
    for path in (left, held, *others):
        path.write_text("half")
    (tmp_path / PART.replace("1", "2")).symlink_to(others[0])
    with held.open() as file:
        system.lock_file(file.fileno())
        cleaned()
        files.write_atomic(tmp_path / "x", "whole")
        assert not left.exists()
        assert held.exists()
    assert all(path.read_text() == "half" for path in others)
    cleaned()
    files.write_atomic(tmp_path / "x", "whole")
    assert not held.exists()


def test_writers_and_cleaners_at_once_lose_nothing(tmp_path: Path) -> None:
    """Those who clean may take a temporary file in the moment before it is locked; its writer begins again."""
    faults: list[BaseException] = []

    def writes(name: str) -> None:
        try:
            for i in range(60):
                files.write_atomic(tmp_path / name, f"{name} {i}")
                cleaned()
        except BaseException as error:  # noqa: BLE001 (told by the test)
            faults.append(error)

    threads = [threading.Thread(target=writes, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]
    assert (tmp_path / "a").read_text() == "a 59"


def test_a_temporary_file_that_was_taken_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, taken = os.fsync, []

    def takes(handle: int) -> None:
        whole(handle)
        if not taken:
            [part] = tmp_path.glob(".nasx-*")
            part.unlink()
            taken.append(part)

    monkeypatch.setattr(os, "fsync", takes)
    files.write_atomic(tmp_path / "x", "text")
    assert taken
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_failure_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match="free some space"):
        files.write_atomic(tmp_path / "new" / "inner" / "x", "text")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- run folders
def test_no_folder_of_a_run_is_reached_through_a_link(tmp_path: Path) -> None:
    aim = tmp_path / "aim"
    (aim / "checkpoints").mkdir(parents=True)
    (aim / "checkpoints" / ".half.part").write_text("another's")
    for name, link in (("run", tmp_path / "run"), ("own", tmp_path / "own" / "checkpoints")):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(aim if name == "run" else aim / "checkpoints")
        with pytest.raises(
            UserError, match=r"is a symbolic link; nasx does not write through links here; remove the link"
        ):
            run_folder.Run(tmp_path / name, IDENTITY, EXTRA)
    assert (aim / "checkpoints" / ".half.part").read_text() == "another's"
    assert sorted(path.name for path in aim.iterdir()) == ["checkpoints"]
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        run_folder.Run(tmp_path / "dangling", IDENTITY, EXTRA)
    with pytest.raises(UserError, match="is a symbolic link"):
        cells.draw_epochs({}, tmp_path / "run")


@pytest.mark.parametrize(
    "how", ["link", "second name", "another's", pytest.param("pipe", marks=pytest.mark.unix), "folder"]
)
def test_a_lock_is_taken_in_a_file_of_its_own_alone(how: str, tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "lock"
    {
        "link": lambda: path.symlink_to(victim),
        "second name": lambda: os.link(victim, path),
        "another's": lambda: path.write_text("mine"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[how]()
    with pytest.raises(UserError, match=r"lock: (is a symbolic link|is not a nasx lock file|cannot be written)"):
        lock.Lock(folder)
    assert victim.read_text() == "mine"
    assert how != "another's" or path.read_text() == "mine"
    assert lock.holder(folder) is None
    assert status.state(folder, tmp_path, 0).state == "not begun"


@pytest.mark.parametrize("text", [b"\0" * 40, b"", b"pro", b"process 1", b"process 1 on host\n", b"proc" + b"\0" * 40])
def test_a_lock_that_a_power_loss_has_torn_is_free(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(text)
    lock.Lock(tmp_path).close()


def test_a_folder_of_another_program_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.yaml").write_text("key: precious\n")
    with pytest.raises(UserError, match=r"holds a config\.yaml, but is not the folder of a run"):
        run_folder.Run(tmp_path / "app", IDENTITY, EXTRA)
    assert (tmp_path / "app" / "config.yaml").read_text() == "key: precious\n"
    assert len(list((tmp_path / "app").iterdir())) == 1


# ----------------------------------------------------------------------------------------------------- YAML
LEVELS = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
]
MERGES = ["m0: &m0 {x: 1, y: 2}"] + [
    f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}], z{i}: 1}}" for i in range(1, 10)
]
BOMBS = {
    "aliases": "\n".join(LEVELS),
    "merges": "\n".join(MERGES),
    "a node within itself": "a: &a [*a]",
    "long": "a: " + "x" * (1 << 23),
    "wide": "a: [" + "1," * 200_000 + "]",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.sample(3)
def test_a_yaml_that_stands_for_too_much_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        files.load_yaml(BOMBS[name])
    (tmp_path / "config.yaml").write_text(BOMBS[name])
    assert files.read_yaml(tmp_path / "config.yaml") is None


def test_aliases_and_merges_are_read_as_yaml_has_them() -> None:
    text = "base: &b {x: 1, y: [2]}\nown: {<<: *b, y: 3}\nagain: *b\nempty:\n"
    assert files.load_yaml(text) == yaml.safe_load(text)
    assert files.load_yaml("") is None


def test_readers_of_foreign_runs_bear_a_bomb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finished import writer

    folder = writer(tmp_path)()
    (folder / "config.yaml").write_text(BOMBS["aliases"])
    (folder / "genotype.txt").write_text("x")
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "mix": {"edges": [[0.5, 0.5]]}}\n')
    monkeypatch.chdir(tmp_path)
    assert report.main(["runs"]) == 0
    assert "darts" in table.main({"out": "runs"})
    with pytest.raises(UserError, match="is not a setting of these runs"):
        table.main({"out": "runs", "filter": ["search.lr:1"]})
    assert status.main(["runs"]) == 0
    with pytest.raises(UserError, match="is not the folder of a search"):
        list(diagnose.diagnose(folder))
    assert store.MAX_BYTES


def test_the_users_own_configurations_are_bounded(tmp_path: Path) -> None:
    for group, name in (("experiment", "aliases"), ("space", "merges")):
        (tmp_path / group).mkdir()
        (tmp_path / group / "own.yaml").write_text(f"# @package _global_\n{BOMBS[name]}\n")
        [found] = faults(f"{group}=own", "dataset=digits", config_dir=tmp_path)
        assert "is not valid YAML (its aliases expand to more than" in found
