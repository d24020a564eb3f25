"""What a generator gives: images as they are stored, before JPEG."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Drawn(NamedTuple):
    """Of N images: `pixels` (N, H, W, 3), and `is_finite` (N,), False where the network gave a NaN or an infinity."""

    pixels: NDArray[np.uint8]
    is_finite: NDArray[np.bool_]


class Pending(Protocol):
    """A batch that the device has been given."""

    @property
    def is_ready(self) -> bool: ...

    def wait(self) -> Drawn:
        """Raises what went wrong on the device."""


class Ready(NamedTuple):
    """A batch of a device that works while it is asked."""

    drawn: Drawn
    is_ready: bool = True

    def wait(self) -> Drawn:
        return self.drawn


def as_drawn(images: NDArray[np.float32]) -> Drawn:
    """images (N, H, W, 3) in 0..1, rounded as diffusers' own conversion to PIL does."""
    is_finite = np.asarray(np.isfinite(images).all(axis=(1, 2, 3)))
    return Drawn((np.nan_to_num(images) * 255).round().astype(np.uint8), is_finite)
