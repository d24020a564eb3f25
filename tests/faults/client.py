"""Users of the API: one that repeats a request until it is answered, and one that watches every accepted job."""

import threading
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import uuid4

import httpx2

from tests.processes import wait_until

LOOK_SECONDS = 0.2
ORDER = ("waiting", "queued", "running", "succeeded", "partial", "failed", "cancelled")
Json = dict[str, Any]


class Sight(NamedTuple):
    state: str
    done: int


class User:
    """Repeats with the same Idempotency-Key, as a client must; `acknowledged` holds every job it was given."""

    def __init__(self, address: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=address, headers=headers, timeout=20)
        self.acknowledged: list[str] = []
        self.sights: dict[str, list[Sight]] = {}
        self.surprises: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit(self, route: str, request: Mapping[str, object], *, seconds: float = 90) -> str:
        headers = {"idempotency-key": uuid4().hex}
        job = wait_until(
            lambda: self._post(route, request, headers), seconds=seconds, what=f"an answer to POST {route}"
        )
        job_id = str(job["id"])
        if job_id not in self.acknowledged:
            self.acknowledged.append(job_id)
        return job_id

    def get(self, path: str, **headers: str) -> Json | None:
        """None while the API is away, which it may say with 503 only."""
        answer = self._ask("GET", path, headers=headers)
        return None if answer is None else answer.json()

    def post(self, path: str) -> Json:
        return wait_until(lambda: self._post(path, {}, {}), seconds=30, what=f"an answer to POST {path}")

    def cancel(self, job_id: str) -> None:
        """It may have ended first, which is a conflict and no surprise."""
        answer = self.http.post(f"/jobs/{job_id}/cancel")
        if answer.status_code not in (200, 202):
            self.surprises.append(f"cancelling {job_id} answered {answer.status_code}: {answer.text[:300]}")

    def ended(self, job_id: str, *, seconds: float) -> Json:
        def look() -> Json | None:
            job = self.get(f"/jobs/{job_id}")
            return job if job is not None and job["terminal"] else None

        return wait_until(look, seconds=seconds, what=f"the end of {job_id}")

    def done(self, job_id: str) -> int:
        job = self.get(f"/jobs/{job_id}")
        return 0 if job is None else int(job["counts"]["done"])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.http.close()

    def _post(self, route: str, request: Mapping[str, object], headers: Mapping[str, str]) -> Json | None:
        answer = self._ask("POST", route, json=request, headers=headers)
        return None if answer is None else answer.json()

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response | None:
        try:
            answer = self.http.request(method, path, **arguments)
        except httpx2.TransportError:
            return None
        if answer.is_success:
            return answer
        if path == "/readyz" and answer.status_code == 503:
            return None
        if answer.status_code != 503 or answer.headers["content-type"] != "application/problem+json":
            self.surprises.append(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return None

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for job_id in list(self.acknowledged):
                seen = self.sights.setdefault(job_id, [])
                if seen and seen[-1].state in ORDER[3:]:
                    continue
                job = self.get(f"/jobs/{job_id}")
                if job is not None:
                    seen.append(Sight(job["state"], job["counts"]["done"]))


def backward(sights: list[Sight]) -> list[str]:
    """I5: where what a user saw went back. A training that was lost may be queued again."""
    return [
        f"{before} was followed by {after}"
        for before, after in pairwise(sights)
        if after.done < before.done or ORDER.index(after.state) < ORDER.index(before.state)
    ]
