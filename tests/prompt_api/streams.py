"""Many event streams at once, over plain sockets, and the rows that they tell of."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Self

from shared import lifecycle
from shared.database import Database, database_now
from shared.ids import job_id
from shared.tables import Event, Job


def add_running_job(database: Database, team: str = "default") -> str:
    with database.write() as session:
        job = Job(
            id=job_id("training"),
            kind="training",
            team_id=team,
            state="running",
            spec={},
            total=10,
            created_at=database_now(session),
        )
        session.add(job)
        session.flush()
        lifecycle.record(session, job.id, "state", {"state": "running"})
    return job.id


def add_events(database: Database, job: str, count: int) -> None:
    """In one transaction, as every writer of events does: with the job's row locked first."""
    with database.write() as session:
        row = session.get_one(Job, job, with_for_update=True)
        row.version += 1
        session.flush()
        now = database_now(session)
        session.add_all(Event(job_id=job, type="progress", payload={"done": n}, at=now) for n in range(count))


def sequence(database: Database, job: str, *, after: int = 0) -> list[int]:
    with database.read() as session:
        return [
            seq for (seq,) in session.query(Event.seq).where(Event.job_id == job, Event.seq > after).order_by("seq")
        ]


@dataclass
class Received:
    """What one client got of a stream before it ended."""

    ids: list[int] = field(default_factory=list)
    last: dict[str, object] = field(default_factory=dict)

    def take(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if name == "id":
            self.ids.append(int(value))
        elif name == "data":
            self.last = json.loads(value)

    @classmethod
    async def of(cls, port: int, job: str, opened: asyncio.Semaphore) -> Self:
        """Reads to the end; says so when the first event is there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # 1.0: a plain body up to the end of the connection.
        writer.write(f"GET /jobs/{job}/events HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        received = cls()
        async for line in reader:
            received.take(line.decode().strip())
            if len(received.ids) == 1 and line.startswith(b"id:"):
                opened.release()
        writer.close()
        return received
