"""Any Stable Diffusion folder through diffusers' own StableDiffusionPipeline."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from diffusers.utils.logging import disable_progress_bar
from transformers.utils.logging import disable_progress_bar as disable_progress_bar_of_text_encoders

from shared.errors import Rejected
from shared.models import DType
from shared.specs import Recipe

from .checkpoint import load_parts
from .drawn import Ready, as_drawn

SCHEDULERS = {
    "pndm": PNDMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
}
CACHED_PROMPTS = 512  # 60 MB of the GPU for Stable Diffusion; encoding one again costs 1/6000 of its image


def torch_dtype(device: torch.device, dtype: DType | None) -> torch.dtype:
    """A model card's, or what suits the device."""
    chosen: torch.dtype = getattr(torch, dtype or ("float16" if device.type == "cuda" else "float32"))
    return chosen


def load_pipeline(folder: Path, device: torch.device, dtype: DType | None = None) -> StableDiffusionPipeline:
    """Raises ConfigurationError where the weights are not whole."""
    disable_progress_bar()
    disable_progress_bar_of_text_encoders()
    chosen = torch_dtype(device, dtype)
    loaded = StableDiffusionPipeline.from_pretrained(
        folder,
        **load_parts(folder, chosen),
        dtype=chosen,
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
        # One image at a time: its tensors have 2^31 elements from 32 images of 512 x 512 on, which torch cannot double.
        pipeline.vae.enable_slicing()
        self.embeddings = Embeddings(pipeline)
        self._scheduler_config = pipeline.scheduler.config

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> Ready:
        """One image per prompt and seed. Raises Rejected for an approximated trajectory."""
        refuse_approximated(recipe, "the engine does not know the model's parts")
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
        return Ready(as_drawn(result.images))


def refuse_approximated(recipe: Recipe, reason: str) -> None:
    """A model that is an approximation by its weights alone is drawn as any other."""
    approximation = recipe.approximation
    if approximation is not None and approximation.is_of_the_trajectory:
        raise Rejected(
            f"{approximation.label} cannot be drawn: {reason}, so diffusers' own pipeline would draw, which has no "
            "approximations; ask for the dataset without one, or change what stands in the way"
        )
