"""Hydra application for one command: run jobs without Hydra's command line, or print Hydra's own output."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from nasx.config import compose, paths

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nasx.cli.arguments import Line


@contextlib.contextmanager
def application(loader: compose.Loader) -> Iterator[Hydra]:
    """Yield Hydra without its command line, which would compose twice, print errors itself and exit with 1.

    Errors from Hydra and OmegaConf are raised as UserError.
    """
    with _errors():
        app = Hydra("nasx", loader)
        GlobalHydra.instance().initialize(app)
        try:
            yield app
        finally:
            GlobalHydra.instance().clear()


def show(command: str, line: Line, task: Callable[[DictConfig], object]) -> None:
    """Print Hydra's output for a line without running jobs: --cfg, --info, --hydra-help, completion candidates."""
    sys.argv = ["nasx", *line.options, *line.overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    compose.register()
    # Python 3.14 requires help texts to be strings; Hydra passes an object that composes its text when displayed.
    argparse.HelpFormatter._get_help_string = lambda self, action: action.help and str(action.help)  # type: ignore
    with _errors():
        hydra.main(config_path=str(paths.conf_dir()), config_name=command, version_base="1.3")(task)()


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.translate(error) from error
