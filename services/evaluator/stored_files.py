"""A report and what lies beside it in the store."""

import hashlib
from collections.abc import Mapping

from shared.job_leases import JobLease
from shared.storage import ObjectStore
from shared.tables import JsonObject


def put_files(store: ObjectStore, lease: JobLease, folder: str, files: Mapping[str, bytes]) -> JsonObject:
    """Of the job's result: where each file is, and its hash; the API serves those whose name has an ending.

    What has none is JSON. The names of the objects are this lease's own.
    """
    result: JsonObject = {}
    for name, data in files.items():
        stem, _, kind = name.partition(".")
        key = f"{folder}/{lease.job_id}/{stem}-{lease.fence}.{kind or 'json'}"
        store.put(key, data)
        result |= {f"{name}_key": key, f"{name}_sha256": hashlib.sha256(data).hexdigest()}
    return result
