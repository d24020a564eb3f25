"""A network that was trained elsewhere, as the API shows it."""

import httpx2
import pytest

from client import Client
from shared.classes import listed_wnids
from shared.database import Database
from shared.specs import ImportedSpec
from tests.trainer.rows import add_job


@pytest.fixture
def training(api: httpx2.Client, database: Database) -> str:
    ids = listed_wnids("digits")
    names = {"architecture": "resnet18", "imported": "the zoo", "sha256": "01ab", "version": "0.1.0"}
    spec = ImportedSpec.model_validate({**names, "image_size": 32, "class_ids": ids, "class_names": ids})
    keys = {name: f"trainings/x/{name}" for name in ("encoder_key", "card_key")}
    row = {"spec": spec.model_dump(mode="json"), "result": {**keys, "encoder_sha256": "01ab"}}
    return add_job(database, "training", state="succeeded", **row)  # type: ignore[arg-type]


def test_it_says_where_it_comes_from(api: httpx2.Client, training: str) -> None:
    shown = api.get(f"/trainings/{training}").json()
    assert shown["job"]["summary"] == "resnet18 trained elsewhere, imported as the zoo"
    assert (shown["spec"]["imported"], shown["spec"]["sha256"]) == ("the zoo", "01ab")
    assert api.get("/trainings").json()["items"][0]["summary"] == shown["job"]["summary"]


def test_it_can_be_evaluated_on_classes_that_it_knows(api: httpx2.Client, training: str) -> None:
    answer = api.post("/evaluations", json={"training": training, "benchmarks": ["digits"]})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_it_is_not_trained_again(api: httpx2.Client, training: str) -> None:
    assert api.post(f"/jobs/{training}/retry").status_code == 409


def test_the_client_reads_it(api: httpx2.Client, api_url: str, training: str) -> None:
    with Client(api_url) as client:
        found = client.trainings.get(training)
    assert (found.trained_on, found.architecture) == ("imported: the zoo", "resnet18")
    assert found.result is not None
    assert found.result.encoder_sha256 == "01ab"
