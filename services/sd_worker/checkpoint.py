"""The networks of a Stable Diffusion folder, refused unless their weights are whole.

The loaders only warn of a missing weight and draw with a random one, or with none at all.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextModel

from shared.errors import ConfigurationError

PARTS: dict[str, type[Any]] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
# What constructors raise for values of a wrong type or size, which they do not check.
BAD_VALUES = (TypeError, LookupError, ArithmeticError, StrictDataclassError)
NAMED = 5  # of what is wrong: a folder of another model lacks hundreds of weights


def load_parts(folder: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """By name, on the CPU. Raises ConfigurationError."""
    refuse_other_parts(folder)
    for name in PARTS:
        refuse_unreadable(folder / name)
    return {name: load_part(folder / name, dtype) for name in PARTS}


def refuse_other_parts(folder: Path) -> None:
    index = folder / "model_index.json"
    try:
        named = json.loads(index.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{index} cannot be read ({error}); the folder must be a diffusers one") from error
    for name, kind in PARTS.items():
        found = named.get(name) or [None, None]
        if found[-1] != kind.__name__:
            raise ConfigurationError(
                f"{index} has {found[-1]} as {name}; only Stable Diffusion with {kind.__name__} can be drawn with"
            )


def refuse_unreadable(part: Path) -> None:
    refuse_broken_config(part)
    files = sorted(part.glob("*.safetensors"))
    if not files:
        raise ConfigurationError(no_weights(part))
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(
                f"{file} is no whole safetensors file ({error}), whatever its name says; fetch it again"
            ) from error


def refuse_broken_config(part: Path) -> None:
    """transformers would go on without one, with the sizes of another network."""
    config = part / "config.json"
    try:
        read = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{config} cannot be read ({error}); {remedy(part)}") from error
    if not isinstance(read, dict):
        raise ConfigurationError(f"{config} is a JSON {type(read).__name__} and no object; {remedy(part)}")


def no_weights(part: Path) -> str:
    pickles = sorted(file.name for file in part.glob("*") if file.suffix in PICKLES)
    if not pickles:
        return f"{part} has no weights; fetch the folder again"
    return (
        f"the weights in {part} are a pickle ({', '.join(pickles)}), which could run any code while it is read; "
        "convert them where you trust them: StableDiffusionPipeline.from_pretrained(folder).save_pretrained(new_folder)"
    )


def load_part(part: Path, dtype: torch.dtype) -> nn.Module:
    kind = PARTS[part.name]
    # transformers tells shapes that differ only when told to go on; diffusers names the first in its error.
    going_on = {"ignore_mismatched_sizes": True} if kind is CLIPTextModel else {}
    try:
        network, told = kind.from_pretrained(
            part, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **going_on
        )
    except OSError as error:
        raise ConfigurationError(f"the weights in {part} cannot be loaded ({error}); {variant_remedy(part)}") from error
    except ValueError as error:
        raise ConfigurationError(f"{str(error).partition('. If you want')[0]}; {remedy(part)}") from error
    except BAD_VALUES as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"{part / 'config.json'} describes no network ({said}); {remedy(part)}") from error
    refuse_incomplete(part, told)
    loaded: nn.Module = network
    return loaded


def refuse_incomplete(part: Path, told: Mapping[str, Collection[Any]]) -> None:
    """`told` is what a loader's output_loading_info gives."""
    shapes = [f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in told["mismatched_keys"]]
    faults = {"lack": told["missing_keys"], "do not know": told["unexpected_keys"], "have other shapes:": shapes}
    said = [f"{verb} {first_of(found)}" for verb, found in faults.items() if found]
    if said:
        raise ConfigurationError(f"the weights and config.json in {part} do not fit: {'; '.join(said)}; {remedy(part)}")


def variant_remedy(part: Path) -> str:
    halves = sorted(file.name for file in part.glob("*.fp16*.safetensors"))
    if not halves:
        return remedy(part)
    return (
        f"of the half precision variant {first_of(halves)} the name must be without '.fp16': rename it, or fetch "
        f"{part.name} with its full weights"
    )


def first_of(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def remedy(part: Path) -> str:
    return f"fetch {part.name} again, its weights and config.json from the same place"
