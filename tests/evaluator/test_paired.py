"""Several networks on the same test images: what is paired, what is refused, and what is told of each."""

import pytest
from safetensors.torch import load

from client.models import EvaluationReport
from services.evaluator.comparison import compare_models
from services.evaluator.evaluate import Place, comparable, evaluate, read_encoder
from services.evaluator.paired import SEED, Model, compare_all, describe, read_models, refuse_other_images
from services.evaluator.predictions import Predictions
from services.evaluator.trained import published_for, trained_on
from shared.errors import AppError, CorruptObject, Rejected
from shared.realsets import RealPlace, RealSet
from shared.specs import EvaluationRequest
from tests.trainer.rows import DIGITS, claim, spec_of, tiny_request

from .evaluated import add_dataset, add_evaluation, add_network, end_well, evaluated, predictions


def model(evaluation: str, *tests: Predictions, seed: int = 0) -> Model:
    by_name = {each.report.name: each for each in tests}
    return Model(evaluation, f"tr-{evaluation}", "real: photos", "resnet18", "plain", seed, by_name)


def test_an_evaluation_is_paired_with_another_image_by_image(place: Place) -> None:
    first, stored, first_report = evaluated(place, add_network(place, tiny_request(seed=1), weights=1))
    second, own, report = evaluated(place, add_network(place, weights=2), compare_with=[first])
    found = report.comparisons[0]
    assert (found.benchmark, found.images, found.resamples, found.seed) == ("digits", 540, 10_000, SEED)
    assert [(each.evaluation, each.training, each.seed) for each in found.models] == [
        (second, report.training, 0),
        (first, first_report.training, 1),
    ]
    assert [each.top1 for each in found.models] == [report.benchmarks[0].top1, first_report.benchmarks[0].top1]
    columns = [load(place.store.get(str(result["predictions_key"]))) for result in (own, stored)]
    hits = [(each["digits/predicted"] == each["digits/labels"]).numpy() for each in columns]
    expected = compare_models({second: hits[0], first: hits[1]}, seed=SEED).differences[0]
    assert found.pairs[0].model_dump() == {
        "first": second,
        "second": first,
        "difference": expected.difference,
        "interval": (expected.low, expected.high),
        "share_not_better": expected.share_not_better,
    }
    assert expected.difference != 0


def test_the_client_reads_a_comparison(place: Place) -> None:
    first, _, _ = evaluated(place, add_network(place, weights=1))
    _, result, report = evaluated(place, add_network(place, weights=2), compare_with=[first])
    read = EvaluationReport.model_validate_json(place.store.get(str(result["report_key"])))
    told = report.comparisons[0]
    assert (read.comparisons[0].benchmark, read.comparisons[0].images) == ("digits", 540)
    assert [each.model_dump() for each in read.comparisons[0].pairs] == [each.model_dump() for each in told.pairs]
    assert [each.trained_on for each in read.comparisons[0].models] == ["real: digits-train"] * 2


def test_a_network_compared_with_itself_is_never_better(place: Place) -> None:
    training = add_network(place)
    first, _, _ = evaluated(place, training)
    _, _, report = evaluated(place, training, compare_with=[first])
    pair = report.comparisons[0].pairs[0]
    assert (pair.difference, pair.interval, pair.share_not_better) == (0, (0, 0), 1)


def test_an_evaluation_without_another_compares_nothing(place: Place) -> None:
    assert evaluated(place, add_network(place))[2].comparisons == ()


def test_only_what_both_were_tested_on_is_compared() -> None:
    digits, letters = predictions([0, 1], [0, 2]), predictions([1, 1], [0, 1], on="letters")
    found = list(compare_all(model("ev-1", digits, letters), [model("ev-2", letters), model("ev-3", letters)]))
    assert [(each.benchmark, [known.evaluation for known in each.models]) for each in found] == [
        ("letters", ["ev-1", "ev-2", "ev-3"])
    ]
    assert [(pair.first, pair.second) for pair in found[0].pairs] == [
        ("ev-1", "ev-2"),
        ("ev-1", "ev-3"),
        ("ev-2", "ev-3"),
    ]


def test_other_labels_are_refused_by_both_names() -> None:
    own, other = model("ev-1", predictions([0, 1], [0, 1])), model("ev-2", predictions([0, 1], [1, 0]))
    with pytest.raises(Rejected, match="ev-1 and ev-2 were tested on digits with other labels"):
        list(compare_all(own, [other]))


def test_images_of_another_digest_are_refused_before_anything_is_measured() -> None:
    other = model("ev-2", predictions([0], [0]))
    ids = ("id-a", "id-b", "id-c")
    known = RealSet("digits", "test", ids, 1, 1.0, RealPlace(None, None, "/photos", "d1" * 32))
    with pytest.raises(Rejected, match=r"ev-2 was tested on digits with the digest None, ev-1 would be on d1d1"):
        refuse_other_images("ev-1", known, ids, [other])
    refuse_other_images("ev-1", known._replace(name="letters"), ids, [other])
    refuse_other_images("ev-1", known._replace(place=None), ids, [other])


