"""No team can see, change or even tell the existence of another's work: generated over every route of the application.

A new route makes the first test fail until it is listed below. What was answered is printed when the tests have ended.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from pydantic import JsonValue
from sqlalchemy import select

from services.prompt_api.app import create_app
from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job, Webhook
from tests.conftest import changed, serving
from tests.prompt_api.owned import HOOK, Owned, make_everything
from tests.tables import Report
from tests.teams import PEPPER, as_team

# Routes by what they can tell: the operators' own, what is the same for every team, a team's own, and new work.
PUBLIC = {"GET /openapi.json", "HEAD /openapi.json", "GET /livez", "GET /readyz", "GET /metrics"}
SHARED = {
    "GET /class-lists",
    "GET /class-lists/{name}",
    "GET /models",
    "GET /testsets",
    "GET /testsets/{name}",
    "POST /prompts/preview",
}
LISTS = {
    "GET /datasets",
    "GET /trainings",
    "GET /evaluations",
    "GET /experiments",
    "GET /probes",
    "GET /jobs",
    "GET /usage",
    "GET /webhooks",
}
MAKING = {
    "POST /datasets",
    "POST /trainings",
    "POST /evaluations",
    "POST /experiments",
    "POST /probes",
    "POST /webhooks",
}
# The parameter that names a thing of a team, and the fields of Owned that can stand there.
OWNED_BY: Mapping[str, tuple[str, ...]] = {
    "dataset_id": ("dataset",),
    "training_id": ("training",),
    "evaluation_id": ("evaluation",),
    "experiment_id": ("experiment",),
    "probe_id": ("probe",),
    "webhook_id": ("webhook",),
    "job_id": ("dataset", "training", "evaluation", "experiment", "probe"),
}
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


class Route(NamedTuple):
    method: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameter(self) -> str | None:
        return next((name for name in OWNED_BY if f"{{{name}}}" in self.path), None)

    @property
    def is_public(self) -> bool:
        return self.name in PUBLIC

    def filled(self, owned_id: str, owned: Owned) -> str:
        others = {"shard_id": str(owned.shard), "class_id": owned.class_id, "slot": "0", "name": "digits"}
        others["file"] = "report.html"
        values = dict.fromkeys(OWNED_BY, owned_id) | others
        return self.path.format_map(values)


def routes_of(settings: Settings) -> list[Route]:
    contexts = iter_route_contexts(create_app(settings).routes)
    return [Route(method, str(context.path)) for context in contexts for method in sorted(context.methods or ["?"])]


ROUTES = routes_of(Settings())
BY_ID = [route for route in ROUTES if route.parameter is not None]


class Place(NamedTuple):
    ours: httpx2.Client
    theirs: httpx2.Client
    reader: httpx2.Client
    nobody: httpx2.Client
    owned: Owned
    database: Database


@pytest.fixture
def place(api_settings: Settings, database: Database, store: LocalStore) -> Iterator[Place]:
    settings = changed(api_settings, auth="keys", key_pepper=PEPPER, webhook_hosts=["*.example.org"])
    with serving(create_app(settings)) as url, httpx2.Client(base_url=url, timeout=30) as nobody:
        ours = as_team(nobody, database, "ours")
        theirs = as_team(nobody, database, "theirs")
        reader = as_team(nobody, database, "ours", scopes=["read"])
        with ours, theirs, reader:
            yield Place(ours, theirs, reader, nobody, make_everything(ours, database, store, settings), database)


def unknown(owned_id: str) -> str:
    kind = owned_id.partition("-")[0]
    return f"{kind}-00000000000000000000000000"


def candidates(route: Route, owned: Owned) -> list[str]:
    assert route.parameter is not None
    return [getattr(owned, field) for field in OWNED_BY[route.parameter]]


def ask(client: httpx2.Client, route: Route, owned_id: str, owned: Owned, method: str | None = None) -> httpx2.Response:
    return client.request(method or route.method, route.filled(owned_id, owned), json={})


def seen(answer: httpx2.Response, asked: str) -> tuple[int, str, list[tuple[str, str]]]:
    """All that an answer tells, but the id that was asked for and the time."""
    headers = sorted((name, value) for name, value in answer.headers.items() if name != "date")
    return answer.status_code, answer.text.replace(asked, "ID"), headers


def state_of_all(database: Database) -> list[tuple[object, ...]]:
    with database.read() as session:
        jobs = session.execute(select(Job.id, Job.state, Job.version, Job.cancel_requested, Job.verify_asked_at))
        webhooks = session.execute(select(Webhook.id, Webhook.url, Webhook.disabled_at))
        return sorted(tuple(row) for row in [*jobs, *webhooks])


def test_every_route_is_classified() -> None:
    listed = PUBLIC | SHARED | LISTS | MAKING | {route.name for route in BY_ID}
    assert {route.name for route in ROUTES} == listed
    assert [route.name for route in BY_ID if route.name in PUBLIC | SHARED | LISTS | MAKING] == []


def test_every_parameter_of_every_route_is_known() -> None:
    owned = Owned("ds-1", "tr-1", "ev-1", "ex-1", "pr-1", "wh-1", 1)
    assert all("{" not in route.filled("x", owned) for route in ROUTES)


def test_another_teams_id_is_answered_like_one_that_does_not_exist(place: Place, report: Report) -> None:
    before = state_of_all(place.database)
    lines: list[tuple[str | int, ...]] = []
    for route in BY_ID:
        for owned_id in candidates(route, place.owned):
            other = unknown(owned_id)
            hidden = ask(place.theirs, route, owned_id, place.owned)
            absent = ask(place.theirs, route, other, place.owned)
            assert hidden.status_code == 404, route.name
            assert seen(hidden, owned_id) == seen(absent, other), route.name
        locked, reading = (ask(client, route, owned_id, place.owned) for client in (place.nobody, place.reader))
        lines.append((route.name, hidden.status_code, locked.status_code, reading.status_code))
    title = f"another team's ids, on {place.database.engine.name}"
    report(title, ("route", "another team sees", "without a key", "with a read key"), lines)
    assert state_of_all(place.database) == before


def test_the_owner_finds_everything_that_the_others_cannot(place: Place) -> None:
    looking = [route for route in BY_ID if route.method == "GET"]
    for route in looking:
        answers = [ask(place.ours, route, owned_id, place.owned) for owned_id in candidates(route, place.owned)]
        # Of a job the first is a dataset, which alone has classes.
        assert answers[0].status_code == 200, (route.name, answers[0].text)


def test_other_methods_tell_nothing_about_another_teams_id(place: Place) -> None:
    before = state_of_all(place.database)
    for route in BY_ID:
        for method in METHODS:
            owned_id = candidates(route, place.owned)[0]
            hidden = ask(place.theirs, route, owned_id, place.owned, method)
            absent = ask(place.theirs, route, unknown(owned_id), place.owned, method)
            assert seen(hidden, owned_id) == seen(absent, unknown(owned_id)), (method, route.path)
            assert hidden.is_client_error, (method, route.path)
    assert state_of_all(place.database) == before


def test_another_teams_lists_show_nothing_of_ours(place: Place) -> None:
    cursors = ["", "?limit=1", *(f"?cursor={owned_id[3:]}" for owned_id in place.owned.ids)]
    for path in [name.removeprefix("GET ") for name in sorted(LISTS)]:
        answers = [place.theirs.get(f"{path}{query}") for query in cursors]
        assert {answer.status_code for answer in answers} == {200}, path
        hidden = (*place.owned.ids, HOOK, '"ours"')
        assert not any(name in answer.text for name in hidden for answer in answers), path
        assert any(name in place.ours.get(path).text for name in hidden), path


def test_a_body_that_names_our_ids_is_refused_like_unknown_ones(place: Place) -> None:
    dataset, training = place.owned.dataset, place.owned.training
    for path, owned_id, field in (("/trainings", dataset, "datasets"), ("/evaluations", training, "training")):
        bodies = [{field: [name] if field == "datasets" else name} for name in (owned_id, unknown(owned_id))]
        hidden, absent = (place.theirs.post(path, json=body) for body in bodies)
        assert hidden.status_code == 422
        assert seen(hidden, owned_id) == seen(absent, unknown(owned_id))


def test_another_teams_dataset_cannot_be_probed(place: Place) -> None:
    ours = place.owned.dataset
    bodies = [{"dataset": name, "benchmark": "digits"} for name in (ours, unknown(ours))]
    hidden, absent = (place.theirs.post("/probes", json=body) for body in bodies)
    assert (hidden.status_code, seen(hidden, ours)) == (422, seen(absent, unknown(ours)))


def test_another_teams_evaluation_cannot_be_compared_with(place: Place) -> None:
    own = place.theirs.post("/trainings", json={"real": "digits-train"}).json()["id"]
    ours = place.owned.evaluation
    bodies = [{"training": own, "compare_with": [name]} for name in (ours, unknown(ours))]
    hidden, absent = (place.theirs.post("/evaluations", json=body) for body in bodies)
    assert (hidden.status_code, seen(hidden, ours)) == (422, seen(absent, unknown(ours)))


def test_a_comparison_that_names_our_dataset_is_refused_like_one_of_an_unknown_dataset(place: Place) -> None:
    training = place.theirs.post("/trainings", json={"real": "digits-train"}).json()["id"]
    ours = place.owned.dataset
    bodies = [
        {"training": training, "distances": [{"dataset": name, "real": "digits", "images": 10}]}
        for name in (ours, unknown(ours))
    ]
    hidden, absent = (place.theirs.post("/evaluations", json=body) for body in bodies)
    assert hidden.status_code == 422
    assert seen(hidden, ours) == seen(absent, unknown(ours))


def test_ids_are_no_path_into_another_teams_work(place: Place) -> None:
    ours = place.owned.dataset
    own = place.theirs.post("/datasets", json={"classes": "digits", "images_per_class": 1}).json()["id"]
    tricks = [
        f"{own}/../{ours}",
        f"{own}%2f..%2f{ours}",
        f"{ours}%00",
        f" {ours}",
        f"{ours}/",
        ours.upper(),
        f"{ours};a",
    ]
    for trick in tricks:
        answer = place.theirs.get(f"/jobs/{trick}", follow_redirects=True)
        assert answer.status_code in (404, 400), trick
    assert place.theirs.get(f"/datasets/{own}/shards/{place.owned.shard}/tar").status_code == 404


def test_without_a_key_only_the_public_routes_answer(place: Place) -> None:
    for route in ROUTES:
        answer = ask(place.nobody, route, place.owned.dataset, place.owned)
        assert (answer.status_code == 401) != route.is_public, (route.name, answer.status_code)


def test_public_routes_name_no_team_and_no_job(place: Place) -> None:
    for route in ROUTES:
        if route.is_public:
            text = ask(place.nobody, route, "", place.owned).text
            assert not any(name in text for name in (*place.owned.ids, '"ours"', HOOK)), route.name


def test_a_key_that_only_reads_changes_nothing(place: Place) -> None:
    before = state_of_all(place.database)
    body: dict[str, JsonValue] = {"classes": "digits", "images_per_class": 1}
    for route in ROUTES:
        if route.method in ("GET", "HEAD"):
            continue
        answer = place.reader.request(route.method, route.filled(place.owned.dataset, place.owned), json=body)
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (403, "missing-scope"), route.name
    assert state_of_all(place.database) == before
