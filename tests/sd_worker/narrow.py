"""Stable Diffusion 1 with few channels."""

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from services.sd_worker.pipeline import load_pipeline
from shared.settings import PROJECT_ROOT
from tests.rows import RECIPE

FOLDER = PROJECT_ROOT / "models" / "digits-sd"
CPU = torch.device("cpu")
NARROW = RECIPE.model_copy(update={"steps": 5, "width": 64, "height": 64})
SAMPLER_CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SAMPLER_CONFIG |= {"skip_prk_steps": True, "clip_sample": False, "set_alpha_to_one": False}


def narrow_network(**changes: object) -> UNet2DConditionModel:
    """The blocks of Stable Diffusion 1, with few channels."""
    torch.manual_seed(0)
    usual: dict[str, object] = {
        "sample_size": 16,
        "block_out_channels": (32, 64, 96, 96),
        "layers_per_block": 2,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**usual | changes).eval()


def narrow_pipeline(**changes: object) -> StableDiffusionPipeline:
    """Stable Diffusion 1.4's blocks in every part, with few channels, in the demo model's words."""
    demo = load_pipeline(FOLDER, CPU)
    torch.manual_seed(0)
    unet = narrow_network(cross_attention_dim=demo.text_encoder.config.hidden_size, **changes)
    with torch.no_grad():
        unet.conv_out.weight.mul_(3)  # outputs as large as the noise, so that a fault reaches the image
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
    ).eval()
    demo.register_modules(unet=unet, vae=vae)
    demo.vae_scale_factor = 8
    return demo
