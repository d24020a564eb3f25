"""`synthclone models`: an operator's command that adds a Stable Diffusion folder to the models file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import ValidationError

from shared.errors import ConfigurationError, Rejected
from shared.models import BUILT_IN, DType, ModelEntry, folder_digest, load_entries
from shared.settings import Settings
from shared.specs import SchedulerName

from .console import options, write_json
from .setup import load_settings

models = typer.Typer(help="Generators that requests may name.", no_args_is_help=True)
# Of a photo-like JPEG at quality 95, roughly.
BYTES_PER_PIXEL = 0.3


@models.command("register")
def register(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What requests call it, such as sd15.")],
    folder: Annotated[str, typer.Argument(help="Name of its diffusers folder below SYNTHCLONE_MODELS_DIR.")],
    licence: Annotated[str, typer.Option(help="Under which the images may be used.")],
    image_size: Annotated[int, typer.Option(min=8, max=1024, help="Side of its images in pixels.")] = 512,
    scheduler: Annotated[str, typer.Option(help=f"Sampler: {', '.join(get_args(SchedulerName))}.")] = "pndm",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the sampler.")] = 50,
    dtype: Annotated[
        str | None, typer.Option(help=f"{', '.join(get_args(DType))}; default: float16 on a GPU, float32 on a CPU.")
    ] = None,
    distilled: Annotated[
        bool, typer.Option("--distilled", help="Distilled to few steps; its datasets say so.")
    ] = False,
    seconds_per_image: Annotated[float, typer.Option(min=0, help="Of a worker, for estimates only.")] = 1.0,
    own_tokenizer: Annotated[bool, typer.Option("--own-tokenizer", help="Its words are not OpenAI CLIP's.")] = False,
) -> None:
    """Check the weights of a folder and write the model into the file that SYNTHCLONE_MODELS_FILE names."""
    settings = load_settings()
    place = models_file(settings)
    fields = {
        "name": name,
        "folder": folder,
        "digest": "",  # of weights that are still to be checked
        "licence": licence,
        "image_size": image_size,
        "scheduler": scheduler,
        "steps": steps,
        "dtype": dtype,
        "distilled": distilled,
        "seconds_per_image": seconds_per_image,
        "bytes_per_image": round(BYTES_PER_PIXEL * image_size**2),
        "clip_tokenizer": not own_tokenizer,
    }
    entry = checked(fields, settings)
    others = entries_in(place)
    refuse_taken(entry, load_entries(BUILT_IN) | others)
    write_entries(place, others | {name: entry})
    options(context).say(f"{name} is registered in {place}; services read it when they start")
    write_json(entry)


def models_file(settings: Settings) -> Path:
    if settings.models_file is None:
        raise ConfigurationError(
            "SYNTHCLONE_MODELS_FILE is not set; name a JSON file in it, for this command and for every service"
        )
    return settings.models_file


def checked(fields: dict[str, object], settings: Settings) -> ModelEntry:
    """With its digest; raises Rejected or ConfigurationError where it cannot be drawn with."""
    try:
        entry = ModelEntry.model_validate(fields)
    except ValidationError as error:
        faults = [f"{fault['loc'][0]} {fault['input']!r}: {fault['msg']}" for fault in error.errors()]
        raise Rejected("; ".join(faults)) from error
    if problem := entry.missing(settings):
        raise ConfigurationError(problem)
    # diffusers takes seconds, and a slip of the keyboard is told before.
    import torch

    from services.sd_worker.checkpoint import load_parts

    load_parts(entry.path(settings), torch.float16)
    return entry.model_copy(update={"digest": folder_digest(entry.path(settings))})


def entries_in(place: Path) -> dict[str, ModelEntry]:
    return load_entries(place) if place.exists() else {}


def refuse_taken(entry: ModelEntry, known: Mapping[str, ModelEntry]) -> None:
    """Images are known by their model's name and shared by its digest: each has one of the other."""
    old = known.get(entry.name)
    if old is not None and old.digest != entry.digest:
        raise Rejected(
            f"{entry.name!r} is registered with other weights, {old.digest}, than those of {entry.folder}, "
            f"{entry.digest}; choose another name"
        )
    for other in known.values():
        if other.digest == entry.digest and other.name != entry.name:
            raise Rejected(
                f"the weights of {entry.folder}, {entry.digest}, are registered as {other.name!r}, and a second name "
                f"would share its images; ask for {other.name!r}, or register under that name to change its card"
            )


def write_entries(place: Path, entries: Mapping[str, ModelEntry]) -> None:
    """The whole file or nothing, whenever the process ends."""
    unfinished = place.with_suffix(".part")
    listed = [entry.model_dump(mode="json") for entry in entries.values()]
    unfinished.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(place)
