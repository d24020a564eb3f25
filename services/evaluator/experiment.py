"""One experiment, when all its evaluations have ended: their reports in, one report with figures out."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shared.vision.networks import library_versions

from pydantic import JsonValue

from shared.endings import Ending, ending_of
from shared.errors import Rejected
from shared.experiments import (
    Arm,
    Cell,
    ExperimentDataset,
    ExperimentRequest,
    ExperimentSpec,
    TrainingFields,
    count_images,
)
from shared.job_leases import JobLease
from shared.recipes import TrainingRecipe
from shared.storage import ObjectStore
from shared.tables import JsonObject

from .evaluate import Place
from .experiment_figures import draw_figures
from .experiment_parts import BenchmarkScore, Ended, Experiment, Tested, read_ended, read_recipes, read_spec, read_tests
from .experiment_report import ExperimentReport, Failure, Row, Score, markdown, page, score
from .published import published_top1, setting_of
from .stored_files import put_files


def ending_of_experiment(place: Place, lease: JobLease) -> Ending:
    """Partial where some evaluation is missing; failed where all are."""
    ending = ending_of(lambda: report_experiment(place, lease))
    failed = (ending.result or {}).get("failed", 0)
    assert isinstance(failed, int)
    return ending.model_copy(update={"failed": failed})


def report_experiment(place: Place, lease: JobLease) -> JsonObject:
    with place.database.read() as session:
        spec = read_spec(session, lease.job_id)
    ended = read_ended(place.database, spec)
    failures = [failure(spec, arm, ended) for arm in spec.arms if ended[arm.evaluation].state != "succeeded"]
    if len(failures) == len(spec.arms):
        raise Rejected(f"none of {len(failures)} evaluations succeeded; {failures[0].job}: {failures[0].reason}")
    tested = [read_tests(place.store, arm, ended) for arm in spec.arms if ended[arm.evaluation].state == "succeeded"]
    known = Experiment(spec, ended, read_recipes(place.database, spec), tested)
    report = ExperimentReport(
        experiment=lease.job_id,
        name=spec.request.name,
        benchmarks=spec.request.tests,
        recipes={name: protocol(spec.request.recipes[name], recipe) for name, recipe in known.recipes.items()},
        rows=tuple(make_rows(known)),
        failures=tuple(failures),
        notes=(*transfer_notes(spec.request), *partial_notes(known), *uneven_notes(known)),
        versions={"synthclone": spec.version, **library_versions()},
    )
    return store_files(place.store, lease, report)


def failure(spec: ExperimentSpec, arm: Arm, ended: Mapping[str, Ended]) -> Failure:
    """Named after the first job in the chain that went wrong."""
    chain = [ended[job_id] for job_id in (arm.dataset, arm.training, arm.evaluation) if job_id]
    first = next(job for job in chain if job.state in ("failed", "cancelled"))
    return Failure(
        trained_on=trained_on(spec, arm),
        recipe=arm.recipe,
        seed=arm.seed,
        job=first.id,
        state=first.state,
        reason=str(first.error["detail"]) if first.error else "without a reason of its own",
    )


def dataset_of(spec: ExperimentSpec, arm: Arm) -> ExperimentDataset | None:
    return next((dataset for dataset in spec.datasets if dataset.id == arm.dataset), None)


def trained_on(spec: ExperimentSpec, arm: Arm) -> str:
    dataset = dataset_of(spec, arm)
    return f"real: {arm.real}" if dataset is None else dataset.cell.label


def transfer_notes(request: ExperimentRequest) -> Iterator[str]:
    if request.transfer:
        yield (
            f"{', '.join(request.transfer)}: top-1 of linear classifiers on the networks' features, for each network "
            f"the mean of {request.transfer_seeds} tuned and fitted"
        )


def partial_notes(known: Experiment) -> Iterator[str]:
    for dataset in known.spec.datasets:
        if known.is_partial(dataset):
            yield (
                f"{dataset.cell.label}: its dataset {dataset.id} ended partial, with "
                f"{known.ended[dataset.id].done:,} of {dataset.images:,} images"
            )


def uneven_notes(known: Experiment) -> Iterator[str]:
    """Networks of other classes are tested on other images of a set."""
    for benchmark in known.spec.request.tests:
        counts = sorted({each.tests[benchmark].images for each in known.tested})
        if len(counts) > 1:
            found = ", ".join(f"{count:,}" for count in counts)
            yield f"{benchmark}: the networks were tested on {found} of its images; do not compare their numbers"


def protocol(fields: TrainingFields, recipe: TrainingRecipe) -> dict[str, JsonValue]:
    """As asked for, and the whole recipe that this stood for."""
    asked = {"architecture": fields.architecture, "steps": fields.steps, "image size": fields.image_size}
    unused = {"epochs"} if fields.steps is not None else set()
    whole: dict[str, JsonValue] = recipe.model_dump(mode="json", exclude=unused)
    return {**{key: value for key, value in asked.items() if value is not None}, **whole}


def make_rows(known: Experiment) -> Iterator[Row]:
    groups: dict[tuple[str, str | None, str | None], list[Tested]] = {}
    for each in known.tested:
        groups.setdefault((each.arm.recipe, each.arm.dataset, each.arm.real), []).append(each)
    for group in groups.values():
        yield make_row(known, group)


def make_row(known: Experiment, group: Sequence[Tested]) -> Row:
    """Of networks that differ in their seed only."""
    arm, images = group[0].arm, group[0].images
    dataset = dataset_of(known.spec, arm)
    cell = dataset.cell if dataset else None
    return Row(
        trained_on=trained_on(known.spec, arm),
        recipe=arm.recipe,
        real=arm.real,
        prompt=cell.prompt_words if cell else None,
        guidance=cell.scale if cell else None,
        amount=cell.amount if cell else None,
        model=cell.model if cell else None,
        sampler_steps=cell.steps if cell else None,
        approximation=cell.approximation.label if cell and cell.approximation else None,
        images=images,
        times=times(known.spec.request, cell, images) if cell else None,
        seeds=tuple(each.arm.seed for each in group),
        trainings=tuple(each.arm.training for each in group),
        evaluations=tuple(each.arm.evaluation for each in group),
        scores=tuple(make_scores(known, dataset, group)),
    )


def times(request: ExperimentRequest, cell: Cell, images: int) -> float:
    """The images trained on as a multiple of the real data set, to three digits."""
    real = cell.model_copy(update={"size": "1x", "images_per_class": None})
    return float(f"{images / count_images(request.classes, real):.3g}")


def make_scores(known: Experiment, dataset: ExperimentDataset | None, group: Sequence[Tested]) -> Iterator[Score]:
    for benchmark in known.spec.request.tests:
        found = [each.tests[benchmark] for each in group]
        yield score(
            benchmark,
            images=found[0].images,
            top1=[each.top1 for each in found],
            published=published_beside(known, dataset, group[0].arm.recipe, found[0]) if dataset else None,
        )


def published_beside(
    known: Experiment, dataset: ExperimentDataset, recipe: str, tested: BenchmarkScore
) -> float | None:
    request = known.spec.request
    setting = setting_of(request.classes, dataset.cell)
    if setting is None or tested.crop_pct is None or known.is_partial(dataset):
        return None
    return published_top1(
        setting,
        request.recipes[recipe],
        known.recipes[recipe],
        kind=tested.kind,
        crop_pct=tested.crop_pct,
        images=tested.images,
    )


def store_files(store: ObjectStore, lease: JobLease, report: ExperimentReport) -> JsonObject:
    """The job's result: where each file is, and its hash."""
    with tempfile.TemporaryDirectory() as folder:
        figures, notes = draw(report, Path(folder))
    report = report.model_copy(update={"notes": (*report.notes, *notes)})
    vectors = {name: data for name, data in figures.items() if name.endswith(".svg")}
    files = figures | {
        "report.md": markdown(report, list(vectors)).encode(),
        "report.html": page(report, vectors).encode(),
        "report": report.model_dump_json(indent=2).encode(),
    }
    result: JsonObject = {"failed": len(report.failures), "summary": summary(report)}
    return result | put_files(store, lease, "experiments", files)


def draw(report: ExperimentReport, folder: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The figures' bytes by file name; a pair for each way of training, of the first test set."""
    names: list[str] = []
    notes: list[str] = []
    for recipe in report.recipes:
        suffix = f"-{recipe}" if len(report.recipes) > 1 else ""
        rows = [row for row in report.rows if row.recipe == recipe]
        drawn = draw_figures(rows, report.benchmarks[0], folder, suffix=suffix)
        names += drawn.files
        notes += drawn.notes
    return {name: (folder / name).read_bytes() for name in names}, tuple(notes)


def summary(report: ExperimentReport) -> dict[str, JsonValue]:
    """Mean top-1 on the first test set."""
    return {f"{row.recipe}: {row.trained_on}": row.scores[0].mean for row in report.rows}
