"""The files of a report: what a job's result names, read from the store and answered for a browser to show safely."""

from typing import Annotated

from fastapi import Path, Response

from shared.errors import Conflict, CorruptObject, NotFound
from shared.storage import ObjectStore, get_verified
from shared.tables import Job, JsonObject

from .experiment_parts import ENDED_WELL

MEDIA_TYPES = {
    "md": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILE: dict[int | str, dict[str, object]] = {
    200: {"content": {kind.partition(";")[0]: BINARY for kind in MEDIA_TYPES.values()}}
}
# A report and a figure hold styles and pictures of their own, and nothing that runs.
FILE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
FileName = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,60}\.(md|html|svg|png)$", description="Such as report.html.")]


def file_names(result: JsonObject | None) -> list[str]:
    """`result` names each file's object as `<file>_key`; what is no file to look at has no ending in its name."""
    suffix = "_key"
    names = sorted(result or {})  # PostgreSQL orders keys by their length
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix) and "." in name]


def file_links(base: str, files: list[str]) -> dict[str, str]:
    return {name: f"{base}/files/{name}" for name in files}


def reported(job: Job) -> Job:
    if job.state not in ENDED_WELL or job.result is None:
        raise Conflict(f"{job.kind} {job.id} is {job.state}; its report exists once it ended well")
    return job


def answer_file(store: ObjectStore, job: Job, file: str) -> Response:
    if file not in (names := file_names(job.result)):
        listed = f"it has {', '.join(names)}" if names else "it has none"
        raise NotFound(f"{job.kind} {job.id} has no file {file!r}; {listed}")
    headers = {"Content-Security-Policy": FILE_POLICY}
    return Response(read_file(store, job, file), media_type=MEDIA_TYPES[file.rpartition(".")[2]], headers=headers)


def read_file(store: ObjectStore, job: Job, name: str) -> bytes:
    assert job.result is not None
    try:
        return get_verified(store, str(job.result[f"{name}_key"]), str(job.result[f"{name}_sha256"]))
    except (CorruptObject, NotFound) as damage:
        raise CorruptObject(
            f"{name} of {job.id} is damaged ({damage.detail}); restore the object, or ask for the {job.kind} again"
        ) from damage
