"""One probe: small networks trained on the first images of a dataset, tested, and their errors extrapolated."""

import hashlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from shared.vision.images import MEAN, STD
from shared.vision.networks import EncoderCard, library_versions
from shared.vision.real.benchmarks import Benchmark, open_benchmark
from shared.vision.real.bucket import Bucket, on_disk

import torch
from torch import Tensor, nn

from shared.database import Database
from shared.endings import ending_of
from shared.job_leases import JobLease, report_progress
from shared.logs import configure_logs
from shared.patience import insist
from shared.probes import ProbeSpec
from shared.realsets import benchmark
from shared.settings import Settings
from shared.specs import TrainingRequest, TrainingSpec
from shared.storage import open_store
from shared.stored.cache import ShardCache
from shared.tables import Job, JsonObject

from .batches import Part, Stream, batches
from .child import write_ending
from .images import TrainingImages
from .learner import create_learner, learn, trained_network
from .probe_images import FirstImages, Stopped, open_first_images, small
from .probe_report import Point, ProbeReport, make_report
from .ranks import Ranks, rank_device
from .run import Place, stop_with_parent
from .sources import REAL_SETS

logger = logging.getLogger(__name__)
WAIT_SECONDS = 300.0


class Probing(NamedTuple):
    """What all networks of a probe have in common."""

    spec: ProbeSpec
    training: TrainingSpec
    tested: Benchmark
    device: torch.device
    stop: threading.Event


def probe(place: Place, lease: JobLease, device: torch.device, stop: threading.Event) -> JsonObject | None:
    """The job's result, or None when told to stop: its networks are small, so the next attempt trains them again."""
    with place.database.read() as session:
        spec = ProbeSpec.model_validate(session.get_one(Job, lease.job_id).spec)
    training = training_spec(spec)
    points: list[Point] = []
    try:
        first = open_first_images(place, spec, check=partial(refuse_stopped, stop))
        probing = Probing(spec, training, open_tested(place, spec, training, lease.job_id), device, stop)
        for point in measure_all(probing, first):
            points.append(point)
            insist(partial(tell, place.database, lease, len(points), spec), stop=stop, seconds=WAIT_SECONDS)
    except Stopped:
        return None
    report = make_report(lease.job_id, spec, points, classes=len(probing.tested.class_ids))
    return insist(partial(store_report, place, lease, report), stop=stop, seconds=WAIT_SECONDS)


def training_spec(spec: ProbeSpec) -> TrainingSpec:
    request = TrainingRequest(datasets=(spec.request.dataset,), architecture=spec.architecture, steps=spec.steps)
    return TrainingSpec(
        request=request,
        recipe=spec.recipe,
        class_ids=spec.class_ids,
        class_names=spec.class_names,
        version=spec.version,
    )


def open_tested(place: Place, spec: ProbeSpec, training: TrainingSpec, probe_id: str) -> Benchmark:
    """Read as an evaluation would of an encoder with these classes and this size."""
    card = EncoderCard(
        training=probe_id,
        architecture=spec.architecture,
        class_ids=spec.class_ids,
        class_names=spec.class_names,
        image_size=spec.image_size,
        mean=MEAN,
        std=STD,
        spec=training,
        recipe_digests=(),
        images=spec.images,
        seconds=0.0,
        versions=library_versions(),
    )
    folder = place.cache.folder.parent / REAL_SETS
    with place.database.read() as session:
        known = benchmark(session, spec.request.benchmark, pointer="/benchmark")
    return open_benchmark(on_disk(known, Bucket(place.store, place.cache), cache_dir=folder), card, cache_dir=folder)


def measure_all(probing: Probing, first: FirstImages) -> Iterator[Point]:
    """In the order of the shares; raises Rejected before the first training where one lacks images."""
    request = probing.spec.request
    sources = [(share, first.of(share)) for share in sorted(request.shares)]
    for number, (share, source) in enumerate(sources):
        images = small(source, probing.spec.image_size, probing.stop)
        for repeat in range(request.repeats):
            yield measure(probing, images, share, seed=(request.seed + number * request.repeats + repeat) % 2**63)


def measure(probing: Probing, images: TrainingImages, share: float, *, seed: int) -> Point:
    network = train_small(probing, images, seed)
    wrong, tested = count_wrong(probing, network), len(probing.tested.labels)
    logger.info("probed", extra={"share": share, "seed": seed, "wrong": wrong, "tested": tested})
    return Point(share=share, images=len(images.labels), seed=seed, wrong=wrong, tested=tested, top1=1 - wrong / tested)


def train_small(probing: Probing, images: TrainingImages, seed: int) -> nn.Module:
    """Raises Stopped within a step when told to stop."""
    spec = probing.spec
    training = probing.training.model_copy(
        update={"request": probing.training.request.model_copy(update={"seed": seed})}
    )
    stream = Stream(images, seed, spec.image_size, spec.recipe, spec.steps, (Part(len(images.labels)),))
    learner = create_learner(
        training,
        image_size=spec.image_size,
        steps=spec.steps,
        warmup_steps=spec.recipe.warmup_steps,
        ranks=Ranks(rank=0, size=1, device=probing.device),
    )
    pinned = probing.device.type == "cuda"
    for step, batch in enumerate(batches(stream, start=0, rank=0, ranks=1, pinned=pinned)):
        refuse_stopped(probing.stop)
        learn(learner, step, batch)
    return trained_network(learner).eval()


def refuse_stopped(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped


@torch.inference_mode()
def count_wrong(probing: Probing, network: nn.Module) -> int:
    columns = list(probing.tested.columns)
    predicted: list[Tensor] = []
    for images in probing.tested.batches():
        refuse_stopped(probing.stop)
        predicted.append(network(images.to(probing.device))[:, columns].argmax(dim=1).cpu())
    return int((torch.cat(predicted) != probing.tested.labels).sum())


def tell(database: Database, lease: JobLease, done: int, spec: ProbeSpec) -> None:
    with database.write() as session:
        report_progress(session, lease, done=done, total=len(spec.request.shares) * spec.request.repeats)


def store_report(place: Place, lease: JobLease, report: ProbeReport) -> JsonObject:
    data, key = report.model_dump_json(indent=2).encode(), f"probes/{lease.job_id}/report-{lease.fence}.json"
    place.store.put(key, data)
    return {"report_key": key, "report_sha256": hashlib.sha256(data).hexdigest(), "summary": report.summary()}


def main(arguments: Sequence[str]) -> None:
    """JOB FENCE FOLDER, as of a training; on one device whatever the machine has: the networks are small."""
    job_id, fence, folder = arguments
    settings = Settings()
    configure_logs(settings.log_format)
    # Denormal numbers, common in freshly initialised networks, slow CPU arithmetic down several times.
    torch.set_flush_denormal(True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=stop_with_parent, args=(stop,), daemon=True).start()
    cache = ShardCache(settings.cache_dir / "shards", min_free_bytes=settings.min_free_bytes)
    place = Place(Database(settings.sqlalchemy_url), open_store(settings), cache)
    lease = JobLease(job_id, int(fence), attempts=0)
    device = rank_device(settings.device)
    write_ending(Path(folder), ending_of(lambda: probe(place, lease, device, stop)))


if __name__ == "__main__":
    main(sys.argv[1:])
