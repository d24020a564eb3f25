"""Datasets that are drawn approximately say so, and share nothing with exact ones."""

import json
from pathlib import Path

import httpx2
import pytest
from pydantic import JsonValue

from shared.approximations import Approximation
from shared.database import Database
from shared.models import BUILT_IN
from shared.settings import Settings
from shared.specs import DatasetSpec, Recipe
from shared.tables import Job
from tests.conftest import ServeApi, changed

DIGITS: dict[str, JsonValue] = {"classes": "digits", "scale": 2, "images_per_class": 2}
ASKED: dict[str, JsonValue] = {"guidance_interval": [0.2, 0.8], "reuse_every": 3}


def recipe_of(database: Database, job_id: str) -> Recipe:
    with database.read() as session:
        return DatasetSpec.model_validate(session.get_one(Job, job_id).spec).recipe


def test_an_approximation_is_told_in_words_and_frozen_in_the_recipe(api: httpx2.Client, database: Database) -> None:
    job = api.post("/datasets", json={**DIGITS, "approximation": ASKED}).json()
    label = "approximated (guidance only from 0.2 to 0.8 of the trajectory, deep features of one in 3 evaluations)"
    assert job["summary"].endswith(f"model digits-sd, {label}")
    assert recipe_of(database, job["id"]).approximation == Approximation(guidance_interval=(0.2, 0.8), reuse_every=3)
    dataset = api.get(f"/datasets/{job['id']}").json()
    assert dataset["spec"]["request"]["approximation"] == dataset["spec"]["recipe"]["engine"] == ASKED


def test_without_one_a_dataset_is_exact(api: httpx2.Client, database: Database) -> None:
    job = api.post("/datasets", json=DIGITS).json()
    assert job["summary"].endswith("model digits-sd")
    assert recipe_of(database, job["id"]).engine == "exact"


def test_an_approximated_dataset_shares_no_recipe_with_an_exact_one(api: httpx2.Client, database: Database) -> None:
    bodies = [DIGITS, {**DIGITS, "approximation": ASKED}, {**DIGITS, "approximation": {"reuse_every": 3}}]
    digests = {recipe_of(database, api.post("/datasets", json=body).json()["id"]).digest for body in bodies}
    assert len(digests) == 3


def test_datasets_of_a_distilled_model_say_so_by_themselves(
    serve_api: ServeApi, api_settings: Settings, database: Database, tmp_path: Path
) -> None:
    entry = json.loads(BUILT_IN.read_text())[0] | {"name": "digits-few", "distilled": True}
    models = tmp_path / "models.json"
    models.write_text(json.dumps([entry]))
    api = serve_api(changed(api_settings, models_file=models))
    told = {known["name"]: known["distilled"] for known in api.get("/models").json()}
    assert told == {"digits-sd": False, "sd14": False, "digits-few": True}
    job = api.post("/datasets", json={**DIGITS, "model": "digits-few"}).json()
    assert job["summary"].endswith("model digits-few, approximated (by a model distilled to few steps)")
    assert recipe_of(database, job["id"]).approximation == Approximation(distilled=True)


@pytest.mark.parametrize(
    ("change", "pointer", "named"),
    [
        ({"approximation": {}}, "/approximation", "leave it out for exact images"),
        ({"approximation": {"reuse_every": 1}}, "/approximation/reuse_every", "greater than or equal to 2, not 1"),
        (
            {"approximation": {"reuse_every": 6}, "steps": 5},
            "/approximation/reuse_every",
            "reuse_every 6 is more than the 5 sampler steps; take 5 or less",
        ),
        (
            {"approximation": {"reuse_every": 2}, "steps": 1},
            "/approximation/reuse_every",
            "reuse_every 2 is more than the 1 sampler steps; leave it out",
        ),
        (
            {"approximation": {"guidance_interval": [0.8, 0.2]}},
            "/approximation/guidance_interval",
            "[0.8, 0.2] is empty; its first number must be below its second",
        ),
        (
            {"approximation": {"guidance_interval": [0.2, 0.25]}, "steps": 10},
            "/approximation/guidance_interval",
            "[0.2, 0.25] guides none of the 10 evaluations of the network; take numbers 0.1 or more apart, or leave it "
            "out and take scale 1",
        ),
        (
            {"approximation": {"guidance_interval": [0.6, 1]}, "steps": 1},
            "/approximation/guidance_interval",
            "[0.6, 1.0] is for trajectories of several evaluations of the network, this has 1; leave it out",
        ),
        (
            {"approximation": {"guidance_interval": [0.01, 0.99]}, "steps": 10},
            "/approximation/guidance_interval",
            "[0.01, 0.99] guides all 10 evaluations of the network, which is exact; leave it out, or narrow it",
        ),
        (
            # The first and the last middle are 1/22 and 21/22, of ten evaluations they would be 1/20 and 19/20.
            {"approximation": {"guidance_interval": [0.046, 1]}, "steps": 10, "scheduler": "dpm++"},
            "/approximation/guidance_interval",
            "guides all 10 evaluations",
        ),
        (
            {"approximation": {"guidance_interval": [0.04, 0.96]}, "steps": 10, "scheduler": "pndm"},
            "/approximation/guidance_interval",
            "guides all 11 evaluations",
        ),
        (
            {"approximation": {"guidance_interval": [0.2, 0.8]}, "scale": 1},
            "/approximation/guidance_interval",
            "scale 1 has none; leave it out, or take a scale above 1",
        ),
        ({"approximation": {"distilled": True}}, "/approximation/distilled", "Extra inputs"),
        ({"approximation": "fast"}, "/approximation", "'fast'"),
    ],
)
def test_a_bad_approximation_is_refused_with_its_value_and_the_remedy(
    api: httpx2.Client, change: dict[str, JsonValue], pointer: str, named: str
) -> None:
    answer = api.post("/datasets", json={**DIGITS, **change})
    problem = answer.json()
    assert answer.status_code == 422
    assert named in problem["detail"]
    assert pointer in [item["pointer"] for item in problem["errors"]]


@pytest.mark.parametrize(
    ("interval", "scheduler"),
    [([0.2, 0.3], "dpm++"), ([0.05, 0.95], "dpm++"), ([0.046, 1], "pndm")],
)
def test_an_interval_that_guides_some_evaluations_is_taken(
    api: httpx2.Client, interval: list[JsonValue], scheduler: str
) -> None:
    asked = {"approximation": {"guidance_interval": interval}, "steps": 10, "scheduler": scheduler}
    assert api.post("/datasets", json={**DIGITS, **asked}).status_code == 202
