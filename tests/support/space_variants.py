"""Every space of conf/space and variants of it, built as by the command line, but smaller."""

from __future__ import annotations

import functools
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nasx.config import instantiate, paths

SPACES = sorted(file.stem for file in (paths.conf_dir() / "space").glob("*.yaml"))
VARIANTS: dict[str, tuple[str, ...]] = dict.fromkeys(SPACES, ()) | {
    "amended_s2 pruned": ("space.edges=pruned",),
    "amended_s2 searched": ("space.edges=searched",),
    "darts pc": ("space.partial=4", "space.edge_norm=true"),
    "nb201 pc": ("space.partial=4", "space.edge_norm=true"),
    "darts imagenet": ("space.stem=imagenet",),
}
TEXT = {"darts_rnn"}
"""Spaces whose networks read text: tests for images only have their counterparts in test_recurrent_space.py."""
IMAGES = [name for name in VARIANTS if name not in TEXT]


@functools.cache
def composed(name: str) -> dict[str, Any]:
    """Return the configuration of a search on a space, without pair deltas (which may change the space)."""
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        cfg = compose("search", [f"space={name.split()[0]}", "~pair", *VARIANTS[name]])
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def full(name: str, **changes: object) -> Any:
    return instantiate.build({**composed(name)["space"], **changes})


def tiny(name: str) -> Any:
    """Return the space with a supernet of few layers and channels; its architecture parameters keep their kinds."""
    fields = composed(name)["space"]
    layers = {"nb201": 1, "nb1shot1": 3}.get(fields["_target_"].split(".")[2], 4)
    depth = {"layers": layers} if "layers" in fields else {}
    return full(name, **depth, channels=max(4, 2 * fields.get("partial", 1)))


def size(name: str) -> int:
    return 64 if "imagenet" in name else 16
