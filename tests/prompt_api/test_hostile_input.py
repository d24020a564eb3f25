"""What a scanner sends: broken, huge and slow bodies, and tricks in every string that the API's description names."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import func, select

from services.prompt_api.connections import HEAD_SECONDS
from services.prompt_api.openapi import document
from shared.database import Database
from shared.settings import Settings
from shared.tables import Job
from tests.conftest import ServeApi, changed

JSON = {"content-type": "application/json"}
API = json.loads(document())
Schema = dict[str, Any]
SECRET = "the contents of a file beside the objects"


def jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def nested(depth: int, opened: bytes = b"[", closed: bytes = b"]") -> bytes:
    return opened * depth + closed * depth


def dataset(**fields: bytes) -> bytes:
    """A request with fields that are JSON, or nearly."""
    given = {"classes": b'"digits"', "images_per_class": b"2", **fields}
    return b"{%s}" % b",".join(b'"%s":%s' % (name.encode(), value) for name, value in given.items())


BODIES = {
    "an array in an array, and so on": (nested(100_000), 400),
    "an object in an object, and so on": (nested(50_000, b'{"a":', b"}").replace(b":}", b":1}", 1), 400),
    "deep nesting in a field": (dataset(prompt=nested(100_000)), 400),
    "nesting that the parser bears": (dataset(classes=nested(900)), 422),
    "not a number": (dataset(scale=b"NaN"), 422),
    "minus infinity": (dataset(scale=b"-Infinity"), 422),
    "a float beyond the largest": (dataset(scale=b"1e999"), 422),
    "not a number for an integer": (dataset(seed=b"NaN"), 422),
    "not a number where nothing belongs": (dataset(nothing=b"NaN"), 422),
    "an integer of 4,000 digits": (dataset(images_per_class=b"9" * 4000), 422),
    "an integer of 100,000 digits": (dataset(seed=b"9" * 100_000), 400),
    "a float of 400 digits": (dataset(scale=b"9" * 400), 422),
    "a hundred thousand unknown keys": (b"{%s}" % b",".join(b'"k%d":1' % n for n in range(100_000)), 422),
    "a hundred thousand datasets": (b'{"datasets":[%s]}' % b",".join([b"5"] * 100_000), 422),
    "a key twice, the last one wrong": (b'{"classes":"digits","classes":"in101"}', 422),
    "no UTF-8": (b'{"classes":"\xff\xfe"}', 400),
    "an overlong slash": (b'{"classes":"\xc0\xaf"}', 400),
    "half a surrogate pair": (dataset(classes=b'[{"name":"\\ud800"}]'), 422),
    "half a surrogate pair as a key": (b'{"\\ud800":1}', 422),
    "a NUL": (dataset(classes=b'[{"name":"a\\u0000b"}]'), 422),
    "writing from right to left": (dataset(classes='[{"name":"\u202egnp.exe"}]'.encode()), 422),
    "nothing but opening braces": (dataset(prompt=b'{"template":"%s"}' % (b"{" * 100_000)), 422),
    "attributes in a template": (dataset(prompt=b'{"template":"{name.__class__.__mro__}"}'), 422),
    "an index in a template": (dataset(prompt=b'{"template":"{name[0]}"}'), 422),
    "a width in a template": (dataset(prompt=b'{"template":"{name:>1000000000}"}'), 422),
    "a width from a field in a template": (dataset(prompt=b'{"template":"{name:{name}}"}'), 422),
    "a conversion in a template": (dataset(prompt=b'{"template":"{name!r}"}'), 422),
    "twenty thousand fields in a template": (dataset(prompt=b'{"template":"%s"}' % (b"{name}" * 20_000)), 422),
    "ten megabytes": (dataset(classes=b'"%s"' % (b"a" * 10_000_000)), 413),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES.keys())
def test_a_hostile_body_is_refused_everywhere(api: httpx2.Client, database: Database, body: bytes, status: int) -> None:
    answers = [api.post(path, content=body, headers=JSON) for path in ("/datasets", "/prompts/preview", "/trainings")]
    assert answers[0].status_code == status
    assert {answer.status_code for answer in answers} <= {400, 413, 422}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert max(len(answer.content) for answer in answers) < 5000
    assert jobs(database) == 0


def test_an_object_of_far_too_many_keys_is_one_fault(api: httpx2.Client) -> None:
    problem = api.post("/datasets", content=BODIES["a hundred thousand unknown keys"][0], headers=JSON).json()
    assert (problem["status"], "has 100,000 keys" in problem["detail"]) == (422, True)


POSTED = b"POST /datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
RAW = {
    "a length that is too long": (POSTED + b"Content-Length: 1000\r\n\r\n{}", 408),
    "a chunk that never ends": (POSTED + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}", 408),
    "a negative length": (POSTED + b"Content-Length: -1\r\n\r\n{}", 400),
    "a length beyond 64 bits": (POSTED + b"Content-Length: 99999999999999999999999\r\n\r\n{}", 400),
    "two lengths": (POSTED + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a length and chunks": (POSTED + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk of no number": (POSTED + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", 400),
    "compressed": (POSTED + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", 415),
    "a header of 65,700 bytes": (b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 65_700, 431),
    "an address of 100,000 bytes": (b"GET /jobs/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (b"a" * 100_000), 400),
    "an address with a bad escape": (b"GET /jobs/%zz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 404),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    "a tunnel": (b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", 400),
}


@pytest.mark.parametrize(("sent", "status"), RAW.values(), ids=RAW.keys())
def test_a_malformed_request_is_refused_in_time(
    serve_api: ServeApi, api_settings: Settings, sent: bytes, status: int
) -> None:
    client = serve_api(changed(api_settings, body_seconds=0.5))
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))  # until the server closes it
    assert int(answer.split()[1]) == status
    assert client.get("/livez").status_code == 200


def test_a_body_that_trickles_in_is_refused(serve_api: ServeApi, api_settings: Settings) -> None:
    client = serve_api(changed(api_settings, body_seconds=0.5))

    def trickle() -> Iterator[bytes]:
        for _ in range(100):
            time.sleep(0.1)
            yield b" "

    started = time.monotonic()
    answer = client.post("/datasets", content=trickle(), headers=JSON)
    assert (answer.status_code, "0.5 s" in answer.json()["detail"]) == (408, True)
    assert time.monotonic() - started < 5


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_head_that_never_ends_is_cut_off(serve_api: ServeApi, api_settings: Settings) -> None:
    client = serve_api(api_settings)
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=HEAD_SECONDS + 10) as connection:
        connection.sendall(b"GET /jobs HTTP/1.1\r\nHost: 127")
        assert connection.recv(1000) == b""


TRICKS = [
    "../../../secret.txt",
    "..%2f..%2fsecret.txt",
    "%2e%2e/%2e%2e/secret.txt",
    "..\\..\\secret.txt",
    "/etc/passwd",
    "file:///etc/passwd",
    "\0",
    "a\0b",
    "'; DROP TABLE jobs; --",
    "{name.__class__}",
    "{" * 500,
    "%s%n%x",
    "${jndi:ldap://127.0.0.1/a}",
    "<script>alert(1)</script>",
    "\r\nSet-Cookie: a=b",
    "\u202e\u2066\ufeff\u0000",
    "\ud83e\udda9",
    "ﷺ" * 100,
    "e" + "\u0301" * 1000,
    "a" * 20_000,
    "-1",
    "9" * 400,
    "NaN",
    " ",
]


def operations(*, with_body: bool) -> list[tuple[str, str]]:
    found = [(method, path) for path, methods in API["paths"].items() for method in methods]
    return [(method, path) for method, path in found if ("requestBody" in API["paths"][path][method]) == with_body]


def fill(path: str, name: str, trick: str) -> str:
    """The address with a trick for one parameter and something harmless for the others."""
    parameters = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    for parameter in parameters:
        value = quote(trick.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), safe="%/")
        path = path.replace(f"{{{parameter}}}", value if parameter == name else "1")
    return path


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_a_trick_in_an_address_finds_nothing(
    api: httpx2.Client, api_settings: Settings, database: Database, trick: str
) -> None:
    api_settings.objects_dir.mkdir(exist_ok=True)
    (api_settings.data_dir / "secret.txt").write_text(SECRET)
    asked = [
        (method, fill(path, part.strip("{}"), trick))
        for method, path in operations(with_body=False)
        for part in path.split("/")
        if part.startswith("{")
    ]
    answers = {(method, address[:80]): api.request(method, address) for method, address in asked}
    found = {address: answer.status_code for address, answer in answers.items()}
    assert {address: status for address, status in found.items() if status not in (400, 404, 405, 422)} == {}
    assert not any(SECRET in answer.text or "root:" in answer.text for answer in answers.values())


def string_fields(schema: Schema, *, depth: int = 0) -> Iterator[list[str]]:
    """Paths of keys to every string that a body may hold."""
    if "$ref" in schema:
        schema = API["components"]["schemas"][str(schema["$ref"]).rpartition("/")[2]]
    branches = [branch for kind in ("anyOf", "oneOf", "allOf") for branch in schema.get(kind, [])]
    for branch in branches:
        yield from string_fields(branch, depth=depth)
    if schema.get("type") == "string":
        yield []
    if schema.get("type") == "array" and depth < 6:
        yield from (["[]", *rest] for rest in string_fields(schema.get("items", {}), depth=depth + 1))
    for name, part in schema.get("properties", {}).items():
        yield from ([name, *rest] for rest in string_fields(part, depth=depth + 1))


def build(keys: list[str], value: str) -> Any:
    if not keys:
        return value
    inner = build(keys[1:], value)
    return [inner] if keys[0] == "[]" else {keys[0]: inner}


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_a_trick_in_any_string_of_a_body_is_no_server_error(api: httpx2.Client, trick: str) -> None:
    bodies = [
        (path, build(keys, trick))
        for _, path in operations(with_body=True)
        for keys in string_fields(API["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"])
    ]
    required: dict[str, Schema] = {
        "/datasets": {"classes": "digits", "images_per_class": 2},
        "/evaluations": {"training": "tr-1"},
        "/experiments": {
            "name": "e",
            "classes": "digits",
            "real": ["digits-train"],
            "training": {},
            "benchmarks": ["digits"],
        },
        "/probes": {"dataset": "ds-1", "benchmark": "digits"},
    }
    answers = {
        f"{path} {str(body)[:80]}": api.post(path, content=json.dumps({**required.get(path, {}), **body}), headers=JSON)
        for path, body in bodies
    }
    assert len(answers) > 15
    assert {asked: answer.text for asked, answer in answers.items() if answer.status_code >= 500} == {}


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_a_trick_in_a_query_or_header_is_no_server_error(api: httpx2.Client, trick: str) -> None:
    parameters = [
        (path, parameter["in"], parameter["name"])
        for path, methods in API["paths"].items()
        for parameter in methods.get("get", {}).get("parameters", [])
        if parameter["in"] in ("query", "header")
    ]
    header = trick.encode("utf-8", "replace").translate(None, b"\r\n\0").strip()
    answers = {
        (path, name): api.get(fill(path, "", ""), params={name: trick.encode("utf-8", "replace").decode()})
        if place == "query"
        else api.get(fill(path, "", ""), headers=[(name.encode(), header)])
        for path, place, name in parameters
    }
    assert {asked: answer.text for asked, answer in answers.items() if answer.status_code >= 500} == {}
