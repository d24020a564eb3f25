"""Several evaluations on the same images: each is paired with the others, test set by test set."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import Rejected
from shared.realsets import RealSet
from shared.specs import TRAINED_SPEC, EvaluationSpec, ImportedSpec
from shared.storage import ObjectStore
from shared.tables import Job

from .comparison import Comparison, compare_models
from .predictions import Predictions, read_predictions
from .report import ComparedModel, ComparedPair, ComparisonReport
from .trained import trained_on

SEED = 0


class Model(NamedTuple):
    """One evaluation, with what tells its network from others."""

    evaluation: str
    training: str
    trained_on: str
    architecture: str
    recipe: str
    seed: int | None
    tests: Mapping[str, Predictions]


def describe(session: Session, evaluation: str, training: str, tests: Mapping[str, Predictions]) -> Model:
    spec = TRAINED_SPEC.validate_python(session.get_one(Job, training).spec)
    if isinstance(spec, ImportedSpec):
        source = f"imported: {spec.imported}"
        return Model(evaluation, training, source, spec.architecture, recipe="not known", seed=None, tests=tests)
    request = spec.request
    return Model(
        evaluation=evaluation,
        training=training,
        trained_on=trained_on(session, request),
        architecture=request.architecture,
        recipe=spec.recipe.name,
        seed=request.seed,
        tests=tests,
    )


def read_models(database: Database, store: ObjectStore, evaluations: Sequence[str]) -> list[Model]:
    """Of evaluations that succeeded."""
    models = []
    for evaluation in evaluations:
        with database.read() as session:
            job = session.get(Job, evaluation)
        if job is None or job.result is None:
            state = "unknown" if job is None else job.state
            raise Rejected(f"evaluation {evaluation} is {state} and has no result; compare with one that succeeded")
        tests = read_predictions(store, evaluation, job.result)
        with database.read() as session:
            training = EvaluationSpec.model_validate(job.spec).request.training
            models.append(describe(session, evaluation, training, tests))
    return models


def refuse_other_images(evaluation: str, known: RealSet, class_ids: Sequence[str], others: Sequence[Model]) -> None:
    """Before anything is measured; the classes of `known` that are tested are `class_ids`."""
    digest = known.place.digest if known.place else None
    for other in others:
        if known.name not in other.tests:
            continue
        report = other.tests[known.name].report
        theirs = [each.id for each in report.per_class]
        if report.set_digest != digest:
            raise Rejected(
                f"{other.evaluation} was tested on {known.name} with the digest {report.set_digest}, "
                f"{evaluation} would be on {digest}; evaluate both on the set as it is now"
            )
        if theirs != list(class_ids):
            raise Rejected(
                f"{other.evaluation} was tested on {len(theirs)} classes of {known.name}, {evaluation} would be on "
                f"{len(class_ids)}, not the same; compare networks that know the same classes"
            )


def compare_all(own: Model, others: Sequence[Model]) -> Iterator[ComparisonReport]:
    """For each test set that another model was tested on too."""
    for benchmark in own.tests:
        models = [own, *(other for other in others if benchmark in other.tests)]
        if len(models) > 1:
            yield compare(benchmark, models)


def compare(benchmark: str, models: Sequence[Model]) -> ComparisonReport:
    """Raises Rejected where the images have other labels than those of the first model."""
    own, *others = models
    for other in others:
        if not torch.equal(other.tests[benchmark].labels.long(), own.tests[benchmark].labels.long()):
            raise Rejected(
                f"{own.evaluation} and {other.evaluation} were tested on {benchmark} with other labels or in another "
                "order; evaluate both on the set as it is now"
            )
    hits = {model.evaluation: is_hit(model.tests[benchmark]).numpy() for model in models}
    return report_of(benchmark, models, compare_models(hits, seed=SEED))


def is_hit(found: Predictions) -> torch.Tensor:
    """(N,) bool."""
    return found.predicted.long() == found.labels.long()


def report_of(benchmark: str, models: Sequence[Model], found: Comparison) -> ComparisonReport:
    return ComparisonReport(
        benchmark=benchmark,
        images=found.images,
        resamples=found.resamples,
        seed=found.seed,
        models=tuple(
            ComparedModel(
                **{name: value for name, value in model._asdict().items() if name != "tests"},
                top1=accuracy.top1,
                interval=(accuracy.low, accuracy.high),
                published=model.tests[benchmark].report.published,
            )
            for model, accuracy in zip(models, found.models, strict=True)
        ),
        pairs=tuple(
            ComparedPair(
                first=each.first,
                second=each.second,
                difference=each.difference,
                interval=(each.low, each.high),
                share_not_better=each.share_not_better,
            )
            for each in found.differences
        ),
    )
