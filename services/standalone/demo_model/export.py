"""Writing the pipeline as a folder that current and older diffusers and transformers read alike."""

import json
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from .tokenizer import save_classic_files

TEXT_PREFIX = "text_model."


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write half-precision safetensors; the pipeline itself becomes half precision."""
    for network in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        network.half()
    pipeline.save_pretrained(folder)
    save_classic_files(pipeline.tokenizer, folder / "tokenizer")
    _add_text_prefix(folder / "text_encoder/model.safetensors")
    _keep_latents_unclipped(folder / "scheduler/scheduler_config.json")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner only, and a container's user is another one


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Read the folder for single-precision drawing with the sampler of its card."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _add_text_prefix(weights: Path) -> None:
    """Name the text encoder's weights as transformers 4 does; transformers 5 reads both forms but writes the short."""
    tensors = {TEXT_PREFIX + key.removeprefix(TEXT_PREFIX): tensor for key, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def _keep_latents_unclipped(config_file: Path) -> None:
    """Set what PNDM has no argument for and DDIM otherwise turns on: it would cut the latents at -1 and 1."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(config | {"clip_sample": False}, indent=2) + "\n", encoding="utf-8")
