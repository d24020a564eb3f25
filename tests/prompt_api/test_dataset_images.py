"""A dataset's stored objects, read through the API."""

import io
import json
import tarfile
from hashlib import sha256

import httpx2
import pytest
from sqlalchemy import update

from services.dispatcher.tick import tick
from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job, Shard
from tests.drawing import draw_pending, image_of
from tests.rows import plan_all

ZERO = "n13742358"


@pytest.fixture
def dataset(api: httpx2.Client, database: Database, store: LocalStore, api_settings: Settings) -> str:
    """Three slots of each digit, of which slot 1 was rejected for good."""
    job_id = str(api.post("/datasets", json={"classes": "digits", "images_per_class": 3}).json()["id"])
    plan_all(database, job_id)
    draw_pending(database, store, short=(1,))
    tick(database, store, api_settings, absent={})
    return job_id


def object_of(database: Database, store: LocalStore, class_id: str) -> str:
    with database.read() as session:
        shards = session.query(Shard).all()
    return next(shard.object_key for shard in shards if shard.object_key and class_id in shard.class_key)


def test_the_dataset_shows_its_spec_classes_and_manifest(api: httpx2.Client, dataset: str) -> None:
    view = api.get(f"/datasets/{dataset}").json()
    assert view["spec"]["request"]["classes"] == "digits"
    assert view["classes"][0] == {"label": 0, "id": ZERO, "names": view["classes"][0]["names"], "total": 3}
    assert view["job"]["state"] == "partial"
    data = api.get(view["manifest"]["url"]).content
    assert sha256(data).hexdigest() == view["manifest"]["manifest_sha256"]
    assert (view["manifest"]["images"], len(json.loads(data)["shards"])) == (20, 10)


def test_a_manifest_does_not_exist_before_the_end(api: httpx2.Client) -> None:
    job_id = api.post("/datasets", json={"classes": "digits", "images_per_class": 3}).json()["id"]
    assert api.get(f"/datasets/{job_id}").json()["manifest"] is None
    assert api.get(f"/datasets/{job_id}/manifest").status_code == 409


def test_the_shards_come_in_pages_and_their_tars_match_the_digest(api: httpx2.Client, dataset: str) -> None:
    first = api.get(f"/datasets/{dataset}/shards?limit=7").json()
    second = api.get(f"/datasets/{dataset}/shards?limit=7&cursor={first['next_cursor']}").json()
    shards = first["items"] + second["items"]
    assert ([shard["label"] for shard in shards], second["next_cursor"]) == (list(range(10)), None)
    assert (shards[0]["start"], shards[0]["stop"], shards[0]["take"]) == (0, 3, 3)
    data = api.get(shards[0]["url"]).content
    assert (sha256(data).hexdigest(), len(data)) == (shards[0]["sha256"], shards[0]["bytes"])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert f"{ZERO}_00000002.jpg" in tar.getnames()


def test_one_image_is_read_from_its_shard(api: httpx2.Client, dataset: str) -> None:
    answer = api.get(f"/datasets/{dataset}/images/{ZERO}/2")
    assert (answer.headers["content-type"], answer.content) == ("image/jpeg", image_of(ZERO, 2))


@pytest.mark.parametrize("path", [f"{ZERO}/1", f"{ZERO}/3", "n00000000/0", "%00/0"])
def test_an_image_that_is_not_there_is_a_404(api: httpx2.Client, dataset: str, path: str) -> None:
    assert api.get(f"/datasets/{dataset}/images/{path}").status_code == 404


def test_a_dataset_shows_only_the_slots_it_takes_of_a_shared_shard(
    api: httpx2.Client, database: Database, dataset: str
) -> None:
    small = api.post("/datasets", json={"classes": "digits", "images_per_class": 1}).json()["id"]
    plan_all(database, small)
    assert api.get(f"/datasets/{small}/images/{ZERO}/0").status_code == 200
    assert api.get(f"/datasets/{small}/images/{ZERO}/2").status_code == 404
    assert {item["slot"] for item in api.get(f"/datasets/{small}/samples?limit=30").json()["items"]} == {0}


