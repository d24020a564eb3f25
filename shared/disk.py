"""Local disks: enough room, and writes that are whole and survive a crash."""

import os
import shutil
import tempfile
from pathlib import Path

from .errors import Unavailable

PART = ".part-"
PROBE = bytes(4096)


def check_room(folder: Path, *, min_free_bytes: int) -> None:
    """Raises Unavailable unless the folder's disk has this much room and takes a synced block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free >= min_free_bytes:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=PART) as probe:
                probe.write(PROBE)
                probe.flush()
                os.fsync(probe.fileno())
            return
    except OSError as error:
        raise Unavailable(f"cannot write to {folder}: {error.strerror}; free some space or make it writable") from error
    raise Unavailable(
        f"the disk of {folder} has {free} bytes of room, less than SYNTHCLONE_MIN_FREE_BYTES={min_free_bytes}; "
        "free some space"
    )


def write_whole(path: Path, data: bytes) -> None:
    """All of the data under its name, or nothing at all; it survives a crash right after."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART, delete=False) as part:
        try:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
            os.replace(part.name, path)
        except OSError:
            Path(part.name).unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A rename survives power loss only when its folder was synced too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
