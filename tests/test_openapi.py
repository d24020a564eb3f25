"""The committed description of the API is the one the code makes, and its examples are true to it."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import JsonValue

from services.prompt_api.examples import RECORDED
from services.prompt_api.openapi import document

COMMITTED = Path(__file__).parents[1] / "openapi.json"
DOCUMENT = json.loads(document())
OPERATIONS = [(path, method, entry) for path, item in DOCUMENT["paths"].items() for method, entry in item.items()]


def test_the_committed_description_is_current() -> None:
    assert COMMITTED.read_text() == document(), "run `python -m services.prompt_api.openapi > openapi.json`"


def test_every_operation_is_tagged_and_named_after_its_handler() -> None:
    names = [entry["operationId"] for _, _, entry in OPERATIONS]
    assert len(set(names)) == len(names)
    assert {"create_dataset", "get_job", "list_jobs", "cancel_job", "retry_job", "create_training"} <= set(names)
    assert all(entry["tags"] and entry["description"] for _, _, entry in OPERATIONS)


def test_every_body_has_an_example_and_every_bad_body_is_documented() -> None:
    bodies = [entry for _, _, entry in OPERATIONS if "requestBody" in entry]
    assert len(bodies) == 7
    for entry in bodies:
        assert entry["requestBody"]["content"]["application/json"]["examples"]
        assert {"400", "413", "415", "422"} <= set(entry["responses"])


def test_every_json_answer_of_success_has_an_example() -> None:
    answers = [
        (entry["operationId"], media)
        for _, _, entry in OPERATIONS
        for status, answer in entry["responses"].items()
        for kind, media in answer.get("content", {}).items()
        if status.startswith("2") and kind == "application/json"
    ]
    assert {name for name, _ in answers} >= set(RECORDED)
    assert len(answers) == 42
    assert [name for name, media in answers if not {"example", "examples"} & set(media)] == []


def examples() -> list[tuple[str, JsonValue, JsonValue]]:
    """Name, schema and value of every example of a body or an answer."""
    found = []
    for _, _, entry in OPERATIONS:
        for part in [entry.get("requestBody", {}), *entry["responses"].values()]:
            for media in part.get("content", {}).values():
                named = media.get("examples", {}) | (
                    {"example": {"value": media["example"]}} if "example" in media else {}
                )
                found += [(f"{entry['operationId']} {name}", media["schema"], e["value"]) for name, e in named.items()]
    return found


@pytest.mark.parametrize(("schema", "value"), [example[1:] for example in examples()], ids=[e[0] for e in examples()])
def test_an_example_fits_its_schema(schema: dict[str, JsonValue], value: JsonValue) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)
