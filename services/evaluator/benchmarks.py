"""The catalogue of real test sets, with their pixels."""

from collections.abc import Callable
from typing import NamedTuple

from shared.vision.digits import DigitsSplit, test_digits
from shared.vision.networks import EncoderCard

import numpy as np
import numpy.typing as npt

from shared.errors import Rejected
from shared.realsets import RealSet, benchmark

READERS: dict[str, Callable[[], DigitsSplit]] = {"digits": test_digits}


class Benchmark(NamedTuple):
    """images (N, H, W, 3) uint8; labels (N,) int64, positions in `known.class_ids`."""

    known: RealSet
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def read_benchmark(name: str) -> Benchmark:
    split = READERS[name]()
    return Benchmark(benchmark(name), split.images, split.labels)


def column_order(card: EncoderCard, known: RealSet) -> list[int]:
    """For each class of the benchmark the encoder's output for it, whatever order each counts them in."""
    unknown = sorted(set(known.class_ids) - set(card.class_ids))
    untested = sorted(set(card.class_ids) - set(known.class_ids))
    if unknown or untested:
        raise Rejected(
            f"{card.training} was trained on {len(card.class_ids)} classes and {known.name} tests "
            f"{len(known.class_ids)}: the encoder lacks {listed(unknown)}, the benchmark lacks {listed(untested)}; "
            "evaluate a training on exactly the benchmark's classes"
        )
    return [card.class_ids.index(class_id) for class_id in known.class_ids]


def listed(class_ids: list[str]) -> str:
    shown = ", ".join(class_ids[:5]) or "none"
    return f"{shown} and {len(class_ids) - 5} more" if len(class_ids) > 5 else shown
