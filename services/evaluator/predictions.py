"""What a network said of each image of a test set, kept beside the report so that others can be paired with it."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from shared.errors import CorruptObject, NotFound, Rejected
from shared.storage import ObjectStore, get_verified
from shared.tables import JsonObject

from .report import BenchmarkReport, Report


class Predictions(NamedTuple):
    """`predicted` (N,) and `labels` (N,) integers: positions in the benchmark's classes, image by image."""

    report: BenchmarkReport
    predicted: Tensor
    labels: Tensor


def packed(found: Iterable[Predictions]) -> bytes:
    """As safetensors: int32 columns `<benchmark>/predicted` and `<benchmark>/labels`."""
    data: bytes = save(
        {
            f"{each.report.name}/{name}": values.to(torch.int32)
            for each in found
            for name, values in (("predicted", each.predicted), ("labels", each.labels))
        }
    )
    return data


def read_predictions(store: ObjectStore, evaluation: str, result: JsonObject) -> Mapping[str, Predictions]:
    """By benchmark, from the result of an evaluation that succeeded."""
    if "predictions_key" not in result:
        raise Rejected(f"{evaluation} is of a version that kept no predictions; evaluate its training again")
    report, columns = (read_object(store, evaluation, result, name) for name in ("report", "predictions"))
    tensors = load(columns)
    return {
        known.name: Predictions(known, tensors[f"{known.name}/predicted"], tensors[f"{known.name}/labels"])
        for known in Report.model_validate_json(report).benchmarks
    }


def read_object(store: ObjectStore, evaluation: str, result: JsonObject, name: str) -> bytes:
    try:
        return get_verified(store, str(result[f"{name}_key"]), str(result[f"{name}_sha256"]))
    except (CorruptObject, NotFound) as damage:
        raise CorruptObject(
            f"the {name} of {evaluation} cannot be read ({damage.detail}); evaluate its training again"
        ) from damage
