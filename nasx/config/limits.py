"""Upper bounds that depend on the dataset, before torch is imported: cutout and batch by its images and the memory.

Those of a setting alone stand in its annotation (nasx/config/settings.py), those of a dataset's settings in its
`check()`. Where only the files of a dataset show the size of its images, the same bounds are checked when it is
opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nasx.core.plain import Config
from nasx.data import bounds
from nasx.errors import UserError


def faults(cfg: Config, dataset: object, groups: Sequence[str]) -> Iterator[UserError]:
    """Yield the settings of these groups that are too large for the images of a dataset."""
    shape: tuple[int, ...] | None = getattr(dataset, "known_shape", lambda: None)()
    if shape is None:
        return
    for group in groups:
        node = cfg.get(group) or {}
        yield from bounds.faults(shape, group, cutout=node.get("cutout") or 0, batch=node.get("batch") or 0)
