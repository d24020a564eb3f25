"""One evaluation, from the job's row to the stored report."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.vision.networks import EncoderCard, library_versions, load_encoder
from shared.vision.real.benchmarks import Benchmark, common_classes, open_benchmark
from shared.vision.real.bucket import Bucket, on_disk

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from shared.database import Database
from shared.errors import CorruptObject, NotFound, Rejected
from shared.job_leases import JobLease, report_progress
from shared.realsets import benchmark, transfer_set
from shared.specs import EvaluationRequest, EvaluationSpec
from shared.storage import ObjectStore, get_verified
from shared.tables import Job, JsonObject

from .dataset_distances import DistanceReport, Pair, measure_distance, open_pairs
from .evaluation_files import make_files
from .features import Embedding, FeatureCache
from .paired import Model, compare_all, describe, read_models, refuse_other_images
from .predictions import Predictions, packed
from .report import ComparisonReport, Report, report_benchmark
from .stored_files import put_files
from .trained import import_notes, published_for, trained_report
from .transfer import Stopped, TransferReport, group_means, probe_transfer, stop_check


class Place(NamedTuple):
    """Where evaluations read, write and compute; what they cache leaves `min_free_bytes` of the disk free."""

    database: Database
    store: ObjectStore
    device: torch.device
    cache_dir: Path
    min_free_bytes: int
    bucket: Bucket


class Encoder(NamedTuple):
    card: EncoderCard
    sha256: str
    network: nn.Module


def evaluate(place: Place, lease: JobLease, stops: Sequence[threading.Event]) -> JsonObject | None:
    """The job's result, or None when told to stop; a benchmark is read once, after every choice was made."""
    with place.database.read() as session:
        job = session.get_one(Job, lease.job_id)
    spec = EvaluationSpec.model_validate(job.spec)
    encoder = read_encoder(place, spec.request.training)
    others = comparable(place, job.id, encoder, spec.request)
    progress = Progress(place.database, lease, total=spec.request.parts)
    try:
        # Opened first: what is damaged is waited for before anything is measured.
        pairs = open_pairs(
            spec.request.distances,
            database=place.database,
            bucket=place.bucket,
            cache_dir=place.cache_dir,
            check=stop_check(stops),
        )
        measured = measure_all(place, encoder, spec.request.benchmarks, stops, progress)
        embedding = embedding_of(place, encoder, stop_check(stops))
        transfer = probe_all(place, embedding, spec.request, progress)
        distances = measure_distances(pairs, embedding, progress)
    except Stopped:
        return None
    with place.database.read() as session:
        trained = trained_report(session, encoder.card)
    report = Report(
        evaluation=job.id,
        training=spec.request.training,
        encoder_sha256=encoder.sha256,
        trained=trained,
        benchmarks=tuple(each.found.report for each in measured),
        comparisons=compare_measured(place.database, lease.job_id, encoder.card, measured, others),
        transfer=transfer,
        transfer_means=group_means(transfer),
        distances=distances,
        notes=import_notes(encoder.card),
        versions={"synthclone": spec.version, **library_versions()},
    )
    return store_report(place.store, lease, report, measured)


def read_encoder(place: Place, training: str) -> Encoder:
    with place.database.read() as session:
        job = session.get(Job, training)
    if job is None or job.result is None:
        state = "unknown" if job is None else job.state
        raise Rejected(f"training {training} is {state} and has no encoder; evaluate one that succeeded")
    try:
        card, weights = stored_encoder(place.store, job.result)
    except (CorruptObject, NotFound) as problem:
        raise CorruptObject(
            f"the encoder of {training} is damaged ({problem.detail}); run the training again"
        ) from problem
    return Encoder(card, str(job.result["encoder_sha256"]), load_encoder(card, weights).to(place.device))


def stored_encoder(store: ObjectStore, result: JsonObject) -> tuple[EncoderCard, bytes]:
    weights = get_verified(store, str(result["encoder_key"]), str(result["encoder_sha256"]))
    try:
        return EncoderCard.model_validate_json(store.get(str(result["card_key"]))), weights
    except ValidationError as error:
        raise CorruptObject(f"{result['card_key']} is not one this version reads: {error}") from error


