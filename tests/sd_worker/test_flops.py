"""What an image costs, counted on diffusers' own networks without their weights."""

from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

from services.sd_worker.flops import evaluations, image_flop, matmul_rate
from shared.settings import PROJECT_ROOT
from tests.rows import RECIPE


@pytest.fixture(scope="module")
def sd14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configurations of Stable Diffusion 1.4 alone."""
    folder = tmp_path_factory.mktemp("sd14")
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    unet.save_config(folder / "unet")
    vae.save_config(folder / "vae")
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    scheduler.save_config(folder / "scheduler")
    return folder


@pytest.mark.parametrize(
    ("scheduler", "guidance", "calls", "teraflop"),
    [("pndm", 7.5, 102, 84.45), ("pndm", 1.0, 51, 43.48), ("pndm", 0.5, 51, 43.48), ("ddim", 7.5, 100, 82.84)],
)
def test_an_image_of_stable_diffusion_1_4(
    sd14: Path, scheduler: str, guidance: float, calls: int, teraflop: float
) -> None:
    """The UNet's 803.27 GFLOP for each call and the decoder's 2,514.5."""
    sizes = {"width": 512, "height": 512, "steps": 50}
    recipe = RECIPE.model_copy(update={**sizes, "scheduler": scheduler, "guidance": guidance})
    assert evaluations(sd14, recipe) == calls
    assert round(image_flop(sd14, recipe) / 1e12, 2) == teraflop


def test_an_image_of_another_size_costs_more_than_its_pixels(sd14: Path) -> None:
    """Attention grows with the square."""
    small, wide = (RECIPE.model_copy(update={"width": width, "height": 512, "steps": 50}) for width in (512, 1024))
    assert 2 < image_flop(sd14, wide) / image_flop(sd14, small) < 2.5


def test_the_built_in_model_is_counted_too() -> None:
    assert image_flop(PROJECT_ROOT / "models/digits-sd", RECIPE) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_matrix_products_is_that_of_their_arithmetic(dtype: torch.dtype) -> None:
    rate = matmul_rate(torch.device("cpu"), dtype)
    assert 1e8 < rate < 1e15
