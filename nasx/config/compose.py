"""In-memory composition of configurations by Hydra, with every error raised as a UserError."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nasx.config import commands, experiments, paths, plugins, sweeps
from nasx.core import files
from nasx.core.plain import Config
from nasx.errors import UserError


class BoundedFileSource(FileConfigSource):
    """A Hydra file source that rejects files that expand beyond the limits of `files.compose_yaml`.

    Each file is parsed once per process, and again if it has changed.
    """

    parsed: ClassVar[dict[tuple[object, ...], tuple[Any, dict[str, str | None]]]] = {}
    """(path, modification time, size, inode) of a file -> its plain values and its header."""

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the files or subfolders of a folder; for `experiment`, all choices, including those in subfolders."""
        if config_path != "experiment":
            return super().list(config_path, results_filter)
        return [] if results_filter is ObjectType.GROUP else [*plugins.choices(config_path, Path(self.path))]

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if not path.is_file():
            return super().load_config(config_path)
        found = path.stat()
        key = (path, found.st_mtime_ns, found.st_size, found.st_ino)
        if key not in self.parsed:
            files.compose_yaml(path.read_text(encoding="utf-8"))
            result = super().load_config(config_path)
            values = OmegaConf.to_container(result.config)
            if config_path.startswith("experiment/") and isinstance(values, dict):
                values.pop("meta", None)  # the description: see experiments.py
            self.parsed[key] = values, result.header
        values, header = self.parsed[key]
        place = f"{self.scheme()}://{self.path}"
        return ConfigResult(provider=self.provider, path=place, config=OmegaConf.create(values), header=dict(header))


class UserFolders(SearchPathPlugin):
    """A Hydra plugin that adds the folders in NASX_CONFIG_DIR and those of nasx's plugins to the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plugins.user_folders():
            search_path.append("nasx-user", f"file://{folder}")


def register() -> None:
    """Register `BoundedFileSource` and `UserFolders` with Hydra, and set the seeds of Optuna's samplers."""
    found = Plugins.instance()  # registers Hydra's own sources
    sweeps.seed_samplers()
    SourcesRegistry.instance().types["file"] = BoundedFileSource
    if UserFolders not in found.discover(SearchPathPlugin):
        found.register(UserFolders)


class Resolved(NamedTuple):
    """A resolved configuration without the section `hydra`, and the chosen group files."""

    cfg: dict[str, Any]
    choices: dict[str, Any]


class Loader(ConfigLoaderImpl):
    """A Hydra config loader that raises UserError for every file and override that cannot be composed."""

    config_dir: str | None = None
    """The folder given by --config-dir."""

    def base_config(self, command: str, cfg: DictConfig, texts: Sequence[str]) -> Callable[[], DictConfig] | None:
        """Return a function that composes only nasx's own files, with the launcher and sweeper of `cfg`.

        None if there are no other configuration folders.
        """
        if not plugins.user_folders(self.config_dir) and not any("hydra.searchpath" in text for text in texts):
            return None
        chosen = [
            f"{group}={choice}"
            for group, choice in cfg.hydra.runtime.choices.items()
            if choice is not None
            and (group.startswith("hydra/") or (group == "launch" and plugins.file(group, choice, paths.conf_dir())))
        ]
        return partial(_ours, command, tuple(chosen))

    _kept: tuple[object, DictConfig] | None = None
    """Arguments and result of the last composition, kept until the next call."""

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *flags: bool, **named: bool
    ) -> DictConfig:
        """Compose a configuration, or return the result of the previous call if it had the same arguments.

        Raises UserError.
        """
        given = (config_name, tuple(overrides), run_mode)
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == given:
            return kept[1]
        try:
            cfg = super().load_configuration(config_name, overrides, run_mode, *flags, **named)
        except UserError:
            raise
        except (HydraException, OmegaConfBaseException) as error:
            raise translate(error) from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            where = f"{mark.name}, line {mark.line + 1}" if mark else "configuration"
            said = getattr(error, "problem", None) or str(error)
            raise UserError(where, f"is not valid YAML ({said})", "correct the file") from error
        except Exception as error:
            raise UserError(
                "configuration",
                f"cannot be composed ({type(error).__name__}: {error})",
                "correct the file or the override that causes this",
            ) from error
        self._kept = given, cfg
        return cfg

    def compose(self, command: str, overrides: Sequence[str]) -> Resolved:
        """Return the resolved configuration for a command line, and the chosen group files. Raises UserError."""
        return resolved(self.load_configuration(command, list(overrides), RunMode.RUN))


@cache
def _ours(command: str, chosen: tuple[str, ...]) -> DictConfig:
    return make_loader().load_configuration(command, list(chosen), RunMode.RUN)


def make_loader(config_dir: str | None = None) -> Loader:
    """Create a Hydra config loader for all configuration folders. Raises UserError as `plugins.user_folders` does."""
    version.setbase("1.3")
    register()
    plugins.user_folders(config_dir)
    path = create_config_search_path(str(paths.conf_dir()))
    if config_dir is not None:
        path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="schema"))
    loader = Loader(path)
    loader.config_dir = config_dir
    return loader


def resolved(cfg: DictConfig) -> Resolved:
    """Resolve a composed configuration. Raises UserError for an interpolation that cannot be resolved."""
    choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return Resolved(mapping(own, resolve=True), {str(key): value for key, value in choices.items()})


def mapping(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """Return the plain values of a configuration. Raises UserError for an interpolation that cannot be resolved."""
    try:
        values = OmegaConf.to_container(cfg, resolve=resolve)
    except (OmegaConfBaseException, ValueError) as error:
        raise translate(error) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def published(command: str, choices: Config, cfg: Config, config_dir: str | None) -> Config:
    """Return the configuration that results from `choices` alone: the values in their files and in a pair's file.

    An experiment among the choices is included if it is published. Top-level keys (seed, out, from, ...) keep the
    values in `cfg`.
    """
    chosen = [f"{group}={choices[group]}" for group in commands.GROUPS if choices.get(group)]
    values = _of_files(command, (*chosen, *experiments.published(choices, config_dir)), config_dir)
    return {key: value if key in commands.GROUPS else cfg.get(key) for key, value in values.items()}


@lru_cache(maxsize=64)
def _of_files(command: str, chosen: tuple[str, ...], config_dir: str | None) -> Config:
    """Compose the chosen files; the jobs of a sweep share the result."""
    return make_loader(config_dir).compose(command, chosen).cfg


def translate(error: Exception) -> UserError:
    """Convert a Hydra or OmegaConf error to a short UserError, without Hydra's advice to add a key."""
    known = sweeps.missing_plugin(str(error))
    if known is not None:
        return known
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    source = cause or error
    lines = [line.strip() for line in str(source).splitlines() if line.strip()]
    lines = [line for line in lines if not re.search(r"use \+|To append|object_type=|full_key:|HYDRA_FULL_ERROR", line)]
    key = getattr(source, "full_key", None)
    return UserError(
        str(key or "configuration"),
        (lines or ["cannot be composed"])[0].rstrip("."),
        " ".join(lines[1:3]) or "correct the file or the override that sets it",
    )


def options(loader: Loader, group: str) -> list[str]:
    """Return the sorted choices of a group."""
    return sorted(loader.get_group_options(group, ObjectType.CONFIG))
