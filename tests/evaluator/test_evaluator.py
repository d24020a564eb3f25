import json
import threading
from collections.abc import Sequence

import pytest
import torch
from pydantic import JsonValue
from sqlalchemy import update

from services.evaluator.benchmarks import column_order, read_benchmark
from services.evaluator.consumer import make_consumer
from services.evaluator.evaluate import Place, evaluate, read_encoder
from services.evaluator.report import report_benchmark
from services.trainer import run as trainer
from services.trainer.ranks import Ranks
from shared.errors import CorruptObject, Rejected
from shared.job_leases import finish_job
from shared.specs import EvaluationRequest, EvaluationSpec
from shared.tables import Job
from tests.trainer.rows import DIGITS, Shard, add_dataset, add_job, add_training, claim, flat, read_job, tiny_request


def add_trained(place: Place, **fields: object) -> str:
    """A finished training of a network too small and too briefly trained to be good."""
    class_ids = tuple(str(each) for each in fields.pop("class_ids", DIGITS))  # type: ignore[attr-defined]
    row = add_training(place.database, tiny_request(**fields), class_ids=class_ids)
    lease = claim(place.database)
    where = trainer.Place(place.database, place.store, place.store.root / "cache")  # type: ignore[attr-defined]
    result = trainer.train(where, lease, Ranks(0, 1, torch.device("cpu")), threading.Event())
    assert result is not None
    with place.database.write() as session:
        finish_job(session, lease, result)
    return row


def add_evaluation(place: Place, training: str) -> str:
    spec = EvaluationSpec(request=EvaluationRequest(training=training), version="0.1.0")
    return add_job(place.database, "evaluation", state="queued", spec=spec.model_dump(mode="json"))


def report_of(place: Place, training: str) -> dict[str, JsonValue]:
    add_evaluation(place, training)
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    report = json.loads(place.store.get(str(result["report_key"])))
    assert isinstance(report, dict)
    return report
