"""Objects in one bucket of any S3 server. Uploads are single PUTs that are verified; nothing is ever overwritten."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import MinioException, S3Error
from urllib3.connection import HTTPConnection, HTTPSConnection

from .errors import ConfigurationError, NotFound, Unavailable
from .objects import Entry
from .settings import Settings

# A browser that is given a link saves the object, and shows or runs nothing of it.
DOWNLOAD = {"response-content-disposition": "attachment"}
MISSING = ("NoSuchKey", "NoSuchObject")
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
SEND_SECONDS = 60.0
LEAST_PART_BYTES = 5 * 1024 * 1024
CLOCK_LIMIT = timedelta(minutes=15)  # S3 servers refuse signatures older or newer than this
REMEDIES = {
    "AccessDenied": "check SYNTHCLONE_S3_ACCESS_KEY, SYNTHCLONE_S3_SECRET_KEY and the policy of the bucket",
    "InvalidAccessKeyId": "check SYNTHCLONE_S3_ACCESS_KEY",
    "SignatureDoesNotMatch": "check SYNTHCLONE_S3_SECRET_KEY",
    "NoSuchBucket": "run `synthclone migrate`",
    "QuotaExceeded": "raise the quota of the bucket",
    "XMinioStorageFull": "free some space on the S3 server",
    "RequestTimeTooSkewed": "set the clock of this machine",
}


class S3Store:
    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.s3_bucket
        self.client = connect(settings, settings.s3_endpoint or "")
        public = settings.s3_public_endpoint or settings.s3_endpoint or ""
        # Links sign the host name, so they need a client of their own; with the region given it makes no call.
        self.public_client = connect(settings, public)

    def put(self, key: str, data: bytes) -> None:
        # One part: the ETag of a multipart upload says nothing about its bytes, and a crash would leave parts behind.
        size = max(len(data), LEAST_PART_BYTES)
        headers = {"sha256": hashlib.sha256(data).hexdigest()}
        with failures_explained(f"cannot store object {key}"):
            self.client.put_object(self.bucket, key, io.BytesIO(data), len(data), metadata=headers, part_size=size)
            found = self.client.stat_object(self.bucket, key)
        if not self.holds(found, data):
            raise Unavailable(f"the S3 server answered well to {key} but does not hold what was sent; check its disks")

    def holds(self, found: Object, data: bytes) -> bool:
        """Whether the stored bytes are these: by the server's own MD5, or by reading back where it gives none."""
        if found.size != len(data):
            return False
        is_encrypted = "x-amz-server-side-encryption" in (found.metadata or {})  # its ETag need not be an MD5
        etag = (found.etag or "").strip('"')
        if len(etag) == 32 and not is_encrypted:
            return etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
        return self.get(found.object_name or "") == data

    def get(self, key: str) -> bytes:
        return self.get_range(key, 0, 0)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with failures_explained(f"cannot read object {key}"):
            response = self.client.get_object(self.bucket, key, offset=offset, length=length)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

    def size(self, key: str) -> int | None:
        try:
            with failures_explained(f"cannot look at object {key}"):
                return int(self.client.stat_object(self.bucket, key).size or 0)
        except NotFound:
            return None

    def delete(self, key: str) -> None:
        with failures_explained(f"cannot delete object {key}"):
            self.client.remove_object(self.bucket, key)

    def entries(self, prefix: str) -> Iterator[Entry]:
        with failures_explained(f"cannot list objects below {prefix!r}"):
            for item in self.client.list_objects(self.bucket, prefix=prefix, recursive=True):
                modified = item.last_modified or datetime.now(UTC)
                yield Entry(item.object_name or "", int(item.size or 0), modified)

    def link(self, key: str, *, minutes: int) -> str | None:
        lasts = timedelta(minutes=minutes)
        return str(self.public_client.presigned_get_object(self.bucket, key, lasts, response_headers=DOWNLOAD))

    def check(self) -> None:
        with failures_explained("the S3 server is not ready"):
            if not self.client.bucket_exists(self.bucket):
                raise ConfigurationError(f"bucket {self.bucket!r} does not exist; run `synthclone migrate`")

    def create_bucket(self) -> None:
        with failures_explained("cannot make the bucket"):
            if not self.client.bucket_exists(self.bucket):
                self.client.make_bucket(self.bucket)


@contextmanager
def failures_explained(what: str) -> Iterator[None]:
    """Everything but a missing object passes by waiting, or by an operator who reads the remedy in the message."""
    try:
        yield
    except S3Error as error:
        if error.code in MISSING:
            raise NotFound(f"{what}: there is no such object") from error
        raise Unavailable(f"{what}: {error.code}; {remedy(error)}") from error
    except (MinioException, urllib3.exceptions.HTTPError, ParseError) as error:
        raise Unavailable(f"{what}: {error}") from error


def remedy(error: S3Error) -> str:
    skew = clock_skew(error)
    if error.code == "RequestTimeTooSkewed" or (skew is not None and abs(skew) > CLOCK_LIMIT):
        seconds = "" if skew is None else f", which is {skew.total_seconds():.0f} s ahead of the server's"
        return f"{REMEDIES['RequestTimeTooSkewed']}{seconds}"
    return REMEDIES.get(error.code or "", "see the log of the S3 server")


def clock_skew(error: S3Error) -> timedelta | None:
    """How far this machine's clock is ahead of the server's; an answer to HEAD names no other cause than 403."""
    date = error.response.headers.get("date")
    try:
        return datetime.now(UTC) - parsedate_to_datetime(date) if date else None
    except ValueError:
        return None


class PatientHTTP(HTTPConnection):
    """urllib3 gives a whole body on a new connection no longer than the connect timeout: too short for slow links."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(SEND_SECONDS)


class PatientHTTPS(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(SEND_SECONDS)


class PatientHTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = PatientHTTP


class PatientHTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = PatientHTTPS


def connect(settings: Settings, endpoint: str) -> Minio:
    # The SDK's own pool waits five minutes and keeps ten connections: an outage would hang a worker.
    pool = urllib3.PoolManager(
        maxsize=32,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        retries=urllib3.Retry(total=2, read=1, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504]),
        cert_reqs="CERT_REQUIRED",
    )
    pool.pool_classes_by_scheme = {"http": PatientHTTPPool, "https": PatientHTTPSPool}
    secret = settings.s3_secret_key
    return Minio(
        endpoint,
        access_key=settings.s3_access_key,
        secret_key=secret.get_secret_value() if secret else None,
        secure=settings.s3_secure,
        region=settings.s3_region,
        http_client=pool,
    )
