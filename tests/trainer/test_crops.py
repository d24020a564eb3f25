import colorsys
import math

from shared.vision.images import MEAN, STD

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from services.trainer.crops import padded, random_crops, resampled
from services.trainer.draws import CropDraws, draw_crops
from services.trainer.reference_crops import reference_crop
from shared.recipes import IMAGENET_SD, CropRecipe

GLOBAL, LOCAL = IMAGENET_SD.crops
STILL = {"flip": 0.0, "jitter_probability": 0.0, "grayscale": 0.0, "blur": 0.0, "solarise": 0.0}
SIZES = ((256, 256), (180, 300), (300, 170), (64, 48))
LEAST_P = 0.01  # seeds are fixed, so a test that passes once always does


def photo(height: int, width: int, seed: int) -> Tensor:
    """Detail at every scale, as photos have it."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.rand(1, 3, cells, cells, generator=generator) * cells**-0.4 for cells in (2, 5, 12, 40, 120)]
    image = sum(F.interpolate(layer, (height, width), mode="bilinear")[0] for layer in layers)
    return (120 + 55 * (image - image.mean()) / image.std()).clamp(0, 255).to(torch.uint8)


def drawn(recipe: CropRecipe, sizes: np.ndarray, seed: int = 1) -> CropDraws:
    images = len(sizes)
    epochs = np.zeros(images, np.int64)
    return draw_crops([recipe], seed=seed, epochs=epochs, indices=np.arange(images), sizes=sizes)[0]


def one_crop(image: Tensor, **choices: object) -> Tensor:
    """Grey levels of the only crop of a square image, which is all of it at its own size."""
    recipe = CropRecipe(size=image.shape[1], count=1, scale=(1, 1), aspect=(1, 1), **STILL)
    draws = drawn(recipe, np.array([image.shape[1:]]))
    chosen = {name: np.array(value, getattr(draws, name).dtype)[None, None] for name, value in choices.items()}
    return levels(random_crops(image[None], draws._replace(**chosen)))[0]


def levels(crops: Tensor) -> Tensor:
    return (crops * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def grid(colours: list[tuple[float, float, float]], size: int = 16) -> Tensor:
    """Columns of plain colours."""
    columns = torch.tensor(colours).T[:, None, :].repeat_interleave(size // len(colours), dim=2)
    return columns.expand(3, size, size).to(torch.uint8).contiguous()


def differences(recipe: CropRecipe) -> np.ndarray:
    """Mean absolute difference to the reference in grey levels, of each crop."""
    images = [photo(*size, seed) for seed, size in enumerate(SIZES)]
    batch, sizes = padded(images)
    draws = drawn(recipe, sizes)
    crops = random_crops(batch, draws).unflatten(0, (recipe.count, len(images)))
    pairs = [(crop, place) for crop in range(recipe.count) for place in range(len(images))]
    references = [reference_crop(images[place], draws, crop, place) for crop, place in pairs]
    return (levels(torch.stack(references)) - levels(crops.flatten(0, 1))).abs().mean(dim=(1, 2, 3)).numpy()


# Rounding once more or once less is up to half a level; hue in Pillow has 8 bits; blur there is three box filters.
@pytest.mark.parametrize(
    ("change", "mean", "worst"),
    [
        ({}, 0.08, 0.25),
        ({"flip": 1}, 0.08, 0.25),
        ({"jitter_probability": 1, "jitter": (0.4, 0, 0, 0)}, 0.08, 0.3),
        ({"jitter_probability": 1, "jitter": (0, 0.4, 0, 0)}, 0.08, 0.3),
        ({"jitter_probability": 1, "jitter": (0, 0, 0.2, 0)}, 0.08, 0.3),
        ({"jitter_probability": 1, "jitter": (0, 0, 0, 0.1)}, 1.0, 2.5),
        ({"jitter_probability": 1}, 1.0, 3.0),
        ({"grayscale": 1}, 0.08, 0.25),
        ({"blur": 1}, 0.6, 1.0),
        ({"solarise": 1}, 0.08, 0.25),
    ],
    ids=["box", "flip", "brightness", "contrast", "saturation", "hue", "jitter", "grayscale", "blur", "solarise"],
)
@pytest.mark.parametrize(("size", "scale"), [(112, (0.25, 1)), (32, (0.05, 0.25))], ids=["global", "local"])
def test_each_operation_is_that_of_the_reference(
    change: dict[str, float], mean: float, worst: float, size: int, scale: tuple[float, float]
) -> None:
    found = differences(CropRecipe(size=size, count=6, scale=scale, **(STILL | change)))
    assert found.mean() <= mean, found.mean()
    assert found.max() <= worst, found.max()


@pytest.mark.parametrize("recipe", [GLOBAL, LOCAL], ids=["global", "local"])
def test_the_recipe_as_a_whole_is_that_of_the_reference(recipe: CropRecipe) -> None:
    found = differences(recipe.model_copy(update={"count": 8}))
    assert found.mean() <= 1.0, found.mean()
    assert found.max() <= 3.5, found.max()


def statistics(crops: Tensor) -> dict[str, np.ndarray]:
    """What a crop is known by, one number each."""
    pixels = levels(crops)
    steps = (pixels.diff(dim=2).square().mean(dim=(1, 2, 3)) + pixels.diff(dim=3).square().mean(dim=(1, 2, 3))).sqrt()
    means = dict(zip(("red", "green", "blue"), pixels.mean(dim=(2, 3)).T.numpy(), strict=True))
    chroma = (pixels.amax(dim=1) - pixels.amin(dim=1)).mean(dim=(1, 2))
    return means | {"contrast": pixels.std(dim=(1, 2, 3)).numpy(), "gradient": steps.numpy(), "chroma": chroma.numpy()}


def test_crops_are_distributed_as_those_of_the_reference() -> None:
    recipe = LOCAL.model_copy(update={"size": 24, "count": 16, "solarise": 0.2})
    images = [photo(220, 260, seed) for seed in range(24)]
    batch, sizes = padded(images)
    ours = statistics(random_crops(batch, drawn(recipe, sizes, seed=1)))
    other = drawn(recipe, sizes, seed=2)
    references = [reference_crop(image, other, crop, place) for place, image in enumerate(images) for crop in range(16)]
    theirs = statistics(torch.stack(references))
    found = {name: float(stats.ks_2samp(ours[name], theirs[name]).pvalue) for name in ours}
    rounded = {name: round(p, 3) for name, p in found.items()}
    print(f"{len(references)} crops each, Kolmogorov-Smirnov p:", rounded)  # noqa: T201  (shown by pytest -rP)
    assert min(found.values()) > LEAST_P, found


def test_an_image_gives_the_same_crops_alone_and_padded_beside_a_larger_one() -> None:
    images = [photo(64, 80, 1), photo(120, 100, 2)]
    batch, sizes = padded(images)
    batch[0, :, 64:], batch[0, :, :, 80:] = 255, 255
    both = random_crops(batch, drawn(LOCAL, sizes))
    alone = random_crops(images[0][None], drawn(LOCAL, sizes[:1]))
    torch.testing.assert_close(both[::2], alone, atol=1e-4, rtol=0)


def test_padding_is_black_below_and_to_the_right() -> None:
    batch, sizes = padded([torch.full((3, 2, 3), 7, dtype=torch.uint8), torch.full((3, 1, 4), 9, dtype=torch.uint8)])
    assert sizes.tolist() == [[2, 3], [1, 4]]
    assert batch[:, 0].tolist() == [[[7, 7, 7, 0], [7, 7, 7, 0]], [[9, 9, 9, 9], [0, 0, 0, 0]]]


def test_the_first_crop_of_every_image_comes_before_the_second() -> None:
    images = torch.stack([torch.full((3, 40, 40), level, dtype=torch.uint8) for level in (0, 100, 200)])
    recipe = CropRecipe(size=16, count=2, **STILL)
    crops = levels(random_crops(images, drawn(recipe, np.full((3, 2), 40))))
    assert crops.mean(dim=(1, 2, 3)).round().tolist() == [0, 100, 200, 0, 100, 200]


def test_crops_are_normalised_as_networks_expect_in_the_type_asked_for() -> None:
    white = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    recipe = CropRecipe(size=16, count=1, **STILL)
    crops = random_crops(white, drawn(recipe, np.array([[20, 20]])), dtype=torch.bfloat16)
    assert crops.dtype == torch.bfloat16
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(crops.float(), expected.view(1, 3, 1, 1).expand(1, 3, 16, 16), atol=0.01, rtol=0)


def test_the_box_is_what_the_crop_shows() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    image[:, 30:62, 50:66] = torch.arange(1, 17, dtype=torch.uint8) * 10
    draws = drawn(CropRecipe(size=32, count=1, **STILL), np.array([[100, 100]]))
    draws = draws._replace(boxes=np.array([[[30, 50, 32, 16]]]))
    shown = levels(random_crops(image[None], draws))[0]
    assert shown[:, :, 0].round().unique().tolist() == [9]
    assert shown[:, :, -1].round().unique().tolist() == [161]
    flipped = levels(random_crops(image[None], draws._replace(flip=np.array([[True]]))))[0]
    torch.testing.assert_close(flipped, shown.flip(2), atol=0.01, rtol=0)


def test_jitter_follows_the_order_of_each_crop() -> None:
    image = grid([(200, 200, 200), (40, 40, 40)])  # mean 120
    factors = (0.5, 0.5, 1, 0)
    brighter_first = one_crop(image, factors=factors, orders=(0, 1, 2, 3))  # 100 and 20, then towards their mean 60
    contrast_first = one_crop(image, factors=factors, orders=(1, 0, 2, 3))  # 160 and 80, then half
    assert brighter_first[0, 0, [0, 15]].round().tolist() == [80, 40]
    assert contrast_first[0, 0, [0, 15]].round().tolist() == [80, 40]
    lighter = (1.5, 0.5, 1, 0)  # 200 grows to 255 at most, so the order matters
    assert one_crop(image, factors=lighter, orders=(0, 1, 2, 3))[0, 0, [0, 15]].round().tolist() == [206, 109]
    assert one_crop(image, factors=lighter, orders=(1, 0, 2, 3))[0, 0, [0, 15]].round().tolist() == [240, 120]


@pytest.mark.parametrize("turn", [-0.1, 0.04, 0.1, 0.5])
def test_hue_turns_as_in_hsv(turn: float) -> None:
    colours = [(200, 30, 90), (30, 220, 40), (10, 60, 250), (77, 77, 77), (255, 255, 0), (0, 0, 0), (130, 20, 20)]
    colours.append((90, 180, 180))
    found = one_crop(grid(colours), factors=(1, 1, 1, turn))[:, 0, ::2]
    for colour, column in zip(colours, found.T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
        expected = torch.tensor(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
        assert (column - expected).abs().max() <= 0.51, colour


def test_blur_is_a_gaussian_of_the_deviation_drawn() -> None:
    image = torch.zeros(3, 31, 31, dtype=torch.uint8)
    image[:, 15, 15] = 255
    found = one_crop(image, blur=1.5)[0] / 255
    offsets = torch.arange(31) - 15.0
    assert float(found.sum()) == pytest.approx(1, abs=1e-3)
    assert math.sqrt(float((found.sum(dim=0) * offsets**2).sum())) == pytest.approx(1.5, rel=0.02)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2)) * (offsets.abs() <= 6)
    torch.testing.assert_close(found, torch.outer(line, line) / line.sum() ** 2, atol=1e-4, rtol=0)


def test_levels_from_128_on_are_inverted_by_solarisation() -> None:
    found = one_crop(grid([(0, 127, 128), (255, 200, 10)]), solarise=True)
    assert found[:, 0, [0, 15]].T.round().tolist() == [[0, 127, 127], [0, 55, 10]]


def test_half_precision_as_on_a_gpu_changes_few_levels() -> None:
    batch, sizes = padded([photo(*size, seed) for seed, size in enumerate(SIZES)])
    for recipe in (GLOBAL, LOCAL):
        draws = drawn(recipe, sizes)
        exact, half = (resampled(batch, draws, arithmetic) for arithmetic in (torch.float32, torch.float16))
        assert (exact - half).abs().mean() < 0.12
        assert (exact - half).abs().max() <= 2


def test_mixed_precision_around_them_does_not_touch_crops() -> None:
    image = photo(100, 100, 1)[None]
    draws = drawn(LOCAL, np.array([[100, 100]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = random_crops(image, draws)
    assert torch.equal(mixed, random_crops(image, draws))


@pytest.mark.parametrize("recipe", [GLOBAL, LOCAL], ids=["global", "local"])
def test_the_host_never_waits_for_a_value_of_the_device(recipe: CropRecipe) -> None:
    batch, sizes = padded([photo(*size, seed) for seed, size in enumerate(SIZES)])
    draws = drawn(recipe, sizes)
    expected = random_crops(batch, draws)  # also makes the constants, once
    # Fake tensors have no values: reading one, or a shape that depends on one, is an error.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert random_crops(mode.from_tensor(batch), draws).shape == expected.shape