def comparable(place: Place, evaluation: str, encoder: Encoder, request: EvaluationRequest) -> list[Model]:
    """Those to compare with; raises Rejected, before hours of measuring, where one saw other images."""
    others = read_models(place.database, place.store, request.compare_with)
    with place.database.read() as session:
        for name in request.benchmarks:
            known = benchmark(session, name)
            refuse_other_images(evaluation, known, common_classes(known, encoder.card), others)
    return others


class Progress:
    def __init__(self, database: Database, lease: JobLease, *, total: int) -> None:
        self._database, self._lease, self._total, self._done = database, lease, total, 0

    def advance(self) -> None:
        self._done += 1
        with self._database.write() as session:
            report_progress(session, self._lease, done=self._done, total=self._total)


class Measured(NamedTuple):
    tested: Benchmark
    found: Predictions


def measure_all(
    place: Place, encoder: Encoder, names: Sequence[str], stops: Sequence[threading.Event], progress: Progress
) -> list[Measured]:
    measured = []
    for name in names:
        with place.database.read() as session:
            known = benchmark(session, name)
        here = on_disk(known, place.bucket, cache_dir=place.cache_dir)
        tested = open_benchmark(here, encoder.card, cache_dir=place.cache_dir)
        found = measure(encoder, tested, place.device, stop_check(stops))
        measured.append(Measured(tested, with_published(place.database, encoder.card, found)))
        progress.advance()
    return measured


def measure(encoder: Encoder, tested: Benchmark, device: torch.device, check: Callable[[], None]) -> Predictions:
    """Raises Stopped when `check` does."""
    parts: list[Tensor] = []
    for images in tested.batches():
        check()
        with torch.inference_mode():
            logits = encoder.network(images.to(device))
        parts.append(logits[:, list(tested.columns)].float().cpu())
    logits = torch.cat(parts)
    return Predictions(report_benchmark(tested, encoder.card, logits), logits.argmax(dim=1), tested.labels)


def with_published(database: Database, card: EncoderCard, found: Predictions) -> Predictions:
    report = found.report
    with database.read() as session:
        published = published_for(session, card.spec, kind=report.kind, crop_pct=report.crop_pct, images=report.images)
    return found._replace(report=report.model_copy(update={"published": published}))


def compare_measured(
    database: Database, evaluation: str, card: EncoderCard, measured: Sequence[Measured], others: Sequence[Model]
) -> tuple[ComparisonReport, ...]:
    tests = {each.found.report.name: each.found for each in measured}
    with database.read() as session:
        own = describe(session, evaluation, card.training, tests)
    return tuple(compare_all(own, others))


def embedding_of(place: Place, encoder: Encoder, check: Callable[[], None]) -> Embedding:
    return Embedding(
        card=encoder.card,
        network=encoder.network,
        encoder_sha256=encoder.sha256,
        device=place.device,
        cache=FeatureCache(place.cache_dir / "features", place.min_free_bytes),
        check=check,
    )


def probe_all(
    place: Place, embedding: Embedding, request: EvaluationRequest, progress: Progress
) -> tuple[TransferReport, ...]:
    reports = []
    for name in request.transfer:
        with place.database.read() as session:
            known = transfer_set(session, name)
        reports.append(probe_transfer(known, embedding, seeds=request.transfer_seeds, neighbours=request.neighbours))
        progress.advance()
    return tuple(reports)


def measure_distances(pairs: Sequence[Pair], embedding: Embedding, progress: Progress) -> tuple[DistanceReport, ...]:
    reports = []
    for pair in pairs:
        reports.append(measure_distance(pair, embedding))
        progress.advance()
    return tuple(reports)


def store_report(store: ObjectStore, lease: JobLease, report: Report, measured: Sequence[Measured]) -> JsonObject:
    """The report in all its forms, and what was predicted for each image: comparisons of several encoders pair them."""
    predictions = packed(each.found for each in measured)
    key = f"evaluations/{lease.job_id}/predictions-{lease.fence}.safetensors"
    files = make_files(report, [(each.found, each.tested.photo) for each in measured])
    store.put(key, predictions)
    return {
        **put_files(store, lease, "evaluations", files),
        "predictions_key": key,
        "predictions_sha256": hashlib.sha256(predictions).hexdigest(),
        "summary": report.summary(),
    }
