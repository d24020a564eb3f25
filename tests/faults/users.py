"""What users do while parts die: they post, watch and change their minds."""

import json
import threading
import time

import httpx2
from sqlalchemy import select

from shared.tables import Event, Job
from tests.processes import wait_until

from .client import User
from .cluster import DRAWING_SECONDS, LEASE_SECONDS, TICK_SECONDS
from .scene import Fault, Scene

POSTS = 8


def kill_api_during_posts(scene: Scene) -> None:
    """A user repeats each request with its key until it is answered: there must be one job for each."""
    api, before = scene.cluster.part("api"), job_count(scene)
    answered: list[str] = []

    def post() -> None:
        for number in range(POSTS):
            request = {"classes": [{"name": "small"}], "images_per_class": 8, "seed": scene.random.randrange(2**40)}
            answered.append(scene.cluster.user.submit("/datasets", request | {"priority": number}))
            time.sleep(0.3)

    poster = threading.Thread(target=post)
    poster.start()
    while poster.is_alive() and len(scene.blows) < 2 * POSTS:
        time.sleep(scene.random.uniform(0, 0.3))
        api.kill()
        scene.blow()
        wait_until(lambda: scene.cluster.user.get("/readyz"), seconds=60, what="the API")
    poster.join(60)
    for job_id in answered:
        scene.cluster.user.ended(job_id, seconds=60)
    made = job_count(scene) - before
    scene.draw_another()
    scene.expect(made == POSTS == len(set(answered)), f"{POSTS} requests made {made} jobs, {len(answered)} answered")


def job_count(scene: Scene) -> int:
    with scene.cluster.database.read() as session:
        return len(session.scalars(select(Job.id)).all())


def read_events_across_restarts(scene: Scene) -> None:
    api, seen = scene.cluster.part("api"), list[int]()
    reader = threading.Thread(target=follow, args=(scene.cluster.user, scene.job_id, seen))
    reader.start()
    for _ in range(2):
        scene.draw_on()
        api.kill()
        scene.blow()
    reader.join(90)
    with scene.cluster.database.read() as session:
        events = session.scalars(select(Event).where(Event.job_id == scene.job_id).order_by(Event.seq)).all()
    written = [event.seq for event in events]
    missed = [(event.seq, event.type, event.payload) for event in events if event.seq not in seen]
    scene.expect(seen == written, f"of the events {written} the reader saw {seen}; missed: {missed}")


def follow(user: User, job_id: str, seen: list[int]) -> None:
    """Reads the stream to its end, resuming after the last event seen."""
    state = ""
    while not is_terminal(state):
        headers = {"last-event-id": str(seen[-1] if seen else 0)}
        fields: dict[str, str] = {}
        try:
            with user.http.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    if not line and "id" in fields:
                        seen.append(int(fields["id"]))
                        state = json.loads(fields["data"]).get("state", state)
                        fields = {}
        except httpx2.TransportError:
            time.sleep(0.2)


def is_terminal(state: str) -> bool:
    return state in ("succeeded", "partial", "failed", "cancelled")


def cancel_at_random(scene: Scene) -> None:
    """Jobs that are cancelled end soon, and what is finished late counts nowhere."""
    user = scene.cluster.user
    for number in range(4):
        seed = scene.random.randrange(2**40)
        request = {"classes": [{"name": f"unwanted {number}"}], "images_per_class": 160, "seed": seed, "priority": 9}
        job_id = user.submit("/datasets", request)
        time.sleep(scene.random.uniform(0, 2.5))
        user.cancel(job_id)
        asked = time.monotonic()
        job = user.ended(job_id, seconds=60)
        seconds = time.monotonic() - asked
        most = LEASE_SECONDS / 3 + 2 * DRAWING_SECONDS + 2 * TICK_SECONDS + 2
        scene.expect(job["state"] == "cancelled", f"a cancelled job became {job['state']}")
        scene.expect(seconds < most, f"a cancellation took {seconds:.1f} s, at most {most:.1f} s were expected")
        time.sleep(0.5)
        later = user.get(f"/jobs/{job_id}")
        scene.expect(
            later is not None and later["counts"] == job["counts"], f"counts of {job_id} changed after its end"
        )
        scene.blow()
    scene.draw_another()


FAULTS = (
    Fault("kill -9 of the API during POSTs", kill_api_during_posts),
    Fault("kill -9 of the API under an event stream", read_events_across_restarts, images_per_class=160),
    Fault("cancelled at random moments", cancel_at_random),
)
