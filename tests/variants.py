"""Every method, and its settings that take other steps: name -> method of conf/method and overrides."""

from __future__ import annotations

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
}
SHORT: dict[str, tuple[str, ...]] = {
    "tse": ("tse", "method.T=3"),
    "tse_drnas": ("tse_drnas", "method.inner.T=3"),
    "darts_pt": ("darts_pt", "method.tune=1", "method.batches=1"),
}
"""Chunks and tuning short enough for tests."""
VARIANTS: dict[str, tuple[str, ...]] = {name: (name,) for name in METHODS} | SHORT | OTHER
