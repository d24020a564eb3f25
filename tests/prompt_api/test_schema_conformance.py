"""Generated requests, good and bad, find no crash and no undocumented answer, whoever sends them.

With SYNTHCLONE_FUZZ_EXAMPLES=500 the requests are many and new in each run.
"""

import json
import os
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.prompt_api.app import create_app
from services.prompt_api.keys import create_key
from services.prompt_api.openapi import document
from shared.database import Database
from shared.settings import Settings
from tests.conftest import changed, serving
from tests.tables import Tally

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(json.loads(document()))
SENT = "generated requests (a test is an operation)"
MANY = os.environ.get("SYNTHCLONE_FUZZ_EXAMPLES")


def generated(examples: int) -> settings:
    return settings(
        max_examples=int(MANY or examples),
        deadline=None,
        derandomize=MANY is None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.large_base_example,
        ],
        phases=[Phase.explicit, Phase.generate],
    )


@pytest.fixture(scope="module")
def keyed_url(api_settings: Settings) -> Iterator[str]:
    """The API with keys, for as many requests as are generated."""
    pepper = SecretStr("a pepper of thirty-two characters")
    keyed = changed(api_settings, auth="keys", key_pepper=pepper, requests_per_minute=10**6)
    with serving(create_app(keyed)) as url:
        yield url


@pytest.fixture
def callers(database: Database, pepper: SecretStr) -> dict[str, dict[str, str]]:
    """The headers of a caller with every scope, of one who may only read, and of one without a key."""
    with database.write() as session:
        keys = {
            "writer": create_key(session, "ours", pepper=pepper),
            "reader": create_key(session, "ours", pepper=pepper, scopes=["read"]),
        }
    return {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()} | {"nobody": {}}


@SCHEMA.parametrize()
@generated(8)
def test_every_answer_is_one_that_the_description_lists(
    case: schemathesis.Case, api: httpx2.Client, database: Database, tally: Tally
) -> None:
    tally(SENT, f"without keys, on {database.engine.name}")
    case.call_and_validate(base_url=str(api.base_url), checks=CHECKS)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("caller", ["writer", "reader", "nobody"])
@SCHEMA.parametrize()
@generated(5)
def test_with_keys_every_answer_is_one_that_the_description_lists(
    case: schemathesis.Case, keyed_url: str, callers: dict[str, dict[str, str]], caller: str, tally: Tally
) -> None:
    tally(SENT, f"with keys: {caller}")
    case.call_and_validate(base_url=keyed_url, headers=callers[caller], checks=CHECKS)
