"""The second stage: text encoder and noise predictor, trained together on cached latents."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextModel, CLIPTokenizer

from .corpus import DigitText, random_prompt
from .distortion import distort
from .networks import NOISE_SCHEDULE, build_text_encoder, build_unet

TensorList = tuple[Tensor, ...] | list[Tensor]

logger = logging.getLogger(__name__)

BATCH = 128
COPIES = 12
LEARNING_RATE = 2e-3
MAX_SIGNAL_TO_NOISE = 5.0
UNCONDITIONAL_SHARE = 0.1
PROMPTS_PER_CLASS = 3
AVERAGING = 0.998
REPORT_EVERY = 100


class LatentBank(NamedTuple):
    """The posterior of each encoded image: means and deviations (N, 4, 8, 8), labels (N,)."""

    means: Tensor
    deviations: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """Clean latents (B, 4, 8, 8), token ids (P, 77) and, for each latent, the row (B,) of its prompt in them."""

    latents: Tensor
    tokens: Tensor
    rows: Tensor


class TextToNoise(torch.nn.Module):
    """The two networks that learn in this stage."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        states = self.text_encoder(batch.tokens).last_hidden_state  # (P, 77, width)
        noise: Tensor = self.unet(noisy, timesteps, states[batch.rows]).sample
        return noise


class NoiseLevels:
    """Stable Diffusion's noise schedule with the loss weight of each timestep."""

    def __init__(self) -> None:
        self.signal: Tensor = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod
        # Min-SNR weighting for a network that predicts noise (Hang et al. 2023, section 3.4).
        ratio = self.signal / (1 - self.signal)
        self.weight = ratio.clamp(max=MAX_SIGNAL_TO_NOISE) / ratio

    def loss(self, network: TextToNoise, batch: Batch, generator: torch.Generator) -> Tensor:
        """The weighted squared error of the predicted noise at random timesteps."""
        timesteps = torch.randint(len(self.signal), (len(batch.latents),), generator=generator)
        noise = torch.randn(batch.latents.shape, generator=generator)
        signal = self.signal[timesteps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * noise
        error = (network(noisy, timesteps, batch) - noise).square().mean((1, 2, 3))
        weighted: Tensor = error * self.weight[timesteps]
        return weighted.mean()


@dataclass(frozen=True)
class PromptSource:
    """Draws the training prompts and turns them into token ids."""

    texts: Sequence[DigitText]
    places: Sequence[str]
    tokenizer: CLIPTokenizer
    random: Random

    def tokens(self) -> Tensor:
        """(P, 77): first the empty prompt of classifier-free guidance, then PROMPTS_PER_CLASS prompts of each digit."""
        drawn = [random_prompt(text, self.places, self.random) for text in self.texts for _ in range(PROMPTS_PER_CLASS)]
        encoded = self.tokenizer(["", *drawn], padding="max_length", truncation=True, return_tensors="pt")
        ids: Tensor = encoded.input_ids
        return ids


@torch.no_grad()
def encode_copies(
    autoencoder: AutoencoderKL, images: Tensor, labels: Tensor, *, generator: torch.Generator
) -> LatentBank:
    """Encode the images as they are and COPIES - 1 times distorted, once, so that training skips the autoencoder."""
    copies = [images, *(distort(images, generator) for _ in range(COPIES - 1))]
    posteriors = [autoencoder.encode(part).latent_dist for copy in copies for part in copy.split(BATCH)]
    means = torch.cat([posterior.mean for posterior in posteriors])
    deviations = torch.cat([posterior.std for posterior in posteriors])
    return LatentBank(means, deviations, labels.repeat(COPIES))


def train_diffusion(bank: LatentBank, prompts: PromptSource, *, steps: int, generator: torch.Generator) -> TextToNoise:
    """Train both networks from scratch; returned are the running averages of their weights, which draw better."""
    network = TextToNoise(build_unet(), build_text_encoder(prompts.tokenizer))
    average = AveragedModel(network, multi_avg_fn=_move_towards)
    noise_levels = NoiseLevels()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.08)
    for step in range(steps):
        loss = noise_levels.loss(network, draw_batch(bank, prompts, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        if step % REPORT_EVERY == 0:
            logger.info("training diffusion", extra={"step": step, "steps": steps, "loss": round(loss.item(), 4)})
    return cast(TextToNoise, average.module.eval())


def draw_batch(bank: LatentBank, prompts: PromptSource, generator: torch.Generator) -> Batch:
    """Random latents, each with a prompt of its own class or, for UNCONDITIONAL_SHARE of them, the empty one."""
    chosen = torch.randint(len(bank.labels), (BATCH,), generator=generator)
    noise = torch.randn(BATCH, *bank.means.shape[1:], generator=generator)
    latents = bank.means[chosen] + bank.deviations[chosen] * noise
    variant = torch.randint(PROMPTS_PER_CLASS, (BATCH,), generator=generator)
    rows = 1 + bank.labels[chosen] * PROMPTS_PER_CLASS + variant
    rows[torch.rand(BATCH, generator=generator) < UNCONDITIONAL_SHARE] = 0
    return Batch(latents, prompts.tokens(), rows)


def _move_towards(averages: TensorList, currents: TensorList, updates: Tensor | int) -> None:
    """An exponential moving average that forgets its first, untrained members quickly."""
    decay = min(AVERAGING, (1 + int(updates)) / (10 + int(updates)))
    torch._foreach_lerp_(averages, currents, 1 - decay)
