import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from shared.vision.real.decoding import EvalView, Photos, decode_photo, eval_pixels, open_photo
from shared.vision.real.layouts import read_listing

import numpy as np
import numpy.typing as npt
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import CorruptObject
from tests.shared.real.layouts import encoded, small_images, write_imagefolder

RED, GREEN = (255, 0, 0), (0, 255, 0)


def png(image: Image.Image, **options: object) -> bytes:
    return saved(image, "PNG", **options)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def one_pixel(mode: str, colour: int | tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (1, 1), colour)


def palette_image() -> Image.Image:
    image = one_pixel("P", 1)
    image.putpalette([*RED, *GREEN])
    return image


PIXELS = {
    "RGB": (png(one_pixel("RGB", (1, 2, 3))), (1, 2, 3)),
    "grey": (png(one_pixel("L", 77)), (77, 77, 77)),
    "black and white": (png(one_pixel("1", 1)), (255, 255, 255)),
    "palette": (png(palette_image()), GREEN),
    "transparent": (png(one_pixel("RGBA", (9, 8, 7, 0))), (9, 8, 7)),
    "grey and transparent": (png(one_pixel("LA", (9, 0))), (9, 9, 9)),
    "CMYK": (saved(one_pixel("CMYK", (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)),
    "16-bit grey below 256": (png(one_pixel("I;16", 200)), (200, 200, 200)),
    "16-bit grey above": (png(one_pixel("I;16", 300)), (255, 255, 255)),
}


@pytest.mark.parametrize("kind", PIXELS)
def test_every_kind_of_image_becomes_three_colours(kind: str) -> None:
    data, colour = PIXELS[kind]
    pixels = decode_photo(data, name="x.png")
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 1, 1)
    assert pixels.flatten().tolist() == pytest.approx(colour, abs=1)


def test_orientation_of_the_camera_is_not_applied() -> None:
    """As timm and torchvision: ImageNet's labels and published numbers are of the stored pixels."""
    turned = Image.new("RGB", (6, 2), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees to show
    assert decode_photo(png(turned, exif=exif), name="x.png").shape == (3, 2, 6)


def jpeg_and_png() -> list[bytes]:
    pixels: npt.NDArray[np.uint8] = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    return [encoded(pixels, extension, (32, 32)) for extension in ("jpg", "png")]


@pytest.mark.parametrize("data", [b"", b"no image", *(whole[: len(whole) // 2] for whole in jpeg_and_png())])
def test_truncated_or_foreign_bytes_name_the_image(data: bytes) -> None:
    with pytest.raises(CorruptObject, match=rf"n01/x\.jpg, {len(data)} bytes, cannot be decoded"):
        decode_photo(data, name="n01/x.jpg")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_image_that_claims_too_many_pixels_is_refused_before_they_are_held() -> None:
    head = struct.pack(">II5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(b"\0"))
    with pytest.raises(CorruptObject, match=r"bomb\.png.*2500000000 pixels"):
        decode_photo(bomb, name="bomb.png")


@pytest.mark.parametrize(("form", "at", "value"), [("TIFF", 12, 1), ("TIFF", 72, 2), ("GIF", 24, 0), ("PNG", 36, 0)])
def test_damage_that_readers_report_in_other_ways_names_the_image(form: str, at: int, value: int) -> None:
    """PIL raises ValueError, TypeError, ValueError and SyntaxError."""
    data = bytearray(saved(Image.new("P" if form == "GIF" else "RGB", (8, 8), 3), form))
    data[at] = value
    with pytest.raises(CorruptObject, match=r"x\.jpg, \d+ bytes, cannot be decoded"):
        decode_photo(bytes(data), name="x.jpg")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(jpeg_and_png()), st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_give_an_image_or_a_damage_report(whole: bytes, flips: list[tuple[int, int]]) -> None:
    data = bytearray(whole)
    for at, value in flips:
        data[at % len(data)] = value
    with suppress(CorruptObject):
        assert decode_photo(bytes(data), name="x").shape[0] == 3


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (224, 224), (500, 333), (333, 500), (40, 31)])
def test_view_is_timms_transform_to_the_last_bit(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    photo = open_photo(png(Image.fromarray(noise)), name="x.png")
    theirs = timm.data.create_transform(224, interpolation="bicubic", crop_pct=0.875)(Image.fromarray(noise))
    assert torch.equal(eval_pixels(EvalView())(photo), theirs)


def test_photos_are_read_by_index_with_their_labels(tmp_path: Path) -> None:
    images = small_images(2)
    photos = Photos(read_listing("imagefolder", write_imagefolder(tmp_path, images)))
    assert photos.labels.tolist() == [image.label for image in images]
    for index, image in enumerate(images):
        assert torch.equal(photos.image(index), decode_photo(image.data, name=image.name))
