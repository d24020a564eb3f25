"""A job's events as they happen: server-sent, resumed after a break, or polled where they do not get through."""

import time
from collections.abc import Iterator

import httpx2
from pydantic import JsonValue, TypeAdapter

from .connection import Connection, checked
from .errors import WaitTimeout
from .models import Job, JobEvent

BREAKS_BEFORE_POLLING = 3
RECONNECT_SECONDS = 0.5
FIRST_LOOK_SECONDS = 0.25
LOOK_SECONDS = 2.0
# Longer than the server is ever silent: it sends a comment every 15 s.
STREAM_TIMEOUT = httpx2.Timeout(45, connect=5)
PAYLOAD = TypeAdapter(dict[str, JsonValue])


def follow(connection: Connection, job_id: str, *, after: int) -> Iterator[JobEvent]:
    """Events with a higher number than `after`, up to the one that ends the job."""
    seen, breaks = after, 0
    while breaks < BREAKS_BEFORE_POLLING:
        try:
            for event in stream(connection, job_id, after=seen):
                seen, breaks = event.seq, 0
                yield event
                if event.is_last:
                    return
        except httpx2.TransportError:
            time.sleep(RECONNECT_SECONDS)
        breaks += 1
    for job in changes(connection, job_id):
        yield event_of(job, seen)


def stream(connection: Connection, job_id: str, *, after: int) -> Iterator[JobEvent]:
    """Ends when the server ends it; raises TransportError when the connection breaks."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    with connection.http.sse(f"/jobs/{job_id}/events", headers=headers, timeout=STREAM_TIMEOUT) as source:
        if not source.response.is_success:
            source.response.read()
            checked(source.response)
        for sent in source:
            if sent.data:
                yield JobEvent(seq=int(sent.id), type=sent.event, payload=PAYLOAD.validate_json(sent.data))


def changes(connection: Connection, job_id: str, *, timeout_seconds: float | None = None) -> Iterator[Job]:
    """The job now and after each change that polling sees, up to its end; raises WaitTimeout."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    pause, before = FIRST_LOOK_SECONDS, None
    while True:
        job = connection.get(f"/jobs/{job_id}", Job)
        seen = (job.state, job.counts)
        if seen != before:
            before = seen
            yield job
        if job.terminal:
            return
        if deadline is not None and time.monotonic() + pause > deadline:
            raise WaitTimeout(f"{job_id} is still {job.state} after {timeout_seconds:g} s; it goes on")
        time.sleep(pause)
        pause = min(2 * pause, LOOK_SECONDS)


def event_of(job: Job, seq: int) -> JobEvent:
    counts = {"done": job.counts.done, "failed": job.counts.failed, "total": job.counts.total}
    return JobEvent(seq=seq, type="state", payload={"state": job.state, **counts})
