"""Linear classifiers on an encoder's features: a registered transfer set from its folders to the report."""

import threading
from pathlib import Path

from shared.vision import digits
from shared.vision.digits import DigitsSplit
from shared.vision.real.registered import NewSet, inspect, open_transfer_set, register

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from services.evaluator.evaluate import Encoder, Place, embedding_of, evaluate, read_encoder
from services.evaluator.features import cached_examples
from services.evaluator.linear import never_stop
from services.evaluator.report import Report
from services.evaluator.transfer import Stopped, TransferReport, group_means, probe_transfer, stop_check
from shared.errors import Rejected
from shared.realsets import RealSet
from shared.specs import EvaluationRequest, EvaluationSpec
from tests.evaluator.test_evaluator import add_trained
from tests.trainer.rows import add_job, claim

# Digits stand in the layout of a transfer set: ten classes, as EuroSAT has.
KIND = "eurosat"


def write_part(folder: Path, split: DigitsSplit, count: int) -> None:
    for number, (image, label) in enumerate(zip(split.images[:count], split.labels[:count], strict=True)):
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")


@pytest.fixture
def known(place: Place, tmp_path: Path) -> RealSet:
    root = tmp_path / "copy"
    write_part(root / "train", digits.train_digits(), 300)
    write_part(root / "test", digits.test_digits(), 100)
    found = inspect(NewSet("mine", root, kind=KIND, allow_other_counts=True), cache_dir=place.cache_dir)
    with place.database.write() as session:
        return register(session, found)


@pytest.fixture
def encoder(place: Place) -> Encoder:
    return read_encoder(place, add_trained(place, steps=40, batch_size=32))


def probed(place: Place, encoder: Encoder, known: RealSet, stop: threading.Event | None = None) -> TransferReport:
    embedding = embedding_of(place, encoder, stop_check([stop] if stop else []))
    return probe_transfer(known, embedding, seeds=1, neighbours=20)


def test_the_classifier_is_as_good_as_scikit_learns_with_the_chosen_strength(
    place: Place, encoder: Encoder, known: RealSet
) -> None:
    report = probed(place, encoder, known)
    embedding = embedding_of(place, encoder, never_stop)
    train, test = (cached_examples(part, embedding) for part in open_transfer_set(known))
    theirs = LogisticRegression(C=report.seeds[0].settings["strength"], max_iter=5000, tol=1e-8)
    theirs.fit(train.features.double().numpy(), train.labels.numpy())
    expected = theirs.score(test.features.double().numpy(), test.labels.numpy())
    assert report.top1 == pytest.approx(expected, abs=0.02)
    assert (report.train_images, report.test_images, report.classes) == (300, 100, 10)
    assert report.top1 > 0.6


def test_the_nearest_training_images_classify_as_scikit_learns_do(
    place: Place, encoder: Encoder, known: RealSet
) -> None:
    report = probed(place, encoder, known)
    embedding = embedding_of(place, encoder, never_stop)
    train, test = (cached_examples(part, embedding) for part in open_transfer_set(known))
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda away: np.exp((1 - away) / 0.07))
    theirs.fit(train.features.double().numpy(), train.labels.numpy())
    expected = theirs.score(test.features.double().numpy(), test.labels.numpy())
    assert (report.neighbours, report.neighbours_top1) == (20, pytest.approx(expected, abs=0.011))
    assert expected > 0.6


def test_features_are_computed_once_for_an_encoder_and_a_set(place: Place, encoder: Encoder, known: RealSet) -> None:
    def read(network: torch.nn.Module, sha256: str) -> torch.Tensor:
        embedding = embedding_of(place, Encoder(encoder.card, sha256, network), never_stop)
        return cached_examples(open_transfer_set(known).test, embedding).features

    first = read(encoder.network, encoder.sha256)
    with pytest.raises(AttributeError):
        read(torch.nn.Identity(), "another encoder")
    assert torch.equal(read(torch.nn.Identity(), encoder.sha256), first)
    next((place.cache_dir / "features").iterdir()).write_bytes(b"cut short")
    assert torch.equal(read(encoder.network, encoder.sha256), first)


def test_a_probe_told_to_stop_stops(place: Place, encoder: Encoder, known: RealSet) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        probed(place, encoder, known, stop)


def test_transfer_alone_tests_no_benchmark() -> None:
    """A network that never saw a digit would be refused for the default one."""
    assert EvaluationRequest.model_validate({"training": "tr", "transfer": ["pets"]}).benchmarks == ()
    assert EvaluationRequest(training="tr").benchmarks == ("digits",)
    asked = {"training": "tr", "transfer": ["pets"], "benchmarks": ["digits"]}
    assert EvaluationRequest.model_validate(asked).benchmarks == ("digits",)


def test_an_evaluation_reports_transfer_beside_benchmarks(place: Place, known: RealSet) -> None:
    request = EvaluationRequest(
        training=add_trained(place), benchmarks=("digits",), transfer=(known.name,), transfer_seeds=2
    )
    spec = EvaluationSpec(request=request, version="0.1.0").model_dump(mode="json")
    add_job(place.database, "evaluation", state="queued", spec=spec, total=2)
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    report = Report.model_validate_json(place.store.get(str(result["report_key"])))
    assert [each.name for each in report.benchmarks] == ["digits"]
    assert (report.transfer[0].name, len(report.transfer[0].seeds)) == ("mine", 2)
    assert (report.transfer[0].neighbours, report.transfer[0].neighbours_top1) == (None, None)
    assert report.transfer_means == {}


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_changed_part_is_refused(place: Place, encoder: Encoder, known: RealSet, part: str) -> None:
    assert known.place is not None
    next(Path(known.place.location, part).rglob("*.png")).unlink()
    with pytest.raises(Rejected, match="remove it and register it again"):
        probed(place, encoder, known)


def test_a_group_has_a_mean_only_when_all_its_sets_were_tested() -> None:
    def report(kind: str, top1: float) -> TransferReport:
        return TransferReport.model_construct(kind=kind, top1=top1)

    tested = [report("inaturalist2018", 0.2), report("pets", 0.9)]
    assert group_means(tested) == {}
    both = [*tested, report("inaturalist2019", 0.4)]
    assert group_means(both) == {"long tail": pytest.approx(0.3)}
    assert group_means([*both, report("pets", 0.8)]) == {"long tail": pytest.approx(0.3)}
    assert group_means([*both, report("inaturalist2018", 0.6)]) == {}
