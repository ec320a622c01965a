"""Downloads: by torchvision's functions, into a temporary folder, moved into place only when complete.

A download that fails or is interrupted leaves nothing; what a kill leaves is removed by a download of another day. The
archive's md5 is checked before it is unpacked.
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

from nasx.core.files import make_folder, sync, sync_all
from nasx.errors import UserError

TIMEOUT_S = 30
LEFT_S = 86400
"""Half a download that has not changed for so long was left by a kill; a younger one may be another run's."""


def fetch(name: str, root: Path, url: str, md5: str, member: str) -> Path:
    """Download `url` and put its `member` (a folder of a .tar.gz, or the file itself) at root/member.

    Raises UserError with root, file, address and md5 where there is no network, a wrong checksum or no space.
    """
    from torchvision.datasets.utils import download_url  # 5 s: only where needed

    archive = url.rsplit("/", 1)[-1]
    target, before = root / member, socket.getdefaulttimeout()
    try:
        make_folder(root)
        remove_old(root)
        folder = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
        try:
            socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets none: a silent server would hang the run
            download_url(url, str(folder), filename=archive, md5=md5)
            if archive != member:
                unpack(folder / archive, folder)
            sync_all(folder / member)
            try:
                (folder / member).rename(target)
                sync(root)
            except OSError:
                if not target.exists():  # else another run was quicker, and its files are checked like ours
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
            f"get {archive} by other means and unpack it so that {target} exists, or name the folder that has it by "
            f"NASX_DATA or dataset.path; offline: use dataset=digits",
        ) from error
    return target


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar archive of plain files and folders below `folder`. Raises UserError where it holds anything else."""
    with tarfile.open(path) as packed:
        for entry in packed.getmembers():
            inside = (folder / entry.name).resolve().is_relative_to(folder.resolve())
            if not inside or not (entry.isreg() or entry.isdir()):
                raise UserError(
                    str(path),
                    f"holds {entry.name}, which is no plain file below its folder",
                    "it is not the published archive: remove it",
                )
        filtered = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in every Python 3.11
        packed.extractall(folder, **filtered)  # type: ignore[arg-type]


def remove_old(root: Path) -> None:
    """Remove what killed downloads have left in `root`."""
    for left in root.glob(".download-*"):
        with contextlib.suppress(FileNotFoundError):  # another run is at it
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left, ignore_errors=True)