def test_samples_are_spread_over_the_classes(api: httpx2.Client, dataset: str) -> None:
    few = api.get(f"/datasets/{dataset}/samples?limit=5").json()["items"]
    assert [item["label"] for item in few] == [0, 2, 4, 6, 8]
    assert few[0]["metadata"]["prompt"] == f"{ZERO}!"
    assert api.get(few[0]["url"]).content == image_of(ZERO, few[0]["slot"])
    many = api.get(f"/datasets/{dataset}/samples?limit=30").json()["items"]
    assert [item["slot"] for item in many[:2]] == [0, 2]
    assert len(many) == 20


def flip_a_byte(data: bytes) -> bytes:
    place = data.index(b"JPEG of")
    return data[:place] + b"j" + data[place + 1 :]


def cut_short(data: bytes) -> bytes:
    return data[: data.index(b"JPEG of")]


def lose_the_index(data: bytes) -> bytes:
    return b"\1" * len(data)


def give_another_index(data: bytes) -> bytes:
    return data.replace(b"comment=[[", b"comment=[{", 1)


def give_a_number_as_index(data: bytes) -> bytes:
    index = data[data.index(b"comment=[[") + 8 : data.index(b"]]") + 2]
    return data.replace(index, b"5".ljust(len(index)), 1)


DAMAGES = [flip_a_byte, cut_short, lose_the_index, give_another_index, give_a_number_as_index, None]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("route", ["image", "tar", "samples"])
def test_a_damaged_object_is_reported_by_its_reader_and_drawn_again(
    api: httpx2.Client, database: Database, store: LocalStore, dataset: str, damage: object, route: str
) -> None:
    key = object_of(database, store, ZERO)
    path = {
        "image": f"/datasets/{dataset}/images/{ZERO}/0",
        "tar": api.get(f"/datasets/{dataset}/shards").json()["items"][0]["url"],
        "samples": f"/datasets/{dataset}/samples",
    }[route]
    if callable(damage):
        store.put(key, damage(store.get(key)))
    else:
        store.delete(key)
    answer = api.get(path)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:synthclone:problem:being-redrawn"), answer.text
    assert key in answer.json()["detail"]
    assert answer.headers["retry-after"] == "5"
    assert draw_pending(database, store) == 1


def test_an_image_being_drawn_again_is_a_503_until_it_is_there(
    api: httpx2.Client, database: Database, store: LocalStore, dataset: str
) -> None:
    store.delete(object_of(database, store, ZERO))
    path = f"/datasets/{dataset}/images/{ZERO}/0"
    assert [api.get(path).status_code for _ in range(2)] == [503, 503]
    assert draw_pending(database, store, short=(1,)) == 1
    assert api.get(path).content == image_of(ZERO, 0)


def test_samples_leave_out_a_class_that_is_being_drawn_again(
    api: httpx2.Client, database: Database, store: LocalStore, dataset: str
) -> None:
    store.delete(object_of(database, store, ZERO))
    assert api.get(f"/datasets/{dataset}/samples?limit=30").status_code == 503
    items = api.get(f"/datasets/{dataset}/samples?limit=30").json()["items"]
    assert {item["label"] for item in items} == set(range(1, 10))


def test_bytes_that_were_committed_wrong_are_a_409_and_not_drawn_again(
    api: httpx2.Client, database: Database, store: LocalStore, dataset: str
) -> None:
    key = object_of(database, store, ZERO)
    data = flip_a_byte(store.get(key))
    store.put(key, data)
    with database.write() as session:
        session.execute(update(Shard).where(Shard.object_key == key).values(sha256=sha256(data).hexdigest()))
    answer = api.get(f"/datasets/{dataset}/images/{ZERO}/0")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:synthclone:problem:corrupt-object")
    assert draw_pending(database, store) == 0


def test_a_damaged_manifest_is_reported_and_written_again(
    api: httpx2.Client, database: Database, store: LocalStore, dataset: str, api_settings: Settings
) -> None:
    path = f"/datasets/{dataset}/manifest"
    whole = api.get(path).content
    with database.read() as session:
        result = session.get_one(Job, dataset).result or {}
    store.put(str(result["manifest_key"]), b"{")
    assert api.get(path).status_code == 503
    tick(database, store, api_settings, absent={})
    assert api.get(path).content == whole
