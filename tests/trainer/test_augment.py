import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.augment import augmented, rescaled, shifted


def ramp(height: int, width: int) -> Tensor:
    """Brightness grows to the right."""
    return torch.linspace(0, 255, width).round().to(torch.uint8).expand(3, height, width).contiguous()


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_small_image_moves_by_an_eighth_at_most_and_leaves_black() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, 16, 16] = 255
    places = [torch.nonzero(shifted(image, generator(seed))[0])[0] - 16 for seed in range(200)]
    offsets = torch.stack(places)
    assert (int(offsets.min()), int(offsets.max())) == (-4, 4)


@pytest.mark.parametrize(("height", "width"), [(100, 80), (80, 300)])
def test_a_large_image_becomes_a_square_of_the_size_asked_for(height: int, width: int) -> None:
    for seed in range(20):
        assert rescaled(ramp(height, width), generator(seed), 72).shape == (3, 72, 72)


def test_without_flips_nothing_is_mirrored() -> None:
    for seed in range(20):
        crop = augmented(ramp(96, 96), generator(seed), size=72, flip=False).float()
        assert crop[..., -1].mean() > crop[..., 0].mean()


def test_flips_happen_only_when_asked() -> None:
    image = ramp(96, 96)
    mirrored = [
        bool((crop[..., -1].mean() < crop[..., 0].mean()).item())
        for seed in range(40)
        for crop in [augmented(image, generator(seed), size=72, flip=True).float()]
    ]
    assert 10 < sum(mirrored) < 30


@pytest.mark.parametrize("size", [32, 72])
def test_the_same_generator_gives_the_same_crop(size: int) -> None:
    crops = [augmented(ramp(90, 90), generator(3), size=size, flip=True) for _ in range(2)]
    assert torch.equal(crops[0], crops[1])
    assert crops[0].dtype == torch.uint8
