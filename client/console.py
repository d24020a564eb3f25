"""Where the command line writes: data on stdout, everything else on stderr."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table

from .session import Client


@dataclass(frozen=True)
class Options:
    """The options that every command takes."""

    api: str | None = None
    as_json: bool = False
    quiet: bool = False
    no_color: bool = False

    def client(self) -> Client:
        return Client(self.api)

    @property
    def messages(self) -> Console:
        return Console(stderr=True, quiet=self.quiet, no_color=self.no_color or None, highlight=False)

    def say(self, text: str) -> None:
        self.messages.print(text, markup=False, soft_wrap=True)

    def show(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        # In a pipe nothing is cut: the reader is a program.
        width = None if sys.stdout.isatty() else 1000
        Console(no_color=self.no_color or None, highlight=False, width=width).print(table)


def options(context: typer.Context) -> Options:
    found = context.find_object(Options)
    assert found is not None
    return found


def write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_json(value: BaseModel) -> None:
    write_line(value.model_dump_json())


@contextmanager
def usage_errors() -> Iterator[None]:
    """What was typed is checked as the API would, before anything is sent."""
    try:
        yield
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise typer.BadParameter("; ".join(faults)) from error
