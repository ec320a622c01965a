"""Location of nasx's configuration files."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """Return nasx's configuration folder: nasx/conf in an installed wheel, conf next to nasx/ in a working copy."""
    here = Path(__file__).resolve().parent.parent
    return next(
        (path for path in (here / "conf", here.parent / "conf") if (path / "search.yaml").is_file()), here / "conf"
    )
