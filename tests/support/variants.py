"""Every method, and settings that change its steps: name -> method in conf/method and overrides.

Configurations are composed on first use, so that test collection composes none.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from nasx.config import paths

METHODS = sorted(file.stem for file in (paths.conf_dir() / "method").glob("*.yaml"))
OTHER: dict[str, tuple[str, ...]] = {
    "darts order=2": ("darts", "method.order=2"),
    "darts first=weights": ("darts", "method.first=weights"),
    "darts clip": ("darts", "method.order=2", "method.clip=true"),
    "idarts difference": ("idarts", "method.products=difference"),
    "idarts released": ("idarts", "method.products=released"),
    "idarts leak": ("idarts", "method.release_leak=true"),
    "single other batch": ("single", "method.mode=same_split_other_batch"),
    "single other split": ("single", "method.mode=other_split"),
    "lambda one-sided": ("lambda", "method.difference=one_sided"),
    "lambda exact": ("lambda", "method.difference=exact"),
    "lambda signed": ("lambda", "method.alignment=signed"),
    "lambda outer": ("lambda", "method.target=outer"),
    "sdarts adversarial": ("sdarts", "method.perturbation=adversarial"),
    "gdas released": ("gdas", "method.gradient=released"),
    "gdas straight through": ("gdas", "method.gradient=straight_through"),
    "tse momentum": ("tse", "method.T=3", "method.restore_momentum=false"),
    "tse exact": ("tse", "method.T=3", "method.gradient=exact"),
}
SHORT: dict[str, tuple[str, ...]] = {
    "tse": ("tse", "method.T=3"),
    "tse_drnas": ("tse_drnas", "method.inner.T=3"),
    "darts_pt": ("darts_pt", "method.tune=1", "method.batches=1"),
}
"""Chunks and tuning that are short enough for tests."""
VARIANTS: dict[str, tuple[str, ...]] = {name: (name,) for name in METHODS} | SHORT | OTHER


@functools.cache
def method_of(name: str, *overrides: str) -> Any:
    """Build the method of conf/method/NAME.yaml as the command line does (on the DARTS space, which all support)."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from nasx.config import instantiate

    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        cfg = compose("search", [f"method={name}", "space=darts", *overrides])
    return instantiate.build(OmegaConf.to_container(cfg.method, resolve=True))


def class_of(name: str) -> Any:
    """Return the class of a variant, from the first `_target_` in its YAML file."""
    from hydra.utils import get_class

    text = (paths.conf_dir() / "method" / f"{VARIANTS[name][0]}.yaml").read_text(encoding="utf-8")
    found = re.search(r"_target_: (\S+)", text)
    assert found is not None
    return get_class(found[1])


class Built(dict[str, Any]):
    """Variant -> method, built on first use."""

    def __missing__(self, name: str) -> Any:
        return self.setdefault(name, method_of(*VARIANTS[name]))


BUILT = Built()


TRAINING = [name for name in VARIANTS if class_of(name).trains]
"""The variants that train a supernet."""


MOVES_NO_ARCHITECTURE = {"random_ws"}
