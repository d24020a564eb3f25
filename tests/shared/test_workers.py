"""A worker's own row."""

from shared.database import Database
from shared.schema import upgrade
from shared.workers import Presence
from tests.postgres_server import postgres_server


def test_a_worker_that_has_just_claimed_goes_on_without_the_database() -> None:
    with postgres_server() as server:
        database = Database(server.url)
        upgrade(database)
        presence = Presence(database, "train", device="cpu")
        presence.beat()
        server.crash()
        presence.set_busy(True)
        assert presence.busy
