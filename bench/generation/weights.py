"""The model that is drawn with: Stable Diffusion 1.4, or its configuration with random weights."""

from pathlib import Path
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shared.settings import PROJECT_ROOT

from .plan import Plan

REGISTERED = PROJECT_ROOT / "models" / "sd14"
TOKENIZER = PROJECT_ROOT / "models" / "digits-sd" / "tokenizer"
OUTPUT_SCALE = 3  # outputs as large as the noise, so that a fault of the network reaches the image


class Shape(NamedTuple):
    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    text_layers: int
    layers: int  # of a block


SD14 = Shape(unet=(320, 640, 1280, 1280), vae=(128, 256, 512, 512), text=768, text_layers=12, layers=2)
NARROW = Shape(unet=(32, 64, 64, 64), vae=(32, 32, 32, 32), text=64, text_layers=2, layers=1)


def shape_of(plan: Plan) -> Shape:
    return NARROW if plan.is_tiny else SD14


def model_folder(plan: Plan, scratch: Path) -> tuple[Path, str]:
    """Where the weights lie, and what they are; random ones are made in `scratch`."""
    if not plan.is_tiny and (REGISTERED / "model_index.json").exists():
        return REGISTERED, "models/sd14"
    save_random(scratch, shape_of(plan), device=plan.device, dtype=plan.half)
    return scratch, f"random weights, conv_out x {OUTPUT_SCALE}"


def make_unet(shape: Shape) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=shape.unet,
        layers_per_block=shape.layers,
        cross_attention_dim=shape.text,
        attention_head_dim=8,
    )


def make_vae(shape: Shape) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=512,
        block_out_channels=shape.vae,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=shape.layers,
        latent_channels=4,
    )


def make_text_encoder(shape: Shape) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=shape.text,
            intermediate_size=4 * shape.text,
            projection_dim=shape.text,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=shape.text // 64,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
        )
    )


def make_sampler() -> PNDMScheduler:
    """As in the model's own folder."""
    return PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )


def save_random(folder: Path, shape: Shape, *, device: torch.device, dtype: torch.dtype) -> None:
    """The same weights each time on the same kind of device, drawn there: a GPU takes a moment for a billion."""
    torch.manual_seed(0)
    with device:
        unet, vae, text_encoder = make_unet(shape), make_vae(shape), make_text_encoder(shape)
    with torch.no_grad():
        unet.conv_out.weight.mul_(OUTPUT_SCALE)
    pipeline = StableDiffusionPipeline(
        unet=unet.to(dtype),
        vae=vae.to(dtype),
        text_encoder=text_encoder.to(dtype),
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        scheduler=make_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