def test_another_cut_of_the_classes_is_refused_and_nothing_is_measured(place: Place) -> None:
    few, _, _ = evaluated(place, add_network(place, class_ids=DIGITS[:9]))
    later = add_evaluation(place, add_network(place), compare_with=[few])
    said = f"{few} was tested on 9 classes of digits, {later} would be on 10, not the same"
    with pytest.raises(Rejected, match=said):
        evaluate(place, claim(place.database, "evaluation"), ())
    assert not list(place.store.entries(f"evaluations/{later}/"))


def test_damaged_predictions_are_told_by_the_evaluation_they_are_of(place: Place) -> None:
    first, result, _ = evaluated(place, add_network(place))
    place.store.put(str(result["predictions_key"]), b"other")
    with pytest.raises(
        CorruptObject, match=f"the predictions of {first} cannot be read .*; evaluate its training again"
    ):
        read_models(place.database, place.store, [first])


@pytest.mark.parametrize(
    ("result", "said"),
    [(None, "is queued and has no result"), ({"report_key": "r"}, "is of a version that kept no predictions")],
)
def test_an_evaluation_without_predictions_is_refused(place: Place, result: dict[str, str] | None, said: str) -> None:
    evaluation = add_evaluation(place, add_network(place))
    if result is not None:
        end_well(place, evaluation, dict(result))
    with pytest.raises(Rejected, match=f"{evaluation} {said}"):
        read_models(place.database, place.store, [evaluation])


def test_what_is_unknown_cannot_be_compared_with(place: Place) -> None:
    encoder = read_encoder(place, training := add_network(place))
    request = EvaluationRequest(training=training, compare_with=("ev-none",))
    with pytest.raises(AppError, match="evaluation ev-none is unknown"):
        comparable(place, "ev-1", encoder, request)


def test_a_mixture_is_told_with_its_shares(place: Place) -> None:
    first = add_dataset(place, prompt="description", scale=2)
    second = add_dataset(place, prompt={"template": "a {name}"}, images_per_class=None, size="2x")
    request = tiny_request(datasets=(first, second), shares=(0.5, 0.25, 0.25))
    with place.database.read() as session:
        told = describe(session, "ev-1", add_network(place, request), {})
        alone = trained_on(session, tiny_request(real=None, datasets=(second,)))
    assert told.trained_on == (
        "50 % synthetic: description, guidance 2, 2 per class, digits-sd + "
        '25 % synthetic: "a {name}", guidance 7.5, 2x, digits-sd + 25 % real: digits-train'
    )
    assert alone == 'synthetic: "a {name}", guidance 7.5, 2x, digits-sd'


def test_a_mixture_of_exact_and_approximated_images_is_told(place: Place) -> None:
    exact, approximated = add_dataset(place), add_dataset(place, approximation={"reuse_every": 3})
    with place.database.read() as session:
        told = trained_on(session, tiny_request(real=None, datasets=(exact, approximated), shares=(0.5, 0.5)))
    assert told == (
        "50 % synthetic: name, guidance 7.5, 2 per class, digits-sd + "
        "50 % synthetic: name, guidance 7.5, 2 per class, digits-sd, "
        "approximated (deep features of one in 3 evaluations)"
    )


def test_a_size_that_was_asked_for_is_told(place: Place) -> None:
    dataset = add_dataset(place, width=64)
    with place.database.read() as session:
        told = trained_on(session, tiny_request(real=None, datasets=(dataset,)))
    assert told == "synthetic: name, guidance 7.5, 2 per class, digits-sd, 64 x 32 pixels"


PAPER: dict[str, object] = {"classes": "in100", "prompt": "description", "scale": 2, "size": "1x", "model": "sd14"}


@pytest.mark.parametrize(
    ("changes", "state", "published"),
    [
        ({}, "succeeded", 0.635),
        ({"size": None}, "succeeded", 0.635),
        ({}, "partial", None),
        ({"scheduler": "euler"}, "succeeded", None),
        ({"steps": 20}, "succeeded", None),
        ({"width": 256}, "succeeded", None),
        ({"height": 256}, "succeeded", None),
        ({"approximation": {"reuse_every": 3}}, "succeeded", None),
        ({"scale": 3}, "succeeded", None),
        ({"model": "sd15"}, "succeeded", None),
    ],
)
def test_a_published_value_stands_beside_its_own_setting_alone(
    place: Place, changes: dict[str, object], state: str, published: float | None
) -> None:
    dataset = add_dataset(place, state=state, **{**PAPER, "images_per_class": None, **changes})
    fields = {"architecture": "resnet50", "recipe": "imagenet-sd"}
    spec = spec_of(type(tiny_request()).model_validate({"datasets": (dataset,), **fields}))
    with place.database.read() as session:
        assert published_for(session, spec, kind="imagenet-val", crop_pct=0.875, images=5000) == published
        assert published_for(session, spec, kind="imagenet-val", crop_pct=0.875, images=4999) is None


def test_a_mixture_with_real_images_is_no_published_setting(place: Place) -> None:
    dataset = add_dataset(place, **PAPER, images_per_class=None)
    fields: dict[str, object] = {"architecture": "resnet50", "recipe": "imagenet-sd", "shares": (0.5, 0.5)}
    spec = spec_of(type(tiny_request()).model_validate({"datasets": (dataset,), "real": "photos", **fields}))
    with place.database.read() as session:
        assert published_for(session, spec, kind="imagenet-val", crop_pct=0.875, images=5000) is None
