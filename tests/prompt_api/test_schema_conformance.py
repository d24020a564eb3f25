"""Generated requests, good and bad, find no crash and no undocumented answer."""

import json

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.prompt_api.openapi import document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# An event stream of a live job has no end.
SCHEMA = schemathesis.openapi.from_dict(json.loads(document())).exclude(path_regex="/events$")
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


@SCHEMA.parametrize()
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=QUIET,
    phases=[Phase.explicit, Phase.generate],
)
def test_every_answer_is_one_that_the_description_lists(case: schemathesis.Case, api: httpx2.Client) -> None:
    case.call_and_validate(base_url=str(api.base_url), checks=CHECKS)
