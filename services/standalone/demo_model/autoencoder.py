"""The first stage: images to latents and back."""

import logging

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .distortion import distort
from .networks import build_autoencoder

logger = logging.getLogger(__name__)

BATCH = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-3
REPORT_EVERY = 100


def train_autoencoder(images: Tensor, *, steps: int, generator: torch.Generator) -> AutoencoderKL:
    """Train on distorted copies of the images (N, 3, 32, 32) in [-1, 1]; latents come out standardized."""
    autoencoder = build_autoencoder()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        loss = reconstruction_loss(autoencoder, distort(images[chosen], generator), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0:
            logger.info("training autoencoder", extra={"step": step, "steps": steps, "loss": round(loss.item(), 4)})
    autoencoder.eval()
    standardize_latents(autoencoder, images)
    return autoencoder


def reconstruction_loss(autoencoder: AutoencoderKL, images: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute plus squared error of the decoded sample, and a little pressure towards a unit Gaussian."""
    latents = autoencoder.encode(images).latent_dist
    error: Tensor = autoencoder.decode(latents.sample(generator)).sample - images
    divergence: Tensor = latents.kl().mean() / latents.mean[0].numel()
    return error.abs().mean() + error.square().mean() + KL_WEIGHT * divergence


@torch.no_grad()
def standardize_latents(autoencoder: AutoencoderKL, images: Tensor) -> None:
    """Give each latent channel zero mean and unit variance on the images, and change no decoded image.

    Stable Diffusion multiplies latents by one number and shifts none, so the per-channel shift and scale move into the
    1x1 convolutions on both sides of the latents.
    """
    latents = autoencoder.encode(images).latent_dist.mean
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    encode, decode = autoencoder.quant_conv, autoencoder.post_quant_conv
    channels = len(mean)
    encode.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    encode.bias[:channels] = (encode.bias[:channels] - mean) / deviation
    encode.bias[channels:] -= 2 * deviation.log()  # the second half of the channels is the log variance
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= deviation.view(1, -1, 1, 1)
