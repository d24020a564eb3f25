"""The command `synthclone`. Commands that only talk to the API load no service and no torch."""

import json
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import AppError

from .asking import prompts, submit
from .console import Options, options, write_line
from .doctor import doctor
from .encoders import encoders
from .experimenting import experiment
from .learning import evaluate, results, train
from .operating import keys, teams
from .probing import probe
from .registering import models
from .reporting import report
from .setup import lexicon, load_settings, migrate
from .testsets import testsets
from .usage import usage
from .watching import INTERRUPTED
from .work import cancel, jobs, retry, verify, watch_job

GLOBAL_FLAGS = ("--json", "--quiet", "--no-color", "-v")
GLOBAL_VALUES = ("--api",)
EXAMPLE = '{"classes":"digits","prompt":"description","scale":2,"images_per_class":32}'

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Synthetic clones of image data sets: draw a training set from class names, train on it, test on real photos.",
)


def show_version(wanted: bool) -> None:
    if wanted:
        write_line(f"synthclone {version('synthclone')}")
        raise typer.Exit


@app.callback()
def read_options(
    context: typer.Context,
    api: Annotated[str | None, typer.Option(help="Address of the API; default: SYNTHCLONE_API_URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Data as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No messages, only data and errors.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain text.")] = False,
    verbose: Annotated[bool, typer.Option("-v", help="Log what happens on the way.")] = False,
    show: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)
    context.obj = Options(api=api, as_json=as_json, quiet=quiet, no_color=no_color)


@app.command()
def up(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: SYNTHCLONE_API_PORT, 8000.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for the database, objects and caches.")] = None,
) -> None:
    """Run everything on this machine until ctrl-C."""
    from services.standalone.up import up as run_services
    from shared.logs import configure_logs
    from shared.tasks import stop_on_signal

    settings = load_settings(api_port=port, data_dir=data)
    configure_logs(settings.log_format)
    chosen = options(context)

    def announce(url: str) -> None:
        write_line(json.dumps({"url": url, "data_dir": str(settings.data_dir)}) if chosen.as_json else url)
        chosen.say(f"try: curl -XPOST {url}/datasets -H 'content-type: application/json' -d '{EXAMPLE}'")

    run_services(settings, stop_on_signal(), announce=announce)


@app.command()
def demo(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder for everything the demo makes; it resumes there.")] = Path("demo"),
) -> None:
    """Draw digits, train on them and on real ones, test all, and write a report with a figure."""
    from services.standalone.demo.plan import DemoPlan
    from services.standalone.demo.run import run_demo

    chosen = options(context)
    try:
        report = run_demo(DemoPlan(), data, chosen.messages)
    except KeyboardInterrupt as error:
        chosen.say(f"stopped; what is finished stays in {data}. Go on with: synthclone demo --data {data}")
        raise typer.Exit(INTERRUPTED) from error
    if chosen.as_json:
        write_line(report.model_dump_json())
        return
    chosen.show(
        ("trained on", "images", "top-1 %", "sd over seeds", "test images"),
        [
            (row.train, str(row.images), f"{row.top1_mean:.1f}", f"{row.top1_sd:.1f}", str(row.n_test))
            for row in report.rows
        ],
    )
    for sentence in (*report.findings, report.note, f"written to {data}: report.md, figure.png, samples.png"):
        chosen.say(sentence)


app.command()(submit)
app.command()(jobs)
app.command("watch")(watch_job)
app.command()(cancel)
app.command()(retry)
app.command()(verify)
app.command()(train)
app.command("eval")(evaluate)
app.command()(results)
app.command()(probe)
app.command()(report)
app.command()(experiment)
app.command()(usage)
app.command()(prompts)
app.command()(doctor)
app.command()(migrate)
app.add_typer(lexicon, name="lexicon")
app.add_typer(keys, name="keys")
app.add_typer(teams, name="teams")
app.add_typer(testsets, name="testsets")
app.add_typer(encoders, name="encoders")
app.add_typer(models, name="models")


def globals_first(arguments: Sequence[str]) -> list[str]:
    """The options that every command takes may stand anywhere; the parser wants them before the command."""
    first: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument in GLOBAL_FLAGS or argument.startswith(tuple(f"{name}=" for name in GLOBAL_VALUES)):
            first.append(argument)
        elif argument in GLOBAL_VALUES:
            first += [argument, *([value] if (value := next(left, None)) is not None else [])]
        else:
            rest.append(argument)
    return first + rest


def main() -> None:
    try:
        app(globals_first(sys.argv[1:]))
    except AppError as error:
        Options().say(f"{error.title}: {error.detail}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
