"""Any Stable Diffusion folder through diffusers' own StableDiffusionPipeline."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from diffusers.utils.logging import disable_progress_bar
from numpy.typing import NDArray

from shared.specs import Recipe

SCHEDULERS = {
    "pndm": PNDMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
}
CACHED_PROMPTS = 4096


def load_pipeline(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    disable_progress_bar()
    loaded = StableDiffusionPipeline.from_pretrained(
        folder,
        dtype=torch.float16 if device.type == "cuda" else torch.float32,
        local_files_only=True,
        use_safetensors=True,
        # Its verdict belongs into the metadata; blackened images would silently thin out a class.
        safety_checker=None,
        requires_safety_checker=False,
    ).to(device)
    loaded.set_progress_bar_config(disable=True)
    return loaded


class Embeddings:
    """The text encoder, and what it said of the prompts asked for last: each is encoded once."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    def of(self, prompt: str) -> torch.Tensor:
        """(77, width): the text encoder's last hidden state, computed alone so that batch mates cannot change it."""
        if prompt in self._known:
            self._known.move_to_end(prompt)
            return self._known[prompt]
        with torch.inference_mode():
            embedding, _ = self._pipeline.encode_prompt(
                prompt, self._pipeline._execution_device, 1, do_classifier_free_guidance=False
            )
        self._known[prompt] = embedding[0]
        if len(self._known) > CACHED_PROMPTS:
            self._known.popitem(last=False)
        return self._known[prompt]


class Generator:
    """The reference: diffusers' pipeline as it is. It draws what the engine has no arithmetic for."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.embeddings = Embeddings(pipeline)
        self._scheduler_config = pipeline.scheduler.config

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> NDArray[np.float32]:
        """One image per prompt and seed: (N, height, width, 3) in 0..1; NaN is passed on for the gate to see."""
        schedule = SCHEDULERS[recipe.scheduler]
        self.pipeline.scheduler = schedule.from_config(self._scheduler_config)
        guided = recipe.guidance > 1
        result = self.pipeline(
            prompt_embeds=torch.stack([self.embeddings.of(prompt) for prompt in prompts]),
            negative_prompt_embeds=self.embeddings.of("").expand(len(prompts), -1, -1) if guided else None,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            guidance_scale=recipe.guidance,
            num_inference_steps=recipe.steps,
            width=recipe.width,
            height=recipe.height,
            output_type="np",
        )
        return np.asarray(result.images, dtype=np.float32)
