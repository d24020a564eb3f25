"""POST /datasets on both databases."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx2
from sqlalchemy import func, select

from shared.classes import ClassText
from shared.database import Database
from shared.prompts import used_text
from shared.seeds import class_key
from shared.specs import DatasetSpec
from shared.tables import DatasetClass, Event, IdempotencyKey, Job, Recipe
from tests.rows import parse_prompt

DIGITS = {"classes": "digits", "prompt": "description", "scale": 2, "images_per_class": 32}


def count(database: Database, table: type[Job] | type[DatasetClass]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_the_curl_of_the_readme_is_accepted_and_its_location_answers(api: httpx2.Client) -> None:
    body = '{"classes":"digits","prompt":"description","scale":2,"images_per_class":32}'
    command = ["curl", "-si", "-XPOST", f"{api.base_url}/datasets", "-H", "content-type: application/json", "-d", body]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    head, _, _ = answer.partition("\r\n\r\n")
    location = next(line.split(": ")[1] for line in head.splitlines() if line.lower().startswith("location"))
    assert head.startswith("HTTP/1.1 202 Accepted")
    assert "retry-after: 5" in head.lower()
    assert api.get(location).json()["state"] == "queued"


def test_the_answer_spells_out_what_was_asked_for(api: httpx2.Client) -> None:
    job = api.post("/datasets", json=DIGITS).json()
    assert job["summary"] == (
        "10 classes, 320 images in all, class description prompts, guidance scale 2.0, model digits-sd"
    )
    assert (job["guidance"], job["images_per_class"], job["model"]) == (2.0, 32, "digits-sd")
    assert job["counts"] == {"total": 320, "done": 0, "rejected": 0, "failed": 0, "reused": 0}
    assert job["classes"] == {"total": 10, "done": 0}


def test_the_rows_hold_a_frozen_spec_texts_and_a_first_event(api: httpx2.Client, database: Database) -> None:
    job_id = api.post("/datasets", json=DIGITS).json()["id"]
    with database.read() as session:
        spec = DatasetSpec.model_validate(session.get_one(Job, job_id).spec)
        zero = session.get_one(DatasetClass, (job_id, 0))
        recipe = session.get_one(Recipe, spec.recipe_digest)
        events = session.scalars(select(Event).where(Event.job_id == job_id)).all()
    assert spec.recipe.digest == spec.recipe_digest == recipe.digest
    assert (spec.recipe.scheduler, spec.recipe.steps, spec.recipe.width) == ("dpm++", 15, 32)
    assert (zero.class_id, zero.total, zero.planned) == ("n13742358", 32, 0)
    used = used_text(parse_prompt("description"), ClassText.model_validate(zero.text))
    assert zero.class_key == class_key("n13742358", used)
    assert used["description"]
    assert [(event.type, event.payload) for event in events] == [("state", {"state": "queued"})]


def test_the_size_of_images_is_the_model_cards_or_what_was_asked_for(api: httpx2.Client, database: Database) -> None:
    asked = [{}, {"width": 64}, {"height": 48}, {"model": "sd14", "width": 768, "height": 72}]
    jobs = [api.post("/datasets", json={**DIGITS, **sides}).json()["id"] for sides in asked]
    with database.read() as session:
        recipes = [DatasetSpec.model_validate(session.get_one(Job, job_id).spec).recipe for job_id in jobs]
    assert [(recipe.width, recipe.height) for recipe in recipes] == [(32, 32), (64, 32), (32, 48), (768, 72)]
    assert len({recipe.digest for recipe in recipes}) == 4


def test_larger_images_are_estimated_at_their_pixels(api: httpx2.Client) -> None:
    usual, larger = (
        api.post("/datasets", params={"dry_run": True}, json={**DIGITS, "images_per_class": 1000, **sides}).json()
        for sides in ({}, {"width": 64, "height": 128})
    )
    assert larger["estimated_bytes"] == 8 * usual["estimated_bytes"]
    assert larger["estimated_worker_hours"] == round(8 * 10_000 * 0.04 / 3600, 4)


def test_guidance_below_one_is_taken(api: httpx2.Client) -> None:
    answer = api.post("/datasets", json={**DIGITS, "scale": 0.5})
    assert (answer.status_code, answer.json()["guidance"]) == (202, 0.5)


def test_without_an_amount_each_class_gets_as_many_as_the_real_set_has(api: httpx2.Client) -> None:
    job = api.post("/datasets", json={"classes": "digits"}).json()
    assert job["counts"]["total"] == 1257
    assert job["images_per_class"] == {"smallest": 122, "largest": 130}


def test_size_multiplies_the_real_sets_counts(api: httpx2.Client) -> None:
    assert api.post("/datasets", json={"classes": "digits", "size": "10x"}).json()["counts"]["total"] == 12570


def test_two_datasets_of_one_recipe_share_its_row(api: httpx2.Client, database: Database) -> None:
    for amount in (1, 2):
        api.post("/datasets", json={**DIGITS, "images_per_class": amount})
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Recipe)) == 1


def test_a_dry_run_estimates_and_records_nothing(api: httpx2.Client, database: Database) -> None:
    body = {"classes": "in1k", "model": "sd14", "size": "1x"}
    answer = api.post("/datasets", params={"dry_run": True}, json=body)
    estimate = answer.json()
    assert answer.status_code == 200
    assert estimate["total_images"] == 1_300_000
    assert estimate["estimated_bytes"] == 1_300_000 * 80_000
    assert estimate["estimated_worker_hours"] == round(1_300_000 * 0.3 / 3600, 4)
    assert any("crane" in warning for warning in estimate["warnings"])
    assert count(database, Job) == 0


def test_the_same_key_and_body_get_the_same_answer(api: httpx2.Client, database: Database) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (api.post("/datasets", json=DIGITS, headers=headers) for _ in range(2))
    assert (second.status_code, second.json()) == (202, first.json())
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert count(database, Job) == 1


def test_concurrent_requests_with_one_key_make_one_job(api: httpx2.Client, database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: api.post("/datasets", json=DIGITS, headers={"Idempotency-Key": "race"}), range(16))
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(database, Job) == 1


def test_a_key_of_another_route_is_another_key(api: httpx2.Client, database: Database) -> None:
    headers = {"Idempotency-Key": "both"}
    dataset = api.post("/datasets", json=DIGITS, headers=headers).json()["id"]
    assert api.post("/trainings", json={"datasets": [dataset]}, headers=headers).status_code == 202
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 2


def test_classes_of_the_users_own_are_drawn_by_a_general_model(api: httpx2.Client, database: Database) -> None:
    body = {"classes": [{"name": "C++"}, {"name": "grey heron"}], "model": "sd14", "images_per_class": 1}
    job_id = api.post("/datasets", json=body).json()["id"]
    with database.read() as session:
        assert session.get_one(DatasetClass, (job_id, 1)).class_id == "grey-heron"


def test_the_words_of_a_class_are_stored_as_they_were_given(api: httpx2.Client, database: Database) -> None:
    words = {
        "name": 'O\'o \\ "bird" 🦜',
        "description": "ʻōʻō, {it} $.text ->> 'x' %s :rows",
        "captions": ["a 猫", "b"],
    }
    body = {"classes": [{"name": "heron"}, words], "model": "sd14", "images_per_class": 7}
    job_id = api.post("/datasets", json=body).json()["id"]
    with database.read() as session:
        row = session.get_one(DatasetClass, (job_id, 1))
    given = ClassText(id=row.class_id, names=(words["name"],), description=words["description"], captions=("a 猫", "b"))
    assert ClassText.model_validate(row.text) == given
    assert row.class_key == class_key(row.class_id, used_text(parse_prompt("name"), given))
    assert (row.total, row.planned, row.done, row.failed, row.rejected) == (7, 0, 0, 0, 0)
