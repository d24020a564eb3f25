import io
import sys
import threading

import numpy as np
from PIL import Image

from services.sd_worker.drawn import Drawn
from services.sd_worker.encoding import Encoders, encode, encode_jpeg
from tests.rows import RECIPE

GOOD = np.linspace(0, 255, 32 * 32 * 3).round().astype(np.uint8).reshape(32, 32, 3)
BLACK = np.zeros_like(GOOD)


def test_jpeg_keeps_the_picture() -> None:
    decoded = np.asarray(Image.open(io.BytesIO(encode(GOOD, RECIPE, is_finite=True).jpeg)), int)
    assert np.abs(decoded - GOOD).mean() < 4


def test_jpeg_has_the_bytes_that_pillow_gives() -> None:
    expected = io.BytesIO()
    Image.fromarray(GOOD).save(expected, "JPEG", quality=95, subsampling=0)
    assert encode_jpeg(Image.fromarray(GOOD), 95) == expected.getvalue()


def test_a_rejected_image_is_not_encoded() -> None:
    assert encode(BLACK, RECIPE, is_finite=True).jpeg == b""


def test_a_batch_comes_back_in_its_order() -> None:
    encoders = Encoders()
    drawn = Drawn(np.stack([BLACK, GOOD, GOOD]), np.array([True, True, False]))
    encoded = [image.result().verdict.reason for image in encoders.start(drawn, RECIPE)]
    encoders.close()
    assert encoded == ["black", None, "not finite"]


def test_other_threads_run_while_a_jpeg_is_written() -> None:
    """With Python's own switching off, another thread runs only where this one lets go of the lock."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8))
    looks, ended, interval = [], threading.Event(), sys.getswitchinterval()

    def look() -> None:
        while not ended.wait(0.001):
            looks.append(is_writing)

    watcher, is_writing = threading.Thread(target=look), False
    sys.setswitchinterval(1000)
    try:
        watcher.start()
        is_writing = True
        encode_jpeg(image, 95)
        is_writing = False
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        watcher.join()
    assert True in looks
