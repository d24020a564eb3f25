"""The S3 policies, given to users of a real S3 server: each service can do its work, and nothing else."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest

from shared.errors import NotFound, Unavailable
from shared.settings import PROJECT_ROOT
from shared.storage import ObjectStore, open_store
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, has_radosgw, radosgw, s3_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_radosgw(), reason="Ceph's radosgw is not installed"),
]
POLICIES = sorted((PROJECT_ROOT / "deploy/policies").glob("*.json"))
AREAS = ("images", "datasets", "trainings", "evaluations", "experiments", "probes", "sweeps", "real", "others")


class Server(NamedTuple):
    address: str

    def store(self, access_key: str, secret_key: str) -> ObjectStore:
        keys = {"s3_access_key": access_key, "s3_secret_key": secret_key}
        return open_store(s3_settings(self.address, s3_bucket="synthclone", **keys))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ceph")
    with radosgw(folder / "store") as address:
        make_users(folder / "store/ceph.conf", address)
        server = Server(address)
        server.store(ACCESS_KEY, SECRET_KEY).create_bucket()  # type: ignore[attr-defined]
        yield server


def make_users(config: Path, address: str) -> None:
    def admin(*words: str) -> None:
        subprocess.run(["radosgw-admin", "-c", str(config), *words], check=True, capture_output=True)

    admin("caps", "add", "--uid=test", "--caps=user-policy=*")
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    iam = boto3.client("iam", endpoint_url=f"http://{address}", **keys)
    for policy in POLICIES:
        name = policy.stem
        user = ("user", "create", f"--uid={name}", f"--display-name={name}")
        admin(*user, f"--access-key=key-{name}", f"--secret-key=secret-{name}")
        iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=policy.read_text())


@pytest.fixture
def owner(server: Server) -> ObjectStore:
    """Everything is there, with an object in each area."""
    owner = server.store(ACCESS_KEY, SECRET_KEY)
    for area in AREAS:
        owner.put(f"{area}/there", b"bytes")
    return owner


MAY = {
    "api": {"get": "images datasets evaluations experiments probes"},
    "dispatcher": {
        "get": "images datasets sweeps",
        "put": "datasets sweeps",
        "delete": "images datasets trainings evaluations experiments probes sweeps",
    },
    "worker": {"get": "images", "put": "images", "delete": "images"},
    "trainer": {"get": "images datasets trainings real", "put": "trainings probes", "delete": "trainings"},
    "evaluator": {"get": "images datasets trainings evaluations real", "put": "evaluations experiments"},
}


@pytest.mark.parametrize("service", MAY)
def test_a_service_can_get_put_and_delete_where_it_works_and_nowhere_else(
    server: Server, owner: ObjectStore, service: str
) -> None:
    store = server.store(f"key-{service}", f"secret-{service}")
    actions = {
        "get": lambda area: store.get(f"{area}/there"),
        "put": lambda area: store.put(f"{area}/new", b"bytes"),
        "delete": lambda area: store.delete(f"{area}/there"),
    }
    found = {name: " ".join(area for area in AREAS if is_allowed(action, area)) for name, action in actions.items()}
    assert {name: areas for name, areas in found.items() if areas} == MAY[service]


def is_allowed(action: object, area: str) -> bool:
    assert callable(action)
    try:
        action(area)
    except Unavailable as error:
        return "AccessDenied" not in error.detail
    return True


@pytest.mark.parametrize("service", MAY)
def test_a_service_finds_the_bucket_and_is_told_of_an_object_that_is_missing(
    server: Server, owner: ObjectStore, service: str
) -> None:
    store = server.store(f"key-{service}", f"secret-{service}")
    store.check()
    area = MAY[service]["get"].split()[0]
    assert store.size(f"{area}/missing") is None
    with pytest.raises(NotFound):
        store.get(f"{area}/missing")


def test_the_dispatcher_can_list_what_it_sweeps(server: Server, owner: ObjectStore) -> None:
    store = server.store("key-dispatcher", "secret-dispatcher")
    assert [entry.key for entry in store.entries("trainings/there")] == ["trainings/there"]
