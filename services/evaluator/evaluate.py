"""One evaluation, from the job's row to the stored report."""

import hashlib
import threading
from collections.abc import Sequence
from typing import NamedTuple

from shared.vision.networks import EncoderCard, library_versions, load_encoder

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from shared.database import Database
from shared.errors import CorruptObject, NotFound, Rejected
from shared.job_leases import JobLease, report_progress
from shared.specs import EvaluationSpec
from shared.storage import ObjectStore, get_verified
from shared.tables import Job, JsonObject

from .benchmarks import Benchmark, column_order, read_benchmark
from .predict import predictions
from .report import BenchmarkReport, Report, report_benchmark


class Place(NamedTuple):
    """Where evaluations read, write and compute."""

    database: Database
    store: ObjectStore
    device: torch.device


class Encoder(NamedTuple):
    card: EncoderCard
    sha256: str
    network: nn.Module


def evaluate(place: Place, lease: JobLease, stop_events: Sequence[threading.Event]) -> JsonObject | None:
    """The job's result, or None when told to stop; a benchmark is read once, after every choice was made."""
    with place.database.read() as session:
        job = session.get_one(Job, lease.job_id)
    spec = EvaluationSpec.model_validate(job.spec)
    encoder = read_encoder(place, spec.request.training)
    reports: list[BenchmarkReport] = []
    for name in spec.request.benchmarks:
        measured = measure(encoder, read_benchmark(name), place.device, stop_events)
        if measured is None:
            return None
        reports.append(measured)
        with place.database.write() as session:
            report_progress(session, lease, done=len(reports), total=len(spec.request.benchmarks))
    report = Report(
        evaluation=job.id,
        training=spec.request.training,
        encoder_sha256=encoder.sha256,
        benchmarks=tuple(reports),
        versions={"synthclone": spec.version, **library_versions()},
    )
    return store_report(place.store, lease, report)


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


def measure(
    encoder: Encoder, benchmark: Benchmark, device: torch.device, stop_events: Sequence[threading.Event]
) -> BenchmarkReport | None:
    """None when told to stop."""
    order = column_order(encoder.card, benchmark.known)
    size = encoder.card.image_size
    parts: list[Tensor] = []
    for logits in predictions(encoder.network, benchmark.images, image_size=size, device=device):
        if any(event.is_set() for event in stop_events):
            return None
        parts.append(logits[:, order])
    labels = torch.from_numpy(benchmark.labels)
    return report_benchmark(benchmark, encoder.card, logits=torch.cat(parts), labels=labels)


def store_report(store: ObjectStore, lease: JobLease, report: Report) -> JsonObject:
    data = report.model_dump_json(indent=2).encode()
    key = f"evaluations/{lease.job_id}/report-{lease.fence}.json"
    store.put(key, data)
    return {"report_key": key, "report_sha256": hashlib.sha256(data).hexdigest(), "summary": report.summary()}
