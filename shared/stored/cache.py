"""Shards on this machine's disk, shared by all that read them here: the least recently used make room."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from shared.disk import write_whole
from shared.errors import Rejected, Unavailable

USERS, LOCKS = "users", "locks"


class Shard(Protocol):
    """What names a file of the cache: a dataset's shard by its manifest, or one of a real set by the register."""

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


class ShardCache:
    """Files are named by the sha256 of what is in them.

    A reader says once what it reads (`hold`); until it lets go or ends nobody deletes that. Locks are the kernel's
    (flock), so a killed process holds none.
    """

    def __init__(self, folder: Path, *, min_free_bytes: int) -> None:
        # Twice what a trainer pauses at: others write meanwhile, and a paused trainer would never make room.
        self.folder, self._kept_free = folder, 2 * min_free_bytes
        self._held: list[FileLock] = []
        self._wanted: dict[str, int] = {}  # of all that this process holds
        try:
            for name in (USERS, LOCKS):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def hold(self, shards: Sequence[Shard]) -> None:
        """Keep these, and make room for those that are missing. Raises Rejected when the disk is too small for all of
        them, Unavailable while other jobs need the room."""
        with FileLock(self.folder / LOCKS / "room.lock"):
            wanted = {shard.sha256: shard.bytes for shard in shards}
            self._write_user(wanted)
            self._wanted |= wanted
            self._refuse_if_too_small(sum(self._wanted.values()))
            used = self._in_use()
            missing = {sha256: size for sha256, size in used.items() if not self._is_whole(sha256, size)}
            if missing.keys().isdisjoint(wanted):
                return
            # What others hold and have yet to download is as good as written.
            self._make_room(sum(missing.values()) + self._kept_free, used)

    def let_go(self) -> None:
        """Others may delete what was held; for a process that goes on with other work."""
        for lock in self._held:
            lock.release()
        self._held.clear()
        self._wanted.clear()

    def _make_room(self, needed: int, used: Collection[str]) -> None:
        for file in sorted(self.folder.glob("*.tar"), key=lambda file: file.stat().st_mtime):
            if shutil.disk_usage(self.folder).free >= needed:
                return
            if file.stem not in used:
                file.unlink(missing_ok=True)
                self._lock_of(file).unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise Unavailable(
                f"{self.folder} needs {needed:,} bytes of room and has {free:,}; "
                "other jobs on this machine use the rest"
            )

    def has(self, shard: Shard) -> bool:
        return self._is_whole(shard.sha256, shard.bytes)

    def _is_whole(self, sha256: str, size: int) -> bool:
        file = self.folder / f"{sha256}.tar"
        return file.is_file() and file.stat().st_size == size

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def get(self, shard: Shard, download: Callable[[], bytes]) -> Path:
        """The shard's file; of several readers that miss it, one downloads."""
        file = self.path(shard)
        try:
            with FileLock(self._lock_of(file)):
                if not self.has(shard):
                    write_whole(file, download())
                os.utime(file)
        except OSError as error:
            raise self._unwritable(error) from error
        return file

    def _lock_of(self, file: Path) -> Path:
        return self.folder / LOCKS / f"{file.stem}.lock"

    def _write_user(self, wanted: Mapping[str, int]) -> None:
        user = self.folder / USERS / f"{uuid.uuid4().hex}.json"
        lock = FileLock(user.with_suffix(".lock"))
        lock.acquire()
        self._held.append(lock)
        try:
            write_whole(user, json.dumps(wanted).encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def _in_use(self) -> dict[str, int]:
        """Bytes by sha256 of all that live readers hold, this one's too."""
        used: dict[str, int] = {}
        for user in (self.folder / USERS).glob("*.json"):
            lock = FileLock(user.with_suffix(".lock"))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                used.update(json.loads(user.read_bytes()))
                continue
            # Its process has ended.
            user.unlink(missing_ok=True)
            lock.release()
            user.with_suffix(".lock").unlink(missing_ok=True)
        return used

    def _refuse_if_too_small(self, needed: int) -> None:
        total = shutil.disk_usage(self.folder).total - self._kept_free
        if needed > total:
            raise Rejected(
                f"the images of this job take {needed:,} bytes and the disk of {self.folder} has {total:,}; "
                "mount a larger one at SYNTHCLONE_DATA_DIR"
            )

    def _unwritable(self, error: OSError) -> Unavailable:
        return Unavailable(f"cannot write to the cache {self.folder}: {error.strerror}; free some space")
