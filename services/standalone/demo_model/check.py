"""How good the drawn digits are: the figures of the model card."""

from collections.abc import Sequence
from typing import NamedTuple

from shared.vision.digits import DigitsSplit, test_digits, train_digits

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from sklearn.svm import SVC
from torch import Tensor

from .card import GUIDANCE, STEPS
from .corpus import DigitText, held_out_places
from .distortion import distort

GUIDANCES = (1.0, 2.0, 4.0, 7.5)
IMAGES_PER_CLASS = 50
DISTORTED_COPIES = 5
SEED = 1


class Figures(NamedTuple):
    """Shares of 1."""

    real_accuracy: float
    few_real_accuracy: float
    synthetic_accuracy: float
    agreement: dict[float, float]
    held_out_agreement: float


def measure(pipeline: StableDiffusionPipeline, texts: Sequence[DigitText]) -> Figures:
    """Ask a classifier of real digits what was drawn, and a classifier of drawn digits what the real ones are."""
    real, test = train_digits(), test_digits()
    judge = fit_classifier(real)
    names = [text.names[0] for text in texts for _ in range(IMAGES_PER_CLASS)]
    drawn = {guidance: draw(pipeline, names, guidance=guidance) for guidance in GUIDANCES}
    labels = np.repeat(np.arange(len(texts)), IMAGES_PER_CLASS)
    student = fit_classifier(DigitsSplit(drawn[GUIDANCE], labels))
    elsewhere = draw(pipeline, _held_out_prompts(texts), guidance=GUIDANCE)
    return Figures(
        real_accuracy=judge.score(pixels(test.images), test.labels),
        few_real_accuracy=fit_classifier(_first_of_each(real)).score(pixels(test.images), test.labels),
        synthetic_accuracy=student.score(pixels(test.images), test.labels),
        agreement={guidance: judge.score(pixels(images), labels) for guidance, images in drawn.items()},
        held_out_agreement=judge.score(pixels(elsewhere), labels),
    )


def draw(pipeline: StableDiffusionPipeline, prompts: Sequence[str], *, guidance: float) -> npt.NDArray[np.uint8]:
    """One image (32, 32, 3) per prompt, image i from seed i."""
    parts = []
    for start in range(0, len(prompts), 100):
        batch = list(prompts[start : start + 100])
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(batch))]
        parts.append(
            pipeline(
                batch, guidance_scale=guidance, num_inference_steps=STEPS, generator=generators, output_type="np"
            ).images
        )
    return (np.concatenate(parts) * 255).round().astype(np.uint8)


def fit_classifier(split: DigitsSplit) -> SVC:
    """A support vector machine on the digits and a few distorted copies of each."""
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2) / 127.5 - 1
    generator = torch.Generator().manual_seed(SEED)
    copies = [images, *(distort(images, generator) for _ in range(DISTORTED_COPIES))]
    return SVC(C=10).fit(_shrink(torch.cat(copies)), np.tile(split.labels, len(copies)))


def pixels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What the classifier sees of images (N, 32, 32, 3): the 8x8 grid the real digits came in, (N, 64)."""
    return _shrink(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)


def _shrink(images: Tensor) -> npt.NDArray[np.float32]:
    grey = images.mean(dim=1, keepdim=True)
    small: npt.NDArray[np.float32] = F.interpolate(grey, size=(8, 8), mode="area").flatten(1).numpy()
    return small


def _first_of_each(split: DigitsSplit) -> DigitsSplit:
    rows = np.concatenate(
        [np.flatnonzero(split.labels == label)[:IMAGES_PER_CLASS] for label in np.unique(split.labels)]
    )
    return DigitsSplit(split.images[rows], split.labels[rows])


def _held_out_prompts(texts: Sequence[DigitText]) -> list[str]:
    places = held_out_places()
    return [
        f"{', '.join(text.names)}, {text.hypernym} inside {places[index % len(places)]}"
        for text in texts
        for index in range(IMAGES_PER_CLASS)
    ]
