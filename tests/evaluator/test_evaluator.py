import hashlib
import tempfile
import threading
from pathlib import Path

from shared.vision import digits
from shared.vision.real.benchmarks import Benchmark, common_classes, open_benchmark

import pytest
import torch
from safetensors.torch import load
from sqlalchemy import update
from torch import Tensor, nn

from services.evaluator.consumer import make_consumer
from services.evaluator.evaluate import Encoder, Place, evaluate, measure, read_encoder
from services.evaluator.report import BenchmarkReport, Report
from services.trainer import run as trainer
from services.trainer.ranks import Ranks
from shared.errors import CorruptObject, Rejected
from shared.job_leases import finish_job
from shared.realsets import benchmark
from shared.settings import Settings
from shared.specs import EvaluationRequest, EvaluationSpec
from shared.stored.cache import ShardCache
from shared.tables import Job
from tests.trainer.pickles import hostile_pickle
from tests.trainer.rows import DIGITS, Shard, add_dataset, add_job, add_training, claim, flat, read_job, tiny_request

CPU = torch.device("cpu")


def add_trained(place: Place, **fields: object) -> str:
    row = add_training(place.database, tiny_request(**fields))
    finish_training(place)
    return row


def finish_training(place: Place) -> None:
    lease = claim(place.database)
    with tempfile.TemporaryDirectory() as cache_dir:
        where = trainer.Place(place.database, place.store, ShardCache(Path(cache_dir), min_free_bytes=0))
        result = trainer.train(where, lease, Ranks(0, 1, CPU), threading.Event())
    assert result is not None
    with place.database.write() as session:
        finish_job(session, lease, result)


def digits_for(place: Place, encoder: Encoder) -> Benchmark:
    with place.database.read() as session:
        return open_benchmark(benchmark(session, "digits"), encoder.card, cache_dir=place.cache_dir)


def report_of(encoder: Encoder, tested: Benchmark) -> BenchmarkReport:
    return measure(encoder, tested, CPU, lambda: None).report


def add_evaluation(place: Place, training: str) -> str:
    spec = EvaluationSpec(request=EvaluationRequest(training=training), version="0.1.0")
    return add_job(place.database, "evaluation", state="queued", spec=spec.model_dump(mode="json"))


def test_a_trained_encoder_is_better_than_chance_on_real_digits(place: Place) -> None:
    training = add_trained(place, steps=40, batch_size=32)
    add_evaluation(place, training)
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    report = Report.model_validate_json(place.store.get(str(result["report_key"])))
    assert (report.training, report.benchmarks[0].name, report.benchmarks[0].images) == (training, "digits", 540)
    assert report.benchmarks[0].top1 > 0.5  # one in ten by chance


def test_the_numbers_of_a_report_agree_with_each_other(place: Place) -> None:
    training = add_trained(place)
    encoder = read_encoder(place, training)
    report = report_of(encoder, digits_for(place, encoder))
    assert report.confusion is not None
    hits = sum(report.confusion[label][label] for label in range(10))
    assert report.top1 == hits / 540
    assert report.interval[0] < report.top1 < report.interval[1]
    assert sum((each.accuracy or 0) * each.images for each in report.per_class) == pytest.approx(hits)
    assert [sum(row) for row in report.confusion] == [each.images for each in report.per_class]


