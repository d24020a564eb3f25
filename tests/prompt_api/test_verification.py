"""A damaged dataset, found and mended through the API and a real dispatcher process."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore
from tests.drawing import draw_pending, image_of
from tests.processes import Processes, wait_until

ZERO = "n13742358"


@pytest.fixture
def dispatcher(tmp_path: Path, api_settings: Settings) -> Iterator[Processes]:
    environment = {
        "SYNTHCLONE_DATABASE_URL": str(api_settings.database_url),
        "SYNTHCLONE_DATA_DIR": str(api_settings.data_dir),
        "SYNTHCLONE_TICK_SECONDS": "0.1",
    }
    with Processes(tmp_path, environment) as running:
        running.module("services.dispatcher")
        yield running


def drawn(api: httpx2.Client, database: Database, store: LocalStore) -> str:
    job_id = str(api.post("/datasets", json={"classes": "digits", "images_per_class": 3}).json()["id"])

    def ended() -> bool | None:
        draw_pending(database, store)
        return api.get(f"/jobs/{job_id}").json()["state"] == "succeeded" or None

    wait_until(ended, seconds=60, what="the end of the dataset")
    return job_id


def verifications(api: httpx2.Client, job_id: str) -> list[dict[str, int]]:
    """The data of the `verified` events so far; a finished job's stream ends by itself."""
    blocks = api.get(f"/jobs/{job_id}/events").text.replace("\r\n", "\n").split("\n\n")
    lines = [dict(line.split(": ", 1) for line in block.split("\n") if ": " in line) for block in blocks]
    return [json.loads(line["data"]) for line in lines if line.get("event") == "verified"]


def verify(api: httpx2.Client, job_id: str) -> dict[str, int]:
    """Ask, and wait for what is found."""
    before = len(verifications(api, job_id))
    answer = api.post(f"/datasets/{job_id}/verify")
    assert (answer.status_code, answer.json()["id"]) == (202, job_id)

    def found() -> dict[str, int] | None:
        events = verifications(api, job_id)
        return events[-1] if len(events) > before else None

    return wait_until(found, seconds=60, what="the verification")


@pytest.mark.usefixtures("dispatcher")
def test_a_flipped_byte_is_found_and_mended_from_end_to_end(
    api: httpx2.Client, database: Database, store: LocalStore
) -> None:
    job_id = drawn(api, database, store)
    key = json.loads(api.get(f"/datasets/{job_id}/manifest").content)["shards"][0]["key"]
    store.put(key, store.get(key).replace(b"JPEG", b"jPEG"))
    assert verify(api, job_id) == {"objects": 11, "damaged": 1}
    assert wait_until(lambda: draw_pending(database, store) or None, seconds=30, what="the redraw") == 1
    entry = wait_until(lambda: mended(api, job_id, key), seconds=30, what="the new manifest")
    assert sha256(store.get(str(entry["key"]))).hexdigest() == entry["sha256"]
    assert verify(api, job_id) == {"objects": 11, "damaged": 0}
    assert api.get(f"/datasets/{job_id}/images/{ZERO}/0").content == image_of(ZERO, 0)


def mended(api: httpx2.Client, job_id: str, lost_key: str) -> dict[str, object] | None:
    entry: dict[str, object] = json.loads(api.get(f"/datasets/{job_id}/manifest").content)["shards"][0]
    return entry if entry["key"] != lost_key else None


def test_a_dataset_without_shards_cannot_be_verified(api: httpx2.Client) -> None:
    job_id = api.post("/datasets", json={"classes": "digits", "images_per_class": 3}).json()["id"]
    answer = api.post(f"/datasets/{job_id}/verify")
    assert answer.status_code == 409
    assert "no finished shard yet" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["ds-unknown", "tr-00000000000000000000000000"])
def test_what_is_no_dataset_cannot_be_verified(api: httpx2.Client, path: str) -> None:
    assert api.post(f"/datasets/{path}/verify").status_code == 404
