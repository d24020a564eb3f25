"""The worker's images, by the engine and by the reference, against diffusers' pipeline, called one image at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from services.sd_worker.generators import Engine
from services.sd_worker.machine import Machine
from services.sd_worker.pipeline import Generator, load_pipeline
from shared.settings import PROJECT_ROOT
from shared.specs import Recipe
from tests.rows import RECIPE

MACHINE = Machine(torch.device("cpu"), batch=32, kernels_dir=Path("unused"))
FOLDER = PROJECT_ROOT / "models" / "digits-sd"
PROMPTS = ["zero", "seven, digit", "four", "nine, digit inside kitchen", "zero"]
SEEDS = [11, 22, 33, 44, 55]


@pytest.fixture(scope="module", params=[Engine, Generator])
def generator(request: pytest.FixtureRequest) -> Engine | Generator:
    pipeline = load_pipeline(FOLDER, torch.device("cpu"))
    return Engine(pipeline, pytest.fail, MACHINE) if request.param is Engine else Generator(pipeline)


@pytest.fixture(scope="module")
def reference() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        FOLDER, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(generator: Engine | Generator, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> np.ndarray:
    return generator.start(prompts, seeds, recipe).wait().pixels.astype(int)


SAMPLERS = [
    ("pndm", PNDMScheduler),
    ("dpm++", DPMSolverMultistepScheduler),
    ("ddim", DDIMScheduler),
    ("euler", EulerDiscreteScheduler),
]


@pytest.mark.parametrize(("name", "scheduler"), SAMPLERS)
@pytest.mark.parametrize("guidance", [1.0, 2.0, 7.5])
def test_images_equal_the_plain_pipeline_within_one_grey_level_alone_and_in_a_batch(
    generator: Engine | Generator, reference: StableDiffusionPipeline, name: str, scheduler: Any, guidance: float
) -> None:
    recipe = RECIPE.model_copy(update={"scheduler": name, "guidance": guidance, "steps": 8})
    reference.scheduler = scheduler.from_config(reference.scheduler.config)
    batch = draw(generator, PROMPTS, SEEDS, recipe)
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        expected = (plain(reference, prompt, seed, recipe) * 255).round().astype(int)
        alone = draw(generator, [prompt], [seed], recipe)
        assert np.abs(alone - expected).max() <= 1
        assert np.abs(batch[index : index + 1] - expected).max() <= 1


def plain(pipeline: StableDiffusionPipeline, prompt: str, seed: int, recipe: Recipe) -> np.ndarray:
    noise = torch.Generator("cpu").manual_seed(seed)
    result = pipeline(
        prompt,
        generator=noise,
        guidance_scale=recipe.guidance,
        num_inference_steps=recipe.steps,
        output_type="np",
    )
    return np.asarray(result.images)


def test_seed_prompt_and_guidance_each_change_the_image(generator: Engine | Generator) -> None:
    recipe = RECIPE.model_copy(update={"steps": 4})
    first = draw(generator, ["zero"], [1], recipe)
    others = [
        draw(generator, ["zero"], [2], recipe),
        draw(generator, ["one"], [1], recipe),
        draw(generator, ["zero"], [1], recipe.model_copy(update={"guidance": 7.5})),
    ]
    assert all(np.abs(first - other).max() > 10 for other in others)


def test_a_prompt_is_encoded_once(generator: Engine | Generator) -> None:
    assert generator.embeddings.of("eight, digit") is generator.embeddings.of("eight, digit")
    assert generator.embeddings.of("eight, digit") is not generator.embeddings.of("eight")


SD14_PARAMETERS = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}


@pytest.fixture(scope="module")
def sd14_folder(tmp_path_factory: pytest.TempPathFactory, reference: StableDiffusionPipeline) -> Iterator[Path]:
    """Stable Diffusion 1.4 in its exact configuration with random half-precision weights; the tokenizer is ours."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49_408,
                hidden_size=768,
                intermediate_size=3072,
                projection_dim=768,
                num_hidden_layers=12,
                num_attention_heads=12,
                max_position_embeddings=77,
                hidden_act="quick_gelu",
            )
        )
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    for part in parts.values():
        fill(part)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=reference.tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("sd14")
    pipeline.save_pretrained(folder)
    yield folder
    for file in folder.rglob("*.safetensors"):
        file.unlink()


def fill(part: torch.nn.Module) -> None:
    part.to(torch.float16).to_empty(device="cpu")
    for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
        if name.endswith("position_ids"):
            tensor.data.copy_(torch.arange(tensor.shape[-1])[None])
        elif tensor.ndim > 1:
            tensor.data.uniform_(-0.02, 0.02)
        else:
            tensor.data.fill_(1.0 if name.endswith("weight") else 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["pndm", "dpm++"])
def test_the_exact_stable_diffusion_1_4_configuration_loads_and_draws(sd14_folder: Path, scheduler: str) -> None:
    pipeline = load_pipeline(sd14_folder, torch.device("cpu"))
    found = {name: getattr(pipeline, name).num_parameters() for name in SD14_PARAMETERS}
    assert found == SD14_PARAMETERS
    generator = Engine(pipeline, pytest.fail, MACHINE)
    recipe = RECIPE.model_copy(update={"scheduler": scheduler, "steps": 2, "width": 64, "height": 64})
    pixels, is_finite = generator.start(["seven"], [1], recipe).wait()
    assert pixels.shape == (1, 64, 64, 3)
    assert is_finite.all()
