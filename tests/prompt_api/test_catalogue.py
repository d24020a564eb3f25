"""What can be asked for, and the prompts it would be drawn with."""

import httpx2
import pytest
from pydantic import JsonValue

from shared.classes import ClassText
from shared.database import Database, database_now
from shared.prompts import render
from shared.seeds import slot_seed
from shared.tables import DatasetClass, Job, Worker
from tests.rows import parse_prompt


def test_the_class_lists_tell_their_sizes(api: httpx2.Client) -> None:
    lists = {item["name"]: item for item in api.get("/class-lists").json()}
    assert (lists["in1k"]["classes"], lists["in100"]["classes"]) == (1000, 100)
    assert lists["digits"] == {"name": "digits", "classes": 10, "images_at_1x": 1257}


def test_a_class_list_holds_its_classes_in_label_order(api: httpx2.Client) -> None:
    items = api.get("/class-lists/digits").json()["items"]
    assert [item["label"] for item in items] == list(range(10))
    assert (items[0]["id"], items[0]["names"][0], items[0]["images_at_1x"]) == ("n13742358", "zero", 125)


def test_a_model_is_available_where_a_live_worker_has_it(api: httpx2.Client, database: Database) -> None:
    assert available(api)["sd14"] == (False, 0)
    with database.write() as session:
        now = database_now(session)
        worker = Worker(id="wk-1", kind="generate", host="h", device="cuda", started_at=now, seen_at=now)
        worker.models = ["sd14"]
        session.add(worker)
    assert available(api)["sd14"] == (True, 1)


def available(api: httpx2.Client) -> dict[str, tuple[bool, int]]:
    return {item["name"]: (item["available"], item["live_workers"]) for item in api.get("/models").json()}


def test_the_models_tell_what_they_can_draw_and_no_paths(api: httpx2.Client) -> None:
    models = {item["name"]: item for item in api.get("/models").json()}
    assert (models["digits-sd"]["is_default"], len(models["digits-sd"]["classes"])) == (True, 10)
    assert (models["sd14"]["classes"], models["sd14"]["licence"]) == (None, "CreativeML OpenRAIL-M")
    assert "folder" not in models["sd14"]


BACKGROUND: dict[str, JsonValue] = {"classes": "in100", "prompt": "background", "model": "sd14", "scale": 2}


def test_a_preview_shows_what_a_worker_would_draw_for_the_same_body(api: httpx2.Client, database: Database) -> None:
    body = {**BACKGROUND, "images_per_class": 4}
    shown = api.post("/prompts/preview", json={**body, "slots": 4}).json()
    job_id = api.post("/datasets", json=body).json()["id"]
    with database.read() as session:
        row = session.get_one(DatasetClass, (job_id, 3))
        digest = str(session.get_one(Job, job_id).spec["recipe_digest"])
    text = ClassText.model_validate(row.text)
    seeds = [slot_seed(digest, row.class_key, slot, 0, "background") for slot in range(4)]
    drawn = [render(parse_prompt("background"), text, slot=n, background_seed=s).text for n, s in enumerate(seeds)]
    assert [prompt["text"] for prompt in shown["items"][3]["prompts"]] == drawn
    assert (shown["recipe_digest"], shown["classes"], len(shown["items"])) == (digest, 100, 20)


def test_another_seed_gives_other_backgrounds(api: httpx2.Client) -> None:
    shown = [api.post("/prompts/preview", json={**BACKGROUND, "seed": seed}).json()["items"] for seed in (0, 1)]
    assert shown[0] != shown[1]


def test_a_preview_counts_tokens_and_marks_what_is_cut_off(api: httpx2.Client) -> None:
    words = " ".join(["heron"] * 90)
    body = {"classes": [{"name": "heron", "description": words}], "prompt": "description", "model": "sd14", "slots": 1}
    prompt = api.post("/prompts/preview", json=body).json()["items"][0]["prompts"][0]
    assert prompt["tokens"] > 90
    assert prompt["over_limit"] is True


def test_a_preview_warns_of_classes_that_cannot_be_told_apart(api: httpx2.Client) -> None:
    body = {"classes": ["n02012849", "n03126707"], "model": "sd14"}
    assert api.post("/prompts/preview", json=body).json()["warnings"][0].startswith("n02012849 and n03126707 are both")


@pytest.mark.parametrize("change", [{"slots": 21}, {"slots": 0}, {"limit": 0}, {"classes": "in101"}])
def test_a_bad_preview_is_refused(api: httpx2.Client, change: dict[str, JsonValue]) -> None:
    answer = api.post("/prompts/preview", json={**BACKGROUND, **change})
    assert answer.status_code == 422
    assert next(iter(change)) in answer.json()["errors"][0]["pointer"]
