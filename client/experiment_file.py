"""An experiment as its author writes it, in YAML: what is wrong is told with the line and the field."""

from collections.abc import Sequence
from pathlib import Path

import typer
import yaml
from pydantic import ValidationError

from shared.experiments import ExperimentRequest


def read_experiment(path: Path) -> ExperimentRequest:
    """Raises BadParameter."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise typer.BadParameter(f"{path}{line}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise typer.BadParameter(f"{path}: not YAML: {error}") from error
    try:
        # As JSON would be, so that a list is a tuple's and 2 a float's, but "2" no number.
        return ExperimentRequest.model_validate(content)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(faults(path, root, error))) from error


def faults(path: Path, root: yaml.Node | None, error: ValidationError) -> list[str]:
    found = []
    for fault in error.errors(include_url=False):
        line, field = place_of(root, fault["loc"], is_missing=fault["type"] == "missing")
        found.append(f"{path}:{line}: {field or 'the file'}: {fault['msg'].removeprefix('Value error, ')}")
    return found


def place_of(root: yaml.Node | None, steps: Sequence[int | str], *, is_missing: bool) -> tuple[int, str]:
    """The line, from 1, of the deepest part of the file on the way, and the field in dots.

    Names of union branches, which pydantic puts between the keys, are left out.
    """
    node, line, field = root, 1, []
    for number, step in enumerate(steps):
        child = child_of(node, step)
        if child is None:
            if is_missing and number == len(steps) - 1:
                field.append(str(step))
            continue
        node, line = child
        field.append(str(step))
    return line, ".".join(field)


def child_of(node: yaml.Node | None, step: int | str) -> tuple[yaml.Node, int] | None:
    """The value below a key or position, and the line where it is named."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item, item.start_mark.line + 1
    return None
