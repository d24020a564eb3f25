"""Objects by key: a local folder, or any S3 server through the minio SDK; a failure to reach them is Unavailable."""

import hashlib

from .errors import ConfigurationError, CorruptObject
from .local_store import LocalStore
from .objects import Entry, ObjectStore
from .s3_store import S3Store
from .settings import Settings

__all__ = ["Entry", "LocalStore", "ObjectStore", "S3Store", "get_verified", "open_store"]


def open_store(settings: Settings) -> ObjectStore:
    if settings.s3_endpoint:
        if not (settings.s3_access_key and settings.s3_secret_key):
            raise ConfigurationError("set SYNTHCLONE_S3_ACCESS_KEY and SYNTHCLONE_S3_SECRET_KEY for the S3 server")
        return S3Store(settings)
    if settings.mode == "cluster":
        raise ConfigurationError("services on several machines share objects through S3; set SYNTHCLONE_S3_ENDPOINT")
    return LocalStore(settings.objects_dir, min_free_bytes=settings.min_free_bytes)


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
