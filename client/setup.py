"""`synthclone migrate` and `synthclone lexicon build`, and the settings that local commands work with."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from shared.errors import ConfigurationError
from shared.settings import Settings

from .console import options, write_line

lexicon = typer.Typer(help="The class texts.", no_args_is_help=True)


def load_settings(**changed: Path | int | None) -> Settings:
    """From SYNTHCLONE_* variables, with what the command line changed; raises ConfigurationError."""
    try:
        return Settings.model_validate({name: value for name, value in changed.items() if value is not None})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))} {fault['msg']}".strip() for fault in error.errors()]
        raise ConfigurationError(f"the SYNTHCLONE_* variables do not fit: {'; '.join(faults)}") from error


def migrate(context: typer.Context) -> None:
    """Bring the database to the newest schema and create the bucket."""
    from shared.migrate import migrate as bring_up_to_date

    settings = load_settings()
    bring_up_to_date(settings)
    options(context).say("the database is at the newest schema, the object store is ready")


@lexicon.command("build")
def build(
    context: typer.Context,
    output: Annotated[Path | None, typer.Option(help="Default: SYNTHCLONE_LEXICON_PATH.")] = None,
) -> None:
    """Write every noun of WordNet 3.0 to one file, the same bytes on every machine."""
    from shared.lexicon import build_lexicon
    from shared.wordnet import fetch_wordnet

    usual = load_settings().lexicon_path
    path = output or usual
    built = build_lexicon(fetch_wordnet(usual.parent / "wordnet"), path)
    options(context).say(f"{len(built)} nouns, digest {built.digest}")
    write_line(str(path))
