"""`synthclone encoders add`: an operator's command for networks that were trained elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from shared.classes import LIST_NAMES, listed_wnids
from shared.errors import Rejected

from .console import options, write_line
from .operating import checked_name, transaction
from .setup import load_settings

encoders = typer.Typer(help="Networks that were trained elsewhere.", no_args_is_help=True)


@encoders.command("add")
def add_encoder(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Weights in safetensors form, under timm's names.")],
    architecture: Annotated[str, typer.Option("--arch", help="Any timm architecture by name.")],
    classes: Annotated[
        str, typer.Option(help="A class list such as in1k, or a file with the class ids of the outputs, one a line.")
    ],
    name: Annotated[str, typer.Option(help="What reports call it, such as where it comes from.")],
    image_size: Annotated[int, typer.Option(min=16, max=1024, help="In pixels.")] = 224,
    mean: Annotated[str, typer.Option(help="Of red, green and blue, subtracted from pixels of 0 to 1.")] = (
        "0.485,0.456,0.406"
    ),
    std: Annotated[str, typer.Option(help="What they are divided by then.")] = "0.229,0.224,0.225",
    team: Annotated[str, typer.Option(help="Whose training it becomes.")] = "default",
) -> None:
    """Make a finished training of a network's weights, to evaluate and compare it like one that was trained here."""
    said, class_ids = checked_name("--name", name), class_ids_of(classes)
    shown = numbers("--mean", mean), numbers("--std", std)
    # torch takes seconds, and a slip of the keyboard is told before.
    from shared.vision.imported import NewEncoder, find_team, insert_training, read_encoder, store_encoder

    from shared.storage import open_store

    with transaction() as session:
        team_id = find_team(session, team)
    read = read_encoder(NewEncoder(said, file, architecture, class_ids, image_size, *shown))
    result = store_encoder(open_store(load_settings()), read)
    with transaction() as session:
        insert_training(session, read, result, team_id=team_id)
    write_line(read.card.training)
    options(context).say(f"{said} is a training of team {team}: synthclone eval {read.card.training} --on SET")


def class_ids_of(classes: str) -> tuple[str, ...]:
    if classes in LIST_NAMES:
        return listed_wnids(classes)
    try:
        return tuple(line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(
            f"--classes {classes[:200]!r} is neither a class list ({', '.join(LIST_NAMES)}) nor a file of class ids"
        ) from error


def numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise Rejected(f"{option} {text[:50]!r} is no list of numbers such as 0.5,0.5,0.5") from error
