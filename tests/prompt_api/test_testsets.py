"""The real image sets that requests may name."""

import httpx2
import pytest
from pydantic import JsonValue

from shared.database import Database, database_now
from shared.tables import RealImageSet

PLACE = "/disks/7/imagenet"


@pytest.fixture
def registered(database: Database) -> None:
    with database.write() as session:
        now = database_now(session)
        values = {"kind": "imagenet-val", "layout": "imagefolder", "location": PLACE, "images": 20, "digest": "0123abc"}
        common = {"crop_pct": 0.875, "created_at": now}
        session.add(RealImageSet(name="val", role="test", class_ids=["n02", "n01"], **values, **common))
        values |= {"kind": "pets", "layout": None, "images": 6, "test_images": 4}
        stored: list[dict[str, JsonValue]] = [{"key": "real/pets/0000.tar", "bytes": 3, "sha256": "0123abc"}]
        session.add(RealImageSet(name="pets", role="transfer", class_ids=["cat"], objects=stored, **values, **common))


def test_the_built_in_sets_and_those_of_the_operator_are_listed(api: httpx2.Client, registered: None) -> None:
    found = api.get("/testsets").json()
    digits = {"kind": None, "classes": 10, "test_images": None, "built_in": True}
    assert found == [
        {"name": "digits-train", "role": "train", "images": 1257, **digits},
        {"name": "digits", "role": "test", "images": 540, **digits},
        {**shown("pets", "transfer", kind="pets"), "classes": 1, "images": 6, "test_images": 4},
        {**shown("val", "test", kind="imagenet-val"), "classes": 2, "images": 20, "test_images": None},
    ]


def shown(name: str, role: str, *, kind: str) -> dict[str, JsonValue]:
    return {"name": name, "role": role, "kind": kind, "built_in": False}


def test_one_set_is_shown_with_its_classes_in_label_order(api: httpx2.Client, registered: None) -> None:
    assert api.get("/testsets/val").json()["class_ids"] == ["n02", "n01"]
    assert len(api.get("/testsets/digits").json()["class_ids"]) == 10


def test_nobody_is_told_where_the_operator_keeps_them(api: httpx2.Client, registered: None) -> None:
    answers = "".join(api.get(path).text for path in ("/testsets", "/testsets/val", "/testsets/pets"))
    assert not any(secret in answers for secret in (PLACE, "0123abc", "real/pets"))


def test_an_unknown_set_is_answered_with_the_known_ones(api: httpx2.Client, registered: None) -> None:
    answer = api.get("/testsets/mnist")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        "there is no real image set 'mnist'; known: digits-train, digits, pets, val",
    )
