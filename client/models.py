"""What the API answers, as far as this client reads it; fields it does not know are ignored."""

from datetime import date, datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, RootModel

from shared.specs import name_sources

JobState = Literal["waiting", "queued", "running", "succeeded", "partial", "failed", "cancelled"]
JobKind = Literal["dataset", "training", "evaluation", "experiment", "probe"]
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
    """Images of a dataset, steps of a training, benchmarks of an evaluation, evaluations of an experiment, networks of
    a probe."""

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
    shares: tuple[float, ...] | None
    architecture: str
    seed: int


class TrainingSpec(Answered):
    request: TrainingRequested
    class_names: tuple[str, ...]


class ImportedSpec(Answered):
    """Of a network that was trained elsewhere."""

    imported: str
    architecture: str
    class_names: tuple[str, ...]


class TrainingResult(Answered):
    """Of an imported network only the encoder is known."""

    encoder_key: str
    encoder_sha256: str
    images: int = 0
    steps: int = 0
    seconds: float = 0
    final_loss: float | None = None


class Training(Answered):
    job: Job
    spec: TrainingSpec | ImportedSpec
    result: TrainingResult | None = None

    @property
    def architecture(self) -> str:
        return self.spec.architecture if isinstance(self.spec, ImportedSpec) else self.spec.request.architecture

    @property
    def trained_on(self) -> str:
        if isinstance(self.spec, ImportedSpec):
            return f"imported: {self.spec.imported}"
        asked = self.spec.request
        return name_sources(asked.datasets, asked.real, asked.shares)


class BenchmarkReport(Answered):
    """Accuracies as shares of 1; `interval` is Wilson's for 95 %."""

    name: str
    images: int
    top1: float
    top5: float
    interval: tuple[float, float]


class TransferReport(Answered):
    """Top-1 as shares of 1: of the linear classifiers, and of a vote of the nearest training images if asked for."""

    name: str
    test_images: int
    top1: float
    neighbours: int | None = None
    neighbours_top1: float | None = None


class DistanceReport(Answered):
    """Of `images` images drawn of a dataset and of a real set each."""

    dataset: str
    real: str
    images: int
    frechet: float
    precision: float
    recall: float
    density: float
    coverage: float


class ComparedModel(Answered):
    """`interval` is the bootstrap's for 95 %."""

    evaluation: str
    training: str
    trained_on: str
    top1: float
    interval: tuple[float, float]


class ComparedPair(Answered):
    """Top-1 of one evaluation less that of another; `share_not_better` of the resamples are not above 0."""

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    share_not_better: float


class ComparisonReport(Answered):
    """Of several models on the same images of a test set."""

    benchmark: str
    images: int
    models: list[ComparedModel]
    pairs: list[ComparedPair]


class EvaluationReport(Answered):
    evaluation: str
    training: str
    encoder_sha256: str
    benchmarks: list[BenchmarkReport]
    comparisons: list[ComparisonReport] = []
    transfer: list[TransferReport] = []
    distances: list[DistanceReport] = []


class Evaluation(Answered):
    job: Job
    spec: dict[str, JsonValue]
    files: list[str]
    result: dict[str, JsonValue] | None = None


class Part(Answered):
    id: str
    state: JobState


class Arm(Answered):
    """One network of an experiment; `dataset` is null where it is trained on real images."""

    trained_on: str
    dataset: Part | None
    recipe: str
    seed: int
    training: Part
    evaluation: Part


class Stage(Answered):
    """Of all an experiment's jobs of one kind; `total` and `done` count images, steps or benchmarks."""

    jobs: int
    ended: int
    failed: int
    total: int
    done: int


class Experiment(Answered):
    job: Job
    stages: dict[str, Stage]
    arms: list[Arm]
    files: list[str]


class SavedReport(Answered):
    """What was written, of which job."""

    job: str
    files: list[str]


class Probe(Answered):
    job: Job
    spec: dict[str, JsonValue]
    result: dict[str, JsonValue] | None = None


class ProbePoint(Answered):
    share: float
    images: int
    seed: int
    top1: float


class ProbePrediction(Answered):
    """Of the small network on all images; `interval` is for 95 % of such networks, `times` the extrapolation."""

    images: int
    times: float
    top1: float
    interval: tuple[float, float]


class ProbeReport(Answered):
    probe: str
    dataset: str
    benchmark: str
    points: list[ProbePoint]
    prediction: ProbePrediction
    notes: list[str]


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
    """Of the jobs of one kind; `done` counts images, steps of trainings, benchmarks, evaluations of experiments or
    networks of probes."""

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
    experiment: KindUsage
    probe: KindUsage
    limits: dict[str, Limit]
    weight: int


class ClassList(Answered):
    name: str
    classes: int
    images_at_1x: int


class ClassLists(RootModel[list[ClassList]]):
    pass


class RealSet(Answered):
    """Real images that requests take by name for their one `role`."""

    name: str
    role: Literal["train", "test", "transfer"]
    kind: str | None
    classes: int
    images: int
    test_images: int | None
    built_in: bool


class RealSetDetail(RealSet):
    """`class_ids` in label order."""

    class_ids: list[str]


class RealSets(RootModel[list[RealSet]]):
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