class Reversed(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.flip(1)


def test_an_encoder_that_orders_its_classes_otherwise_has_the_same_report(place: Place) -> None:
    encoder = read_encoder(place, add_trained(place))
    card = encoder.card.model_copy(update={"class_ids": DIGITS[::-1], "class_names": encoder.card.class_names[::-1]})
    other = Encoder(card, encoder.sha256, nn.Sequential(encoder.network, Reversed()))
    assert report_of(other, digits_for(place, other)) == report_of(encoder, digits_for(place, encoder))


def test_a_set_is_cut_to_the_classes_that_the_encoder_knows(place: Place) -> None:
    shards = [Shard(DIGITS[3], [flat(9)], take=1), Shard("cat", [flat(8)], 1), Shard(DIGITS[0], [flat(7)], 1)]
    dataset = add_dataset(place.database, place.store, shards)
    request = tiny_request(real=None, datasets=(dataset,))
    training = add_training(place.database, request, class_ids=(DIGITS[3], "cat", DIGITS[0]))
    finish_training(place)
    encoder = read_encoder(place, training)
    tested = digits_for(place, encoder)
    assert (tested.class_ids, tested.columns) == ((DIGITS[0], DIGITS[3]), (2, 0))
    whole = digits.test_digits().labels
    assert tested.labels.tolist() == [{0: 0, 3: 1}[label] for label in whole.tolist() if label in (0, 3)]
    report = report_of(encoder, tested)
    assert (report.images, report.classes, report.of_classes) == (len(tested.labels), 2, 10)


def test_an_encoder_without_a_class_of_the_set_is_refused(place: Place) -> None:
    dataset = add_dataset(place.database, place.store, [Shard("a", [flat(9)], take=1), Shard("b", [flat(8)], 1)])
    training = add_training(place.database, tiny_request(real=None, datasets=(dataset,)), class_ids=("a", "b"))
    finish_training(place)
    with place.database.read() as session:
        known = benchmark(session, "digits")
    with pytest.raises(Rejected, match=r"was trained on a, b and digits has .* and 5 more: no class in common"):
        common_classes(known, read_encoder(place, training).card)


def test_the_stored_predictions_give_the_reported_accuracy(place: Place) -> None:
    add_evaluation(place, add_trained(place))
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    stored = load(place.store.get(str(result["predictions_key"])))
    hits = int((stored["digits/predicted"] == stored["digits/labels"]).sum())
    assert result["summary"] == {"digits": {"top1": hits / 540, "n": 540}}


def test_changed_weights_are_refused(place: Place) -> None:
    training = add_trained(place)
    result = read_job(place.database, training).result
    assert result is not None
    place.store.put(str(result["encoder_key"]), b"other weights")
    with pytest.raises(CorruptObject, match=f"the encoder of {training} is damaged .*; run the training again"):
        read_encoder(place, training)


def test_an_encoder_that_is_a_pickle_is_refused_and_never_loaded(place: Place, tmp_path: Path) -> None:
    """Its hash is right, so only the format gives it away."""
    training, trace = add_trained(place), tmp_path / "was run"
    result, data = read_job(place.database, training).result, hostile_pickle(trace)
    assert result is not None
    place.store.put(str(result["encoder_key"]), data)
    changed = {**result, "encoder_sha256": hashlib.sha256(data).hexdigest()}
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == training).values(result=changed))

    with pytest.raises(CorruptObject, match=f"the weights of {training} do not fit"):
        read_encoder(place, training)
    assert not trace.exists()


def test_an_encoder_that_is_gone_names_the_remedy(place: Place) -> None:
    training = add_trained(place)
    result = read_job(place.database, training).result
    assert result is not None
    place.store.delete(str(result["card_key"]))
    with pytest.raises(CorruptObject, match="run the training again"):
        read_encoder(place, training)


def test_a_training_without_encoder_is_refused_with_its_state(place: Place) -> None:
    training = add_training(place.database, tiny_request())
    with pytest.raises(Rejected, match=f"training {training} is queued and has no encoder"):
        read_encoder(place, training)


def test_an_evaluation_told_to_stop_reports_nothing(place: Place) -> None:
    add_evaluation(place, add_trained(place))
    stop = threading.Event()
    stop.set()
    assert evaluate(place, claim(place.database, "evaluation"), (stop,)) is None
    assert list(place.store.entries("evaluations/")) == []


def test_a_queued_evaluation_ends_with_its_summary(place: Place, settings: Settings) -> None:
    row = add_evaluation(place, add_trained(place))
    consumer = make_consumer(settings)

    assert consumer.work(threading.Event())

    consumer.close()
    job = read_job(place.database, row)
    assert (job.state, job.done, job.total) == ("succeeded", 1, 1)
    assert job.result is not None
    assert job.result["summary"] == {"digits": {"top1": pytest.approx(0.1, abs=0.2), "n": 540}}
