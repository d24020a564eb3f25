"""A job's events as they happen: server-sent, resumed after a break, or polled where they do not get through."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx2
from pydantic import JsonValue, TypeAdapter

from .connection import Connection, checked
from .errors import WaitTimeout
from .models import Job, JobEvent

BREAKS_BEFORE_POLLING = 3
RECONNECT_SECONDS = 0.5
FIRST_LOOK_SECONDS = 0.25
LOOK_SECONDS = 2.0
CONNECT_SECONDS = 5.0
# Longer than the server is ever silent: it sends a comment every 15 s.
SILENT_SECONDS = 45.0
# Shorter than that: comments reach nobody who could look at the clock, and would keep a stream open past its time.
TIMED_SILENT_SECONDS = 10.0
PAYLOAD = TypeAdapter(dict[str, JsonValue])


@dataclass(frozen=True)
class Patience:
    """How long a caller waits for a job to end; for ever without `seconds`."""

    seconds: float | None
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return math.inf if self.seconds is None else self.began + self.seconds - time.monotonic()

    @property
    def silent_seconds(self) -> float:
        return SILENT_SECONDS if self.seconds is None else max(min(self.left, TIMED_SILENT_SECONDS), FIRST_LOOK_SECONDS)


def follow(connection: Connection, job_id: str, patience: Patience, *, after: int) -> Iterator[JobEvent]:
    """Events with a higher number than `after`, up to the one that ends the job; raises WaitTimeout."""
    seen, breaks = after, 0
    while breaks < BREAKS_BEFORE_POLLING and patience.left > 0:
        try:
            for event in stream(connection, job_id, after=seen, silent_seconds=patience.silent_seconds):
                seen, breaks = event.seq, 0
                yield event
                if event.is_last:
                    return
                if patience.left <= 0:
                    break
        except httpx2.TransportError:
            time.sleep(RECONNECT_SECONDS)
        breaks += 1
    # Also the last look of a caller whose time is over: it tells a job that lives from a service that is gone.
    for job in changes(connection, job_id, patience):
        yield event_of(job, seen)


def stream(connection: Connection, job_id: str, *, after: int, silent_seconds: float) -> Iterator[JobEvent]:
    """Ends when the server ends it; raises TransportError when the connection breaks or is silent for too long."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    timeout = httpx2.Timeout(silent_seconds, connect=CONNECT_SECONDS)
    with connection.http.sse(f"/jobs/{job_id}/events", headers=headers, timeout=timeout) as source:
        if not source.response.is_success:
            source.response.read()
            checked(source.response)
        for sent in source:
            if sent.data:
                yield JobEvent(seq=int(sent.id), type=sent.event, payload=PAYLOAD.validate_json(sent.data))


def changes(connection: Connection, job_id: str, patience: Patience) -> Iterator[Job]:
    """The job now and after each change that polling sees, up to its end; raises WaitTimeout."""
    pause, before = FIRST_LOOK_SECONDS, None
    while True:
        job = connection.get(f"/jobs/{job_id}", Job)
        seen = (job.state, job.counts)
        if seen != before:
            before = seen
            yield job
        if job.terminal:
            return
        if patience.left < pause:
            raise WaitTimeout(f"{job_id} is still {job.state} after {patience.seconds:g} s; it goes on")
        time.sleep(pause)
        pause = min(2 * pause, LOOK_SECONDS)


def event_of(job: Job, seq: int) -> JobEvent:
    counts = {"done": job.counts.done, "failed": job.counts.failed, "total": job.counts.total}
    return JobEvent(seq=seq, type="state", payload={"state": job.state, **counts})
