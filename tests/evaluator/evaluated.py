"""Networks and datasets as trainings and the API leave them, without any training: the weights are random."""

import hashlib
from collections.abc import Iterator, Sequence

from shared.vision.images import MEAN, STD
from shared.vision.networks import EncoderCard, create_network
from shared.vision.real.benchmarks import Benchmark

import torch
from PIL import Image
from safetensors.torch import save
from sqlalchemy import update
from torch import Tensor

from services.evaluator.evaluate import Place, evaluate
from services.evaluator.predictions import Predictions
from services.evaluator.report import Report, report_benchmark
from shared.approximations import approximation_of
from shared.realsets import RealSet
from shared.specs import DatasetRequest, DatasetSpec, EvaluationRequest, EvaluationSpec, TrainingRequest, TrainingSpec
from shared.tables import Job, JsonObject
from tests.rows import RECIPE
from tests.trainer.rows import DIGITS, add_job, claim, spec_of, tiny_request

SIZE = 32


def card_of(spec: TrainingSpec, *, training: str = "tr-test", class_names: Sequence[str] | None = None) -> EncoderCard:
    return EncoderCard(
        training=training,
        architecture="test_resnet",
        class_ids=spec.class_ids,
        class_names=tuple(class_names or spec.class_ids),
        image_size=SIZE,
        mean=MEAN,
        std=STD,
        spec=spec,
        recipe_digests=(),
        images=1257,
        seconds=1,
        versions={"synthclone": "0.1.0"},
    )


def add_network(
    place: Place,
    request: TrainingRequest | None = None,
    *,
    class_ids: Sequence[str] = DIGITS,
    class_names: Sequence[str] | None = None,
    weights: int = 0,
) -> str:
    """A training that succeeded; `weights` seeds what it left behind."""
    spec = spec_of(request or tiny_request(), class_ids)
    training = add_job(place.database, "training", state="succeeded", spec=spec.model_dump(mode="json"))
    torch.manual_seed(weights)
    data = save(create_network("test_resnet", classes=len(class_ids), image_size=SIZE).state_dict())
    folder = f"trainings/{training}"
    result: JsonObject = {
        "encoder_key": f"{folder}/encoder-1.safetensors",
        "card_key": f"{folder}/encoder-1.json",
        "encoder_sha256": hashlib.sha256(data).hexdigest(),
    }
    place.store.put(f"{folder}/encoder-1.safetensors", data)
    card = card_of(spec, training=training, class_names=class_names)
    place.store.put(f"{folder}/encoder-1.json", card.model_dump_json().encode())
    end_well(place, training, result)
    return training


def end_well(place: Place, job_id: str, result: JsonObject) -> None:
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(result=result, state="succeeded"))


def add_dataset(place: Place, *, state: str = "succeeded", **fields: object) -> str:
    """The row of a dataset asked for with these fields."""
    request = DatasetRequest.model_validate({"classes": "digits", "images_per_class": 2} | fields)
    spec = dataset_spec(request)
    return add_job(place.database, "dataset", state=state, spec=spec.model_dump(mode="json"))


def dataset_spec(request: DatasetRequest, *, is_distilled: bool = False) -> DatasetSpec:
    """By a model of 32 x 32 pixels."""
    engine = approximation_of(request.approximation, is_distilled=is_distilled) or "exact"
    sides = {"width": request.width or 32, "height": request.height or 32}
    recipe = RECIPE.model_copy(update={"engine": engine, **sides})
    return DatasetSpec(
        request=request,
        model=request.model or "digits-sd",
        recipe=recipe,
        recipe_digest=recipe.digest,
        lexicon_digest="",
        class_count=10,
        images_per_class=(2, 2),
        total_images=20,
        version="0.1.0",
    )


def add_evaluation(place: Place, training: str, **fields: object) -> str:
    request = EvaluationRequest.model_validate({"training": training} | fields)
    spec = EvaluationSpec(request=request, version="0.1.0")
    return add_job(place.database, "evaluation", state="queued", spec=spec.model_dump(mode="json"))


def evaluated(place: Place, training: str, **fields: object) -> tuple[str, JsonObject, Report]:
    """An evaluation that succeeded: its id, its result and its report."""
    evaluation = add_evaluation(place, training, **fields)
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    end_well(place, evaluation, result)
    return evaluation, result, Report.model_validate_json(place.store.get(str(result["report_key"])))


def nothing() -> Iterator[Tensor]:
    return iter(())


def grey(index: int) -> Image.Image:
    """Its brightness is its position."""
    return Image.new("RGB", (100, 50), (index, index, index))


def predictions(
    predicted: Sequence[int], labels: Sequence[int], *, names: Sequence[str] = ("a", "b", "c"), on: str = "digits"
) -> Predictions:
    """Of a test set of these classes, of which a network said this."""
    ids = tuple(f"id-{name}" for name in names)
    known = RealSet(on, "test", ids, len(labels), 1.0)
    tested = Benchmark(known, ids, tuple(range(len(ids))), torch.tensor(labels), nothing, grey)
    card = card_of(spec_of(tiny_request(), ids), class_names=names)
    said = torch.tensor(predicted)
    return Predictions(report_benchmark(tested, card, torch.eye(len(ids))[said]), said, tested.labels)
