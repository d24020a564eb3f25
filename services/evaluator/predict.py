"""A network's outputs for the images of a benchmark."""

from collections.abc import Iterator

from shared.vision.images import normalised, squared

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

BATCH_SIZE = 128


def predictions(
    network: nn.Module, images: npt.NDArray[np.uint8], *, image_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Logits (B, C) float32 on the CPU, batch by batch in order; images are (N, H, W, 3)."""
    for start in range(0, len(images), BATCH_SIZE):
        batch = torch.from_numpy(images[start : start + BATCH_SIZE]).permute(0, 3, 1, 2)
        squares = torch.stack([squared(image, image_size) for image in batch])
        with torch.inference_mode():
            yield network(normalised(squares.to(device))).float().cpu()
