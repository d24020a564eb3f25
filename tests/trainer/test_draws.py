import shared.vision  # noqa: F401  (makes torchvision importable beside a CPU torch)

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from services.trainer.draws import HUE, ORDERS, CropDraws, draw_crops, hashed, uniform
from shared.recipes import IMAGENET_SD, CropRecipe

GLOBAL, LOCAL = IMAGENET_SD.crops
MANY = 4000
LEAST_P = 0.001  # seeds are fixed, so a test that passes once always does


def draw(*recipes: CropRecipe, images: int = MANY, seed: int = 1, epoch: int = 0, size: tuple[int, int] = (512, 512)):
    indices = np.arange(images)
    sizes = np.tile(size, (images, 1))
    return draw_crops(recipes, seed=seed, epochs=np.full(images, epoch), indices=indices, sizes=sizes)


def fields(draws: CropDraws) -> tuple[np.ndarray, ...]:
    return draws[1:]


def test_the_hash_is_splitmix64() -> None:
    # The numbers by which implementations of splitmix64 are commonly compared.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert hashed(np.array([1234567], np.uint64), np.arange(3)).tolist() == expected


def test_the_choices_for_an_image_do_not_depend_on_its_batch() -> None:
    generator = np.random.default_rng(0)
    epochs, indices = generator.integers(0, 5, 64), generator.integers(0, 10**6, 64)
    sizes = generator.integers(20, 600, (64, 2))
    whole = draw_crops(IMAGENET_SD.crops, seed=7, epochs=epochs, indices=indices, sizes=sizes)
    rows = generator.permutation(64)[:9]
    part = draw_crops(IMAGENET_SD.crops, seed=7, epochs=epochs[rows], indices=indices[rows], sizes=sizes[rows])
    for large, small in zip(whole, part, strict=True):
        for every, some in zip(fields(large), fields(small), strict=True):
            assert np.array_equal(every[:, rows], some)


def test_every_seed_epoch_index_and_crop_has_choices_of_its_own() -> None:
    found = [draw(LOCAL, images=20, seed=seed, epoch=epoch)[0].factors for seed in range(3) for epoch in range(3)]
    drawn = np.stack(found).reshape(-1, 4)
    jittered = drawn[drawn[:, HUE] != 0]
    assert len(jittered) > 0.7 * len(drawn)
    assert len(np.unique(jittered, axis=0)) == len(jittered)


def test_numbers_are_uniform_and_neighbours_unrelated() -> None:
    keys = hashed(hashed(np.zeros(1, np.uint64), 3), np.arange(20_000))
    numbers = np.stack([uniform(keys, field) for field in range(8)])
    assert min(stats.kstest(row, "uniform").pvalue for row in numbers) > LEAST_P
    pairs = [(numbers[0][:-1], numbers[0][1:]), (numbers[0], numbers[1]), (numbers[6], numbers[7])]
    assert min(stats.pearsonr(*pair).pvalue for pair in pairs) > LEAST_P


@pytest.mark.parametrize("size", [(512, 512), (300, 640), (100, 1000)])
@pytest.mark.parametrize("recipe", [GLOBAL, LOCAL], ids=["global", "local"])
def test_boxes_are_distributed_as_torchvision_draws_them(size: tuple[int, int], recipe: CropRecipe) -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    given = [RandomResizedCrop.get_params(image, list(recipe.scale), list(recipe.aspect)) for _ in range(MANY)]
    theirs = np.array(given)
    ours = draw(recipe.model_copy(update={"count": 1}), size=size)[0].boxes[0]
    for measure in (area, aspect, top, left):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > LEAST_P, measure.__name__


def area(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2] * boxes[:, 3]


def aspect(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 3] / boxes[:, 2]


def top(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 0]


def left(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 1]


@pytest.mark.parametrize(("size", "box"), [((90, 1000), [0, 440, 90, 120]), ((1000, 90), [440, 0, 120, 90])])
def test_without_a_box_that_fits_the_largest_of_an_allowed_aspect_is_taken_from_the_centre(
    size: tuple[int, int], box: list[int]
) -> None:
    boxes = draw(CropRecipe(size=32, count=1, scale=(1, 1)), images=1, size=size)[0].boxes
    assert boxes.tolist() == [[box]]


def test_boxes_lie_inside_images_of_any_size() -> None:
    sizes = np.random.default_rng(1).integers(1, 40, (MANY, 2))
    sizes[0] = 1, 1
    zeros = np.zeros(MANY, np.int64)
    (draws,) = draw_crops([LOCAL], seed=1, epochs=zeros, indices=np.arange(MANY), sizes=sizes)
    assert draws.boxes[..., :2].min() >= 0
    assert draws.boxes[..., 2:].min() >= 1
    assert (draws.boxes[..., :2] + draws.boxes[..., 2:] <= sizes).all()


def test_choices_happen_as_often_as_the_recipe_says() -> None:
    draws, _ = draw(GLOBAL, LOCAL)
    jitter = draws.factors[..., HUE] != 0
    wanted = {"flip": (draws.flip, 0.5), "jitter": (jitter, 0.8), "grayscale": (draws.grayscale, 0.2)}
    wanted |= {"blur": (draws.blur > 0, 0.2), "solarise": (draws.solarise, 0.2)}
    for name, (happened, probability) in wanted.items():
        assert stats.binomtest(int(happened.sum()), happened.size, probability).pvalue > LEAST_P, name


def test_jitter_and_blur_are_uniform_in_their_ranges() -> None:
    (draws,) = draw(LOCAL)
    factors = draws.factors[draws.factors[..., HUE] != 0]
    blur = draws.blur[draws.blur > 0]
    for values, low, high in zip((*factors.T, blur), (0.6, 0.6, 0.8, -0.1, 0.1), (1.4, 1.4, 1.2, 0.1, 2), strict=True):
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > LEAST_P


def test_all_orders_of_jitter_are_equally_likely() -> None:
    (draws,) = draw(LOCAL)
    counts = [int((draws.orders == order).all(axis=-1).sum()) for order in ORDERS]
    assert sum(counts) == draws.flip.size
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_a_crop_without_jitter_has_factors_that_change_nothing() -> None:
    (draws,) = draw(CropRecipe(size=32, count=2, jitter_probability=0), images=5)
    assert (draws.factors == np.array([1, 1, 1, 0])).all()
