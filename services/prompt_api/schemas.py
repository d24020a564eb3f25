"""What the API answers with."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from shared.probes import ProbeSpec
from shared.specs import DatasetRequest, DatasetSpec, EvaluationSpec, SchedulerName, TrainedSpec

JobKind = Literal["dataset", "training", "evaluation", "experiment", "probe"]
JobState = Literal["waiting", "queued", "running", "succeeded", "partial", "failed", "cancelled"]
JsonView = dict[str, JsonValue]
JobId = Annotated[str, Field(examples=["ds-01k9zt2v6m8q4r5s7w9x0y1a2b"])]


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Counts(View):
    """Images of a dataset, steps of a training, benchmarks of an evaluation, evaluations of an experiment, networks of
    a probe."""

    total: int = Field(description="0 while it is not known yet.")
    done: int
    rejected: int = Field(description="Drawn, refused by the gate and drawn again.")
    failed: int
    reused: int = Field(description="Of the done, those that an earlier dataset had drawn.")


class ClassCounts(View):
    total: int
    done: int


class ImagesRange(View):
    smallest: int
    largest: int


class JobError(View):
    type: str
    detail: str
    retryable: bool


class Cost(View):
    """What a job has had made for it; what it reused is not in here."""

    drawn_images: int
    worker_seconds: float
    stored_bytes: int


class JobView(View):
    """One piece of work, in any state."""

    id: JobId
    kind: JobKind
    state: JobState
    terminal: bool = Field(description="The state will never change again.")
    summary: str = Field(description="What was asked for, in words.")
    cancel_requested: bool
    progress: float = Field(ge=0, le=1)
    counts: Counts
    classes: ClassCounts | None = Field(None, description="Of a dataset.")
    guidance: float | None = Field(None, description="The guidance scale of a dataset.")
    images_per_class: int | ImagesRange | None = Field(None, description="A range where classes differ.")
    model: str | None = Field(None, description="The generator of a dataset.")
    rate: float | None = Field(None, description="Counts per second over the last progress events.")
    eta_seconds: float | None = None
    error: JobError | None = None
    cost: Cost
    deadline: datetime | None = Field(None, description="When a dataset stops with what it has by then.")
    stop_reason: str | None = Field(None, description="What stopped a dataset early: its deadline or its budget.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    links: dict[str, str]


class JobPage(View):
    items: list[JobView]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last.")


class ClassProgress(View):
    label: int
    id: str
    name: str
    total: int
    done: int
    failed: int
    rejected: int


class ClassProgressPage(View):
    items: list[ClassProgress]
    next_cursor: str | None


class Estimate(View):
    """What a dataset would take; only the first three are exact."""

    summary: str
    images_per_class: int | ImagesRange
    total_images: int
    estimated_bytes: int
    estimated_worker_hours: float = Field(description="Of one worker, from the model card's rough seconds per image.")
    warnings: list[str] = Field(description="Classes that share a name or a prompt.")


class DatasetClassView(View):
    label: int
    id: str
    names: list[str]
    total: int


class ManifestLink(View):
    url: str
    manifest_key: str
    manifest_sha256: str
    images: int
    bytes: int


class DatasetView(View):
    job: JobView
    spec: DatasetSpec
    classes: list[DatasetClassView]
    manifest: ManifestLink | None = Field(description="Null until the dataset ended.")
    links: dict[str, str]


class ShardView(View):
    """An object of up to `stop - start` images, of which the dataset takes the slots below `start + take`."""

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


class ShardPage(View):
    items: list[ShardView]
    next_cursor: str | None


class SampleView(View):
    class_id: str
    label: int
    slot: int
    url: str
    metadata: JsonView = Field(description="Prompt, seeds and settings: enough to draw the image again.")


class SamplePage(View):
    items: list[SampleView]


class TrainingView(View):
    job: JobView
    spec: TrainedSpec
    result: JsonView | None
    links: dict[str, str]


class MetricPoint(View):
    name: str
    step: int
    value: float


class MetricPage(View):
    items: list[MetricPoint]
    next_cursor: str | None


class EvaluationView(View):
    job: JobView
    spec: EvaluationSpec
    files: list[str] = Field(description="Names below /evaluations/{id}/files/, once the report is there.")
    result: JsonView | None
    links: dict[str, str]


class ProbeView(View):
    job: JobView
    spec: ProbeSpec
    result: JsonView | None
    links: dict[str, str]


class ClassListView(View):
    name: str
    classes: int
    images_at_1x: int


class ListedClass(View):
    label: int
    id: str
    names: list[str]
    hypernym: str | None
    description: str | None
    images_at_1x: int


class ClassListDetail(ClassListView):
    items: list[ListedClass]


class ModelView(View):
    name: str
    licence: str
    is_default: bool
    image_size: int
    scheduler: SchedulerName
    steps: int
    distilled: bool = Field(False, description="Distilled to few steps; its datasets say so.")
    classes: list[str] | None = Field(description="The only classes it can draw; null: any text.")
    available: bool = Field(description="Its weights are here or with a live worker.")
    live_workers: int


class PreviewRequest(DatasetRequest):
    """The body of POST /datasets, and how much of it to show."""

    slots: int = Field(3, ge=1, le=20, description="Prompts to show of each class.")
    limit: int = Field(20, ge=1, le=1000, description="Classes to show.")

    def dataset_request(self) -> DatasetRequest:
        return DatasetRequest.model_validate(self.model_dump(exclude={"slots", "limit"}))


class PromptView(View):
    slot: int
    text: str
    background: str | None
    tokens: int | None = Field(description="Null where the model's own vocabulary is not on this server.")
    over_limit: bool = Field(description="Words beyond the limit would be cut off.")


class ClassPrompts(View):
    label: int
    id: str
    name: str
    prompts: list[PromptView]


class PromptPreview(View):
    model: str
    recipe_digest: str
    token_limit: int
    classes: int = Field(description="Classes of the request; items holds the first of them.")
    items: list[ClassPrompts]
    warnings: list[str]


class LiveView(View):
    status: Literal["alive"]


class CheckView(View):
    ok: bool
    milliseconds: float
    problem: str | None


class ReadyView(View):
    status: Literal["ready", "not ready"]
    checks: dict[str, CheckView]


class RealSetView(View):
    """Of a transfer set `images` are those that classifiers are fitted on, `test_images` those they are tested on."""

    name: str
    role: Literal["train", "test", "transfer"] = Field(description="The one thing that requests may use it for.")
    kind: str | None = Field(description="The published set it is a copy of.")
    classes: int
    images: int
    test_images: int | None
    built_in: bool = Field(description="It comes with the service; the others were registered by its operator.")


class RealSetDetail(RealSetView):
    class_ids: list[str] = Field(description="In label order.")
