"""`synthclone submit` and `synthclone prompts`: what to draw, from what was typed."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from shared.specs import DatasetRequest

from .console import Options, options, usage_errors, write_json, write_line
from .models import Estimate, Job
from .session import Client
from .watching import watch

WORDNET_IDS = re.compile(r"n\d{8}(,n\d{8})*,?", re.ASCII)

Classes = Annotated[str, typer.Option(help="in1k, in100, digits, a file, or WordNet ids joined by commas.")]
Prompt = Annotated[
    str, typer.Option(help="name, hypernym, description, background, captions, or a template: 'a photo of {name}'.")
]
Model = Annotated[str | None, typer.Option(help="A registered model; default: the server's.")]
Seed = Annotated[int, typer.Option(help="Another seed draws other images.")]
Key = Annotated[str | None, typer.Option(help="Sending the same key again gives the same job.")]


def submit(
    context: typer.Context,
    classes: Classes,
    prompt: Prompt = "name",
    scale: Annotated[float, typer.Option(help="Guidance scale; 2.0 was the paper's best.")] = 7.5,
    per_class: Annotated[int | None, typer.Option(help="Images per class.")] = None,
    size: Annotated[str | None, typer.Option(help="Multiple of the real data set's counts: 1x, 10x...")] = None,
    model: Model = None,
    width: Annotated[
        int | None, typer.Option(help="Of an image, in pixels: a multiple of 8; default: the model card's.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="As --width.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Approximate: guidance only between these fractions of the trajectory, such as 0.2 0.8."),
    ] = None,
    reuse_every: Annotated[
        int | None, typer.Option(help="Approximate: the network's deep features once in so many evaluations.")
    ] = None,
    seed: Seed = 0,
    priority: Annotated[int, typer.Option(help="0 to 9; 9 is drawn first within your team.")] = 0,
    deadline: Annotated[
        str | None, typer.Option(help="Stop softly then: 2026-12-24T18:00, local time unless it names a zone.")
    ] = None,
    budget_images: Annotated[int | None, typer.Option(help="Stop softly after so many newly drawn images.")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Stop softly after so many seconds of workers.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the job ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate, create nothing.")] = False,
    idempotency_key: Key = None,
) -> None:
    """Have a dataset drawn."""
    fields: dict[str, object] = {
        "scale": scale,
        "images_per_class": per_class,
        "size": size,
        "model": model,
        "width": width,
        "height": height,
        "seed": seed,
    }
    fields |= {"priority": priority, "deadline": read_time(deadline), "budget": budget(budget_images, budget_seconds)}
    fields |= {"approximation": approximation(guidance_interval, reuse_every)}
    with usage_errors():
        request = DatasetRequest.model_validate(dataset_fields(classes, prompt, fields))
    chosen = options(context)
    with chosen.client() as client:
        if dry_run:
            show_estimate(chosen, client.datasets.estimate(request))
        else:
            job = client.datasets.submit(request, idempotency_key=idempotency_key)
            show_submitted(chosen, client, job, follow=follow)


def prompts(
    context: typer.Context,
    classes: Annotated[str, typer.Argument(help="As for submit --classes.")],
    prompt: Prompt = "name",
    slots: Annotated[int, typer.Option(help="Prompts per class.", min=1, max=20)] = 1,
    limit: Annotated[int, typer.Option(help="Classes shown.", min=1)] = 20,
    model: Model = None,
    seed: Seed = 0,
) -> None:
    """Show the prompts that a dataset would be drawn with."""
    fields = dataset_fields(classes, prompt, {"model": model, "seed": seed})
    chosen = options(context)
    with chosen.client() as client, usage_errors():
        preview = client.prompts.preview(slots=slots, limit=limit, **fields)
    if chosen.as_json:
        write_json(preview)
        return
    rows = [(known.id, str(shown.tokens or "-"), shown.text) for known in preview.items for shown in known.prompts]
    chosen.show(("class", "tokens", "prompt"), rows)
    for warning in preview.warnings:
        chosen.say(f"warning: {warning}")


def dataset_fields(classes: str, prompt: str, others: Mapping[str, object]) -> dict[str, object]:
    return given(others) | {
        "classes": read_classes(classes),
        "prompt": {"template": prompt} if "{" in prompt else prompt,
    }


def given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def read_classes(text: str) -> object:
    """A list's name as it is; ids as a list; a file by its lines, or as the JSON it holds; raises BadParameter."""
    if WORDNET_IDS.fullmatch(text):
        return text.rstrip(",").split(",")
    path = Path(text)
    try:
        if not path.is_file():
            return text
        content = path.read_text(encoding="utf-8")
        return json.loads(content) if path.suffix == ".json" else lines_of(content)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(
            f"no classes can be read from the file {text[:200]!r}: {error}; it must be text or JSON in UTF-8"
        ) from error


def budget(images: int | None, seconds: float | None) -> dict[str, object] | None:
    return given({"images": images, "worker_seconds": seconds}) or None


def approximation(guidance_interval: tuple[float, float] | None, reuse_every: int | None) -> dict[str, object] | None:
    return given({"guidance_interval": guidance_interval, "reuse_every": reuse_every}) or None


def read_time(text: str | None) -> datetime | None:
    """A time without a zone is the user's own; raises BadParameter."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text[:50]!r} is no time such as 2026-12-24T18:00") from error


def lines_of(content: str) -> list[object]:
    """WordNet ids, or names of classes of the user's own; "#" begins a remark."""
    words = [line.partition("#")[0].strip() for line in content.splitlines()]
    return [word if WORDNET_IDS.fullmatch(word) else {"name": word} for word in words if word]


def show_submitted(chosen: Options, client: Client, job: Job, *, follow: bool) -> None:
    chosen.say(f"{job.summary}\n{client.connection.url}/jobs/{job.id}")
    if follow:
        job = watch(chosen, client, job.id)
    if chosen.as_json:
        write_json(job)
    else:
        write_line(job.id)


def show_estimate(chosen: Options, estimate: Estimate) -> None:
    if chosen.as_json:
        write_json(estimate)
        return
    write_line(estimate.summary)
    write_line(f"about {estimate.estimated_bytes / 1e6:,.1f} MB, {estimate.estimated_worker_hours:.2f} worker hours")
    for warning in estimate.warnings:
        chosen.say(f"warning: {warning}")
