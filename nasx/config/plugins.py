"""Additional configuration folders: `--config-dir`, the folders in NASX_CONFIG_DIR, and those of plugins.

A plugin is an installed distribution with an entry point in the group `nasx.plugins` that names one of its packages:

    [project.entry-points."nasx.plugins"]
    mine = "my_package"

The folder `conf` in that package is a configuration folder, and configurations may name the package's classes without
`allow`, because installing a distribution already means trusting its code. This module does not import the package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from nasx.config import paths, schema
from nasx.core import files
from nasx.errors import UserError

GROUP = "nasx.plugins"
VARIABLE = "NASX_CONFIG_DIR"


@cache
def packages() -> tuple[str, ...]:
    """Return the sorted names of the packages that plugins declare."""
    return tuple(sorted({point.value for point in entry_points(group=GROUP)}))


def _of_plugins() -> Iterator[Path]:
    for package in packages():
        source = schema.locate(package)
        if source is None:
            raise UserError(f"plugin {package}", "is declared as an entry point, but not found", "install it again")
        if (source.parent / "conf").is_dir():
            yield source.parent / "conf"


def user_folders(config_dir: str | None = None) -> list[Path]:
    """Return all configuration folders except nasx's own; `config_dir` is the folder given by `--config-dir`.

    Raises UserError if a folder or a plugin's package does not exist, or if two folders contain a file with the same
    name.
    """
    named = [_there(f"--config-dir {config_dir}", config_dir)] if config_dir else []
    named += [_there(f"{VARIABLE}={text}", text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    found = list(dict.fromkeys([*named, *_of_plugins()]))
    if found:
        _check_duplicates([paths.conf_dir(), *found])
    return found


def _there(where: str, text: str) -> Path:
    if not Path(text).is_dir():
        raise UserError(where, "does not exist", "name a folder of configurations")
    return Path(text).resolve()


def prepend(folder: str) -> None:
    """Insert `folder` at the front of NASX_CONFIG_DIR in this process. Raises UserError if it does not exist."""
    known = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = os.pathsep.join(filter(None, [str(_there(f"--config-dir {folder}", folder)), known]))


def folders(config_dir: str | None = None) -> list[Path]:
    """Return all configuration folders, starting with nasx's own."""
    return [paths.conf_dir(), *user_folders(config_dir)]


def choices(group: str, *among: Path) -> dict[str, Path]:
    """Return choice -> file for a config group, sorted. An experiment in a subfolder is named `FOLDER/NAME`.

    If several folders in `among` (default: `folders()`) contain a file with the same name, the first one is used.
    """
    found: dict[str, Path] = {}
    for folder in among or folders():
        for path in (folder / group).glob("**/*.yaml" if group == "experiment" else "*.yaml"):
            found.setdefault(path.relative_to(folder / group).with_suffix("").as_posix(), path)
    return dict(sorted(found.items()))


def chain(name: str, texts: Mapping[str, str]) -> list[str]:
    """Return a choice, followed by all choices of its group that its file extends through a defaults list."""
    found = [name]
    for each in found:
        listed = (files.parse_yaml(texts[each]) or {}).get("defaults")
        names = [other for other in listed if isinstance(other, str)] if isinstance(listed, list) else []
        found += [other for other in names if other in texts and other not in found]
    return found


def fields(name: str, texts: Mapping[str, str]) -> dict[str, object]:
    """Return the settings in a choice's file and in the files that it extends; its own take precedence."""
    found: dict[str, object] = {}
    for each in reversed(chain(name, texts)):
        found |= files.parse_yaml(texts[each]) or {}  # a damaged file is reported when it is chosen
    found.pop("defaults", None)
    return found


def file(group: str, choice: str, *among: Path) -> Path | None:
    """Return a choice's file in the first folder in `among` (default: `folders()`) that contains it, or None."""
    return next((path for folder in among or folders() if (path := folder / group / f"{choice}.yaml").is_file()), None)


def _check_duplicates(among: list[Path]) -> None:
    """Raise UserError if two folders contain a file with the same name: Hydra would silently read only the first."""
    seen: dict[Path, Path] = {}
    for folder in among:
        for file in sorted(folder.glob("*/**/*.yaml")):
            first = seen.setdefault(file.relative_to(folder), folder)
            if first != folder:
                raise UserError(str(file), f"has the same name as a file in {first}", "rename it")
