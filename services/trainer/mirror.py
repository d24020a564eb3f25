"""A training shown on an MLflow server too, by its REST API, for those who compare their runs there.

Never needed and never waited for: a thread sends what the training leaves in a bounded list. While the server is away
the list drops its oldest points, and the end of a training waits no longer than CLOSE_SECONDS. Only the API is used,
for the mlflow package asks for older versions of libraries that other services need.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self
from urllib.parse import unquote

import urllib3
from pydantic import BaseModel

from shared.errors import Unavailable

logger = logging.getLogger(__name__)
Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED"]
EXPERIMENT = "synthclone"
TRAINING_TAG = "synthclone.training"
CONNECT_SECONDS, READ_SECONDS = 2.0, 10.0
CLOSE_SECONDS = 5.0
PAUSE_SECONDS = 30.0
MOST_POINTS = 2000
# The server takes 1000 values a request, and values of parameters and tags of this length (MLflow 2.8).
POINTS_A_REQUEST = 100
MOST_LETTERS = 5000


class Shown(NamedTuple):
    """What the server is told of a training before its first step: parameters stay, tags may change in a later try."""

    training: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


class Point(NamedTuple):
    step: int
    milliseconds: int
    values: Mapping[str, float]


class Experiment(BaseModel):
    experiment_id: str


class Experiments(BaseModel):
    experiments: list[Experiment] = []


class RunInfo(BaseModel):
    run_id: str


class Run(BaseModel):
    info: RunInfo


class Runs(BaseModel):
    runs: list[Run] = []


class CreatedRun(BaseModel):
    run: Run


class MlflowServer:
    """Raises Unavailable, or what urllib3 and pydantic raise, for every answer but the expected one."""

    def __init__(self, uri: str) -> None:
        parsed = urllib3.util.parse_url(uri)
        self._root = parsed._replace(auth=None).url.rstrip("/")
        self._headers = urllib3.make_headers(basic_auth=unquote(parsed.auth)) if parsed.auth else {}
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False)

    def open_run(self, shown: Shown) -> str:
        """The id of the training's run, which is made once: a training that is resumed goes on in it."""
        experiment = self._experiment()
        wanted = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{TRAINING_TAG}` = '{shown.training}'",
            "max_results": 1,
        }
        found = Runs.model_validate_json(self._ask("runs/search", wanted)).runs
        run_id = found[0].info.run_id if found else self._create_run(experiment, shown.training)
        self.set_status(run_id, "RUNNING")
        described = {"params": listed(shown.parameters), "tags": listed(shown.tags)}
        self._ask("runs/log-batch", {"run_id": run_id, **described})
        return run_id

    def log(self, run_id: str, points: list[Point]) -> None:
        metrics = [
            {"key": name, "value": value, "step": point.step, "timestamp": point.milliseconds}
            for point in points
            for name, value in point.values.items()
        ]
        self._ask("runs/log-batch", {"run_id": run_id, "metrics": metrics})

    def set_status(self, run_id: str, status: Status) -> None:
        ended = {"end_time": milliseconds()} if status in ("FINISHED", "FAILED") else {}
        self._ask("runs/update", {"run_id": run_id, "status": status, **ended})

    def _experiment(self) -> str:
        wanted = {"filter": f"name = '{EXPERIMENT}'", "max_results": 1}
        found = Experiments.model_validate_json(self._ask("experiments/search", wanted)).experiments
        if found:
            return found[0].experiment_id
        return Experiment.model_validate_json(self._ask("experiments/create", {"name": EXPERIMENT})).experiment_id

    def _create_run(self, experiment: str, training: str) -> str:
        made = {
            "experiment_id": experiment,
            "run_name": training,
            "start_time": milliseconds(),
            "tags": listed({TRAINING_TAG: training}),
        }
        return CreatedRun.model_validate_json(self._ask("runs/create", made)).run.info.run_id

    def _ask(self, path: str, body: Mapping[str, object]) -> bytes:
        url = f"{self._root}/api/2.0/mlflow/{path}"
        answer = self._pool.request("POST", url, json=body, headers=self._headers)
        if answer.status != 200:
            raise Unavailable(f"{url} answered {answer.status}: {answer.data[:200].decode(errors='replace')}")
        return answer.data


def listed(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:MOST_LETTERS]} for key, value in values.items()]


def milliseconds() -> int:
    return int(time.time() * 1000)


class Mirror:
    """Used as a context: it leaves `status`, which is FAILED until somebody says better, as the run's last."""

    def __init__(self, uri: str, shown: Shown) -> None:
        self.status: Status = "FAILED"
        self._server, self._shown = MlflowServer(uri), shown
        self._run_id: str | None = None
        self._waiting: deque[Point] = deque(maxlen=MOST_POINTS)
        self._sending: list[Point] = []
        self._has_warned = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn("no answer at the end")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._waiting.append(Point(step, milliseconds(), values))
        self._wake.set()

    def _send_until_closed(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            # Asked before sending: what is added before the end is sent before the end.
            is_last = self._closing.is_set()
            try:
                self._send(is_last=is_last)
            except (Unavailable, urllib3.exceptions.HTTPError, ValueError) as problem:
                self._warn(str(problem))
                self._closing.wait(PAUSE_SECONDS)
                self._wake.set()

    def _send(self, *, is_last: bool) -> None:
        if self._run_id is None:
            self._run_id = self._server.open_run(self._shown)
        while self._sending or self._waiting:
            while self._waiting and len(self._sending) < POINTS_A_REQUEST:
                self._sending.append(self._waiting.popleft())
            self._server.log(self._run_id, self._sending)
            self._sending = []
        if is_last:
            self._server.set_status(self._run_id, self.status)

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            extra = {"job_id": self._shown.training, "reason": reason}
            logger.warning("MLflow does not answer; the training goes on without it", extra=extra)
