"""Download files with torchvision into a temporary folder, and move them into place when complete.

A failed or interrupted download leaves no files behind. Partial files left by a killed process are removed by a later
download once they are a day old. The MD5 checksum of an archive is verified before it is unpacked.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import tarfile
import tempfile
import time
import zlib
from pathlib import Path

from nasx.core.files import make_folder, sync_all
from nasx.core.system import sync_folder
from nasx.errors import UserError

TIMEOUT_S = 30
LEFT_S = 86400
"""Age in seconds after which a partial download counts as abandoned; a newer one may belong to another run."""


def fetch(name: str, root: Path, url: str, md5: str, member: str) -> Path:
    """Download `url` and store its `member` (a folder in a .tar.gz, or the file itself) as root/member.

    Returns this path. Raises UserError if the download, the checksum or a write to disk fails.
    """
    from torchvision.datasets.utils import download_url  # slow to import

    archive = url.rsplit("/", 1)[-1]
    target, before = root / member, socket.getdefaulttimeout()
    try:
        make_folder(root)
        remove_old(root)
        folder = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
        try:
            socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets no timeout
            download_url(url, str(folder), filename=archive, md5=md5)
            if archive != member:
                with tarfile.open(folder / archive) as packed:
                    packed.extraction_filter = getattr(tarfile, "data_filter", None)  # new in Python 3.11.4
                    packed.extractall(folder)
            sync_all(folder / member)
            try:
                (folder / member).rename(target)
                sync_folder(root)
            except OSError:
                if not target.exists():  # otherwise another run was faster, and its files were verified too
                    raise
        finally:
            socket.setdefaulttimeout(before)
            shutil.rmtree(folder, ignore_errors=True)
    except (
        OSError,
        RuntimeError,
        RecursionError,
        EOFError,
        tarfile.TarError,
        zlib.error,
        http.client.HTTPException,
    ) as error:
        raise UserError(
            f"dataset={name}",
            f"{archive} could not be downloaded from {url} into {root} (md5 {md5}): "
            f"{type(error).__name__}: {error}; nothing was kept",
            f"get {archive} manually and unpack it so that {target} exists, or set NASX_DATA or dataset.path to "
            f"its folder; offline: use dataset=digits",
        ) from error
    return target


def remove_old(root: Path) -> None:
    """Remove abandoned downloads from `root`."""
    for left in root.glob(".download-*"):
        with contextlib.suppress(FileNotFoundError):  # another run has removed it
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left, ignore_errors=True)
