"""What the API answers, as far as this client reads it; fields it does not know are ignored."""

from datetime import date, datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, RootModel

JobState = Literal["waiting", "queued", "running", "succeeded", "partial", "failed", "cancelled"]
JobKind = Literal["dataset", "training", "evaluation"]
TERMINAL: tuple[JobState, ...] = ("succeeded", "partial", "failed", "cancelled")
Item = TypeVar("Item", bound=BaseModel)


class Answered(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Answered):
    """RFC 9457 problem details, of a refused request or of a failed job."""

    type: str = "about:blank"
    title: str = "Failed"
    status: int = 0
    detail: str = ""
    retryable: bool = False

    @property
    def text(self) -> str:
        return self.detail or self.title


class Page(Answered, Generic[Item]):
    items: list[Item]
    next_cursor: str | int | None = None


class Counts(Answered):
    """Images of a dataset, steps of a training, benchmarks of an evaluation."""

    total: int
    done: int
    rejected: int
    failed: int
    reused: int


class ClassCounts(Answered):
    total: int
    done: int


class Cost(Answered):
    """What was made for a job; what it reused is not in here."""

    drawn_images: int
    worker_seconds: float
    stored_bytes: int


class Job(Answered):
    id: str
    kind: JobKind
    state: JobState
    terminal: bool
    summary: str
    progress: float
    counts: Counts
    classes: ClassCounts | None = None
    rate: float | None = None
    eta_seconds: float | None = None
    error: Problem | None = None
    cost: Cost
    deadline: datetime | None = None
    stop_reason: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    links: dict[str, str] = {}

    @property
    def ended_well(self) -> bool:
        return self.state in ("succeeded", "partial")

    @property
    def problem(self) -> Problem:
        return self.error or Problem(title=self.state, detail=f"{self.id} {self.state} without an error of its own")


class JobEvent(Answered):
    """`seq` is what a reader resumes after; polling repeats the last one it knows."""

    seq: int
    type: str
    payload: dict[str, JsonValue]

    @property
    def is_last(self) -> bool:
        return self.type == "state" and self.payload.get("state") in TERMINAL


class Estimate(Answered):
    """What a dataset would take; only the counts are exact."""

    summary: str
    total_images: int
    estimated_bytes: int
    estimated_worker_hours: float
    warnings: list[str] = []


class DatasetClass(Answered):
    label: int
    id: str
    names: list[str]
    total: int


class Manifest(Answered):
    """Where the list of all shard objects is, with their digests."""

    url: str
    manifest_sha256: str
    images: int
    bytes: int


class Dataset(Answered):
    job: Job
    spec: dict[str, JsonValue]
    classes: list[DatasetClass]
    manifest: Manifest | None = None


class Shard(Answered):
    """A tar object; the dataset takes the slots from `start` to below `start + take` of it."""

    id: int
    key: str
    bytes: int
    sha256: str
    class_id: str
    label: int
    start: int
    stop: int
    take: int
    url: str


class TrainingRequested(Answered):
    datasets: tuple[str, ...]
    real: str | None
    architecture: str
    seed: int


class TrainingSpec(Answered):
    request: TrainingRequested
    class_names: tuple[str, ...]


class TrainingResult(Answered):
    encoder_key: str
    encoder_sha256: str
    images: int
    steps: int
    seconds: float
    final_loss: float


class Training(Answered):
    job: Job
    spec: TrainingSpec
    result: TrainingResult | None = None

    @property
    def architecture(self) -> str:
        return self.spec.request.architecture

    @property
    def trained_on(self) -> str:
        return self.spec.request.real or " ".join(self.spec.request.datasets)


class BenchmarkReport(Answered):
    """Accuracies as shares of 1; `interval` is Wilson's for 95 %."""

    name: str
    images: int
    top1: float
    top5: float
    interval: tuple[float, float]


class EvaluationReport(Answered):
    evaluation: str
    training: str
    encoder_sha256: str
    benchmarks: list[BenchmarkReport]


class Evaluation(Answered):
    job: Job
    spec: dict[str, JsonValue]
    result: dict[str, JsonValue] | None = None


class Result(Answered):
    """One row of the table of results."""

    evaluation: str
    training: str
    trained_on: str
    architecture: str
    benchmark: str
    images: int
    top1: float
    interval: tuple[float, float]


class KindUsage(Answered):
    """Of the jobs of one kind; `done` counts images of datasets, steps of trainings, benchmarks of evaluations."""

    jobs: int
    done: int
    reused: int
    drawn_images: int
    worker_seconds: float
    stored_bytes: int


class Limit(Answered):
    """`limit` is null where there is none."""

    limit: int | None
    used: int | None


class Usage(Answered):
    """What a team's jobs created in some days have cost, and what its limits leave at this moment."""

    team: str
    since: date
    until: date
    dataset: KindUsage
    training: KindUsage
    evaluation: KindUsage
    limits: dict[str, Limit]
    weight: int


class ClassList(Answered):
    name: str
    classes: int
    images_at_1x: int


class ClassLists(RootModel[list[ClassList]]):
    pass


class Prompt(Answered):
    slot: int
    text: str
    background: str | None = None
    tokens: int | None = None
    over_limit: bool


class ClassPrompts(Answered):
    label: int
    id: str
    name: str
    prompts: list[Prompt]


class Preview(Answered):
    model: str
    token_limit: int
    classes: int
    items: list[ClassPrompts]
    warnings: list[str]
