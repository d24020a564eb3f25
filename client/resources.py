"""The API's resources as methods; every request is a model of `shared.specs`, every answer one of `client.models`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.experiment_estimate import ExperimentEstimate
from shared.experiments import ExperimentRequest
from shared.probes import ProbeRequest
from shared.specs import DatasetRequest, EvaluationRequest, TrainingRequest

from .connection import Connection, Query
from .errors import JobFailed
from .events import Patience, changes, follow
from .models import (
    Dataset,
    Estimate,
    Evaluation,
    EvaluationReport,
    Experiment,
    Item,
    Job,
    JobEvent,
    JobKind,
    JobState,
    Page,
    Preview,
    Probe,
    ProbeReport,
    RealSet,
    RealSetDetail,
    RealSets,
    Shard,
    Training,
)


class PreviewRequest(DatasetRequest):
    slots: int
    limit: int


class Resource:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection


class Datasets(Resource):
    def create(self, *, idempotency_key: str | None = None, **fields: object) -> Job:
        """`fields` are those of shared.specs.DatasetRequest: classes, prompt, scale, size, images_per_class..."""
        return self.submit(DatasetRequest.model_validate(fields), idempotency_key=idempotency_key)

    def submit(self, request: DatasetRequest, *, idempotency_key: str | None = None) -> Job:
        return self._connection.post("/datasets", request, Job, key=idempotency_key)

    def estimate(self, request: DatasetRequest) -> Estimate:
        """Checks the request as `submit` would, and creates nothing."""
        return self._connection.post("/datasets", request, Estimate, query={"dry_run": True})

    def get(self, dataset_id: str) -> Dataset:
        return self._connection.get(f"/datasets/{dataset_id}", Dataset)

    def list(self) -> Iterator[Job]:
        """Newest first."""
        return pages(self._connection, "/datasets", Job)

    def shards(self, dataset_id: str) -> Iterator[Shard]:
        return pages(self._connection, f"/datasets/{dataset_id}/shards", Shard)

    def verify(self, dataset_id: str) -> Job:
        """Has every stored object read again; damaged ones are drawn anew."""
        return self._connection.post(f"/datasets/{dataset_id}/verify", None, Job)

    def image(self, dataset_id: str, class_id: str, slot: int) -> bytes:
        """One image as JPEG."""
        return self._connection.get_bytes(f"/datasets/{dataset_id}/images/{class_id}/{slot}")


class Trainings(Resource):
    def create(self, *, idempotency_key: str | None = None, **fields: object) -> Job:
        """`fields` are those of shared.specs.TrainingRequest: datasets or real, architecture, steps, seed..."""
        return self.submit(TrainingRequest.model_validate(fields), idempotency_key=idempotency_key)

    def submit(self, request: TrainingRequest, *, idempotency_key: str | None = None) -> Job:
        return self._connection.post("/trainings", request, Job, key=idempotency_key)

    def get(self, training_id: str) -> Training:
        return self._connection.get(f"/trainings/{training_id}", Training)


class Evaluations(Resource):
    def create(self, *, idempotency_key: str | None = None, **fields: object) -> Job:
        """`fields` are those of shared.specs.EvaluationRequest: training, benchmarks."""
        return self.submit(EvaluationRequest.model_validate(fields), idempotency_key=idempotency_key)

    def submit(self, request: EvaluationRequest, *, idempotency_key: str | None = None) -> Job:
        return self._connection.post("/evaluations", request, Job, key=idempotency_key)

    def get(self, evaluation_id: str) -> Evaluation:
        return self._connection.get(f"/evaluations/{evaluation_id}", Evaluation)

    def report(self, evaluation_id: str) -> EvaluationReport:
        return self._connection.get(f"/evaluations/{evaluation_id}/report", EvaluationReport)

    def save(self, evaluation_id: str, folder: Path) -> list[Path]:
        """Write the report and its figure into the folder; raises ApiRefused while there is none."""
        return save_report(self._connection, f"/evaluations/{evaluation_id}", self.get(evaluation_id).files, folder)


class Experiments(Resource):
    def create(self, *, idempotency_key: str | None = None, **fields: object) -> Job:
        """`fields` are those of shared.experiments.ExperimentRequest: name, classes, grids, real, training..."""
        return self.submit(ExperimentRequest.model_validate(fields), idempotency_key=idempotency_key)

    def submit(self, request: ExperimentRequest, *, idempotency_key: str | None = None) -> Job:
        return self._connection.post("/experiments", request, Job, key=idempotency_key)

    def estimate(self, request: ExperimentRequest) -> ExperimentEstimate:
        """Checks the request as `submit` would, but for real sets, and creates nothing."""
        return self._connection.post("/experiments", request, ExperimentEstimate, query={"dry_run": True})

    def get(self, experiment_id: str) -> Experiment:
        return self._connection.get(f"/experiments/{experiment_id}", Experiment)

    def save(self, experiment_id: str, folder: Path) -> list[Path]:
        """Write the report and its figures into the folder; raises ApiRefused while there is none."""
        return save_report(self._connection, f"/experiments/{experiment_id}", self.get(experiment_id).files, folder)


class RealImages(Resource):
    def list(self) -> Iterator[RealSet]:
        """The built-in ones, then what the operator registered, by name."""
        return iter(self._connection.get("/testsets", RealSets).root)

    def get(self, name: str) -> RealSetDetail:
        return self._connection.get(f"/testsets/{name}", RealSetDetail)


class Probes(Resource):
    def create(self, *, idempotency_key: str | None = None, **fields: object) -> Job:
        """`fields` are those of shared.probes.ProbeRequest: dataset, benchmark, shares, repeats, seed."""
        return self.submit(ProbeRequest.model_validate(fields), idempotency_key=idempotency_key)

    def submit(self, request: ProbeRequest, *, idempotency_key: str | None = None) -> Job:
        return self._connection.post("/probes", request, Job, key=idempotency_key)

    def get(self, probe_id: str) -> Probe:
        return self._connection.get(f"/probes/{probe_id}", Probe)

    def report(self, probe_id: str) -> ProbeReport:
        return self._connection.get(f"/probes/{probe_id}/report", ProbeReport)


class Jobs(Resource):
    def get(self, job_id: str) -> Job:
        return self._connection.get(f"/jobs/{job_id}", Job)

    def list(self, *, state: JobState | None = None, kind: JobKind | None = None) -> Iterator[Job]:
        """Newest first."""
        return pages(self._connection, "/jobs", Job, {"state": state, "kind": kind})

    def cancel(self, job_id: str) -> Job:
        return self._connection.post(f"/jobs/{job_id}/cancel", None, Job)

    def retry(self, job_id: str) -> Job:
        """A new job with the same frozen request."""
        return self._connection.post(f"/jobs/{job_id}/retry", None, Job)

    def events(self, job_id: str, *, after: int = 0, timeout_seconds: float | None = None) -> Iterator[JobEvent]:
        """Up to the one that ends the job; raises WaitTimeout."""
        return follow(self._connection, job_id, Patience(timeout_seconds), after=after)

    def changes(self, job_id: str, *, timeout_seconds: float | None = None) -> Iterator[Job]:
        """The job now and after each change, up to its end; raises WaitTimeout."""
        return changes(self._connection, job_id, Patience(timeout_seconds))

    def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> Job:
        """The job once it ended well; raises JobFailed, or WaitTimeout while it is still alive."""
        *_, job = self.changes(job_id, timeout_seconds=timeout_seconds)
        if not job.ended_well:
            raise JobFailed(job)
        return job


class Prompts(Resource):
    def preview(self, *, slots: int = 3, limit: int = 20, **fields: object) -> Preview:
        """The very prompts that a dataset of these `fields` would be drawn with, of each class's first slots."""
        request = PreviewRequest.model_validate({**fields, "slots": slots, "limit": limit})
        return self._connection.post("/prompts/preview", request, Preview)


def save_report(connection: Connection, base: str, names: Sequence[str], folder: Path) -> list[Path]:
    """report.json first, then the files with these names."""
    report = connection.get_bytes(f"{base}/report")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(report)
    # Names come from the server: only their last part may say where a file goes.
    files = {folder / Path(name).name: f"{base}/files/{name}" for name in names}
    for path, address in files.items():
        path.write_bytes(connection.get_bytes(address))
    return [folder / "report.json", *files]


def pages(connection: Connection, path: str, item: type[Item], query: Query | None = None) -> Iterator[Item]:
    cursor: str | int | None = None
    while True:
        page = connection.get(path, Page[item], query={**(query or {}), "cursor": cursor})  # type: ignore[valid-type]  # a generic model is made at run time
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return
