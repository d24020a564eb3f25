"""Sets of the object store, trained on and tested on."""

import threading
from pathlib import Path

from shared.vision.real.bucket import stored_set
from shared.vision.real.registered import NewSet, inspect, register

import torch

from services.evaluator.evaluate import Place, evaluate
from services.evaluator.report import Report
from services.trainer import run as trainer
from services.trainer.ranks import Ranks
from shared.job_leases import finish_job
from shared.realsets import Role
from shared.specs import EvaluationRequest, EvaluationSpec
from tests.shared.real.layouts import SmallImage, small_images, write_webdataset
from tests.trainer.rows import add_job, add_training, claim, tiny_request


def store_set(place: Place, name: str, role: Role, images: list[SmallImage], folder: Path) -> None:
    for file in write_webdataset(folder / name, images).iterdir():
        place.store.put(f"real/{name}/{file.name}", file.read_bytes())
    location = stored_set(f"s3://synthclone/real/{name}", place.store, bucket="synthclone")
    found = inspect(NewSet(name, location, role=role, layout="webdataset"), cache_dir=place.cache_dir)
    with place.database.write() as session:
        register(session, found)


def train_on(place: Place, name: str) -> str:
    row = add_training(place.database, tiny_request(real=name, steps=2, image_size=32))
    lease = claim(place.database)
    where = trainer.Place(place.database, place.store, place.bucket.cache)
    result = trainer.train(where, lease, Ranks(0, 1, torch.device("cpu")), threading.Event())
    assert result is not None
    assert result["images"] == 30
    with place.database.write() as session:
        finish_job(session, lease, result)
    return row


def test_a_network_learns_from_one_set_in_the_bucket_and_is_tested_on_another(place: Place, tmp_path: Path) -> None:
    images = small_images(5)
    store_set(place, "learnt", "train", [image for n, image in enumerate(images) if n % 5 < 3], tmp_path)
    store_set(place, "tested", "test", [image for n, image in enumerate(images) if n % 5 >= 3], tmp_path)
    training = train_on(place, "learnt")
    spec = EvaluationSpec(request=EvaluationRequest(training=training, benchmarks=("tested",)), version="0.1.0")
    add_job(place.database, "evaluation", state="queued", spec=spec.model_dump(mode="json"))
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    report = Report.model_validate_json(place.store.get(str(result["report_key"]))).benchmarks[0]
    assert (report.name, report.images, [each.images for each in report.per_class]) == ("tested", 20, [2] * 10)
