"""Objects by key: one small protocol, a local folder and any S3 server through the minio SDK."""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Protocol

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from .errors import ConfigurationError, CorruptObject, NotFound, Unavailable
from .settings import Settings


class ObjectStore(Protocol):
    def put(self, key: str, data: bytes) -> None:
        """Store and verify; returns only when the bytes can be read back by anyone."""

    def get(self, key: str) -> bytes:
        """Raises NotFound."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; raises NotFound."""

    def size(self, key: str) -> int | None:
        """None when there is no such object."""

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""

    def keys(self, prefix: str) -> Iterator[str]: ...

    def link(self, key: str, *, minutes: int) -> str | None:
        """A short-lived download address, or None when only the API can serve it."""

    def check(self) -> None:
        """Raises Unavailable or ConfigurationError when objects cannot be stored now."""


def open_store(settings: Settings) -> ObjectStore:
    return S3Store(settings) if settings.s3_endpoint else LocalStore(settings.objects_dir)


def get_verified(store: ObjectStore, key: str, sha256: str) -> bytes:
    """The object's bytes, or CorruptObject when they are not the ones that were committed."""
    data = store.get(key)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CorruptObject(
            f"object {key} has sha256 {found}, committed was {sha256}; "
            "restore it, or ask for the dataset with another seed"
        )
    return data


class LocalStore:
    """Objects as files below one folder; a crash leaves either the whole object or none."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or any(part in ("/", "..", ".") for part in parts):
            raise NotFound(f"no object {key!r}")
        return self.root.joinpath(*parts)

    def put(self, key: str, data: bytes) -> None:
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            raise Unavailable(
                f"cannot write to the object folder {self.root}: {error.strerror}; free some space or make it writable"
            ) from error

    def get(self, key: str) -> bytes:
        return self.get_range(key, 0, -1)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        try:
            with self.path(key).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound(f"no object {key!r}") from error

    def size(self, key: str) -> int | None:
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        for path in sorted(self.root.rglob("*")):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and path.is_file() and not path.name.startswith(".part-"):
                yield key

    def link(self, key: str, *, minutes: int) -> str | None:
        return None

    def check(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".part-"):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"the object folder {self.root} is not writable ({error.strerror}); choose another with --data DIR"
            ) from error


def write_whole(path: Path, data: bytes) -> None:
    """All of the data under its name, or nothing at all; it survives a crash right after."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as part:
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


class S3Store:
    """One bucket. Uploads are single PUTs with a SHA-256 the server checks; nothing is ever overwritten."""

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.s3_bucket
        self.client = connect(settings, settings.s3_endpoint or "")
        public = settings.s3_public_endpoint or settings.s3_endpoint or ""
        # Links sign the host name, so they need a client of their own; with the region given it makes no call.
        self.public_client = connect(settings, public)

    def put(self, key: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        try:
            self.client.put_object(self.bucket, key, io.BytesIO(data), len(data), metadata={"sha256": digest})
            found = self.client.stat_object(self.bucket, key)
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(f"cannot store object {key}: {error}") from error
        if found.size != len(data) or (found.metadata or {}).get("x-amz-meta-sha256") != digest:
            raise Unavailable(f"object {key} is not what was sent")

    def get(self, key: str) -> bytes:
        return self.get_range(key, 0, 0)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        response = None
        try:
            response = self.client.get_object(self.bucket, key, offset=offset, length=length)
            return bytes(response.read())
        except S3Error as error:
            raise self.explain(key, error) from error
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(f"cannot read object {key}: {error}") from error
        finally:
            if response is not None:
                response.close()
                response.release_conn()

    def size(self, key: str) -> int | None:
        try:
            found = self.client.stat_object(self.bucket, key)
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise self.explain(key, error) from error
        return int(found.size or 0)

    def delete(self, key: str) -> None:
        self.client.remove_object(self.bucket, key)

    def keys(self, prefix: str) -> Iterator[str]:
        for item in self.client.list_objects(self.bucket, prefix=prefix, recursive=True):
            yield item.object_name or ""

    def link(self, key: str, *, minutes: int) -> str | None:
        return str(self.public_client.presigned_get_object(self.bucket, key, expires=timedelta(minutes=minutes)))

    def check(self) -> None:
        try:
            if not self.client.bucket_exists(self.bucket):
                raise ConfigurationError(f"bucket {self.bucket!r} does not exist; run `synthclone migrate`")
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(f"the S3 server does not answer: {error}") from error

    def create_bucket(self) -> None:
        if not self.client.bucket_exists(self.bucket):
            self.client.make_bucket(self.bucket)

    def explain(self, key: str, error: S3Error) -> NotFound | Unavailable:
        if error.code in ("NoSuchKey", "NoSuchObject"):
            return NotFound(f"no object {key!r}")
        return Unavailable(f"the S3 server refused {key}: {error.code}")


def connect(settings: Settings, endpoint: str) -> Minio:
    # The SDK's own pool waits five minutes and keeps ten connections: an outage would hang a worker.
    pool = urllib3.PoolManager(
        maxsize=32,
        timeout=urllib3.Timeout(connect=5, read=60),
        retries=urllib3.Retry(total=3, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504]),
        cert_reqs="CERT_REQUIRED",
    )
    secret = settings.s3_secret_key
    return Minio(
        endpoint,
        access_key=settings.s3_access_key,
        secret_key=secret.get_secret_value() if secret else None,
        secure=settings.s3_secure,
        region=settings.s3_region,
        http_client=pool,
    )
