"""Images judged and encoded in threads, so that the device never waits for either."""

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import Unavailable
from shared.specs import Recipe

from .drawn import Drawn
from .gate import Verdict, judge

THREADS = 2


class Encoded(NamedTuple):
    """`jpeg` is empty for an image that the gate rejected."""

    verdict: Verdict
    jpeg: bytes


class Encoders:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encode")

    def start(self, drawn: Drawn, recipe: Recipe) -> list[Future[Encoded]]:
        """One for each image, in their order."""
        return [
            self._pool.submit(encode, pixels, recipe, is_finite=bool(is_finite))
            for pixels, is_finite in zip(*drawn, strict=True)
        ]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def encode(pixels: NDArray[np.uint8], recipe: Recipe, *, is_finite: bool) -> Encoded:
    """pixels (H, W, 3)."""
    image = Image.fromarray(pixels)
    verdict = judge(image, recipe.gate, is_finite=is_finite)
    return Encoded(verdict, encode_jpeg(image, recipe.jpeg_quality) if verdict.reason is None else b"")


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """4:4:4 JPEG: colour edges of small images survive. Raises Unavailable while no file can be written."""
    # Pillow lets go of Python's lock only while it writes to a file of the system, not into BytesIO.
    try:
        with tempfile.TemporaryFile() as file:
            image.save(file, "JPEG", quality=quality, subsampling=0, optimize=False)
            file.seek(0)
            return file.read()
    except OSError as error:
        raise Unavailable(f"no JPEG can be written in {tempfile.gettempdir()}: {error}; make room there") from error
