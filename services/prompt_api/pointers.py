"""From pydantic's error locations to JSON pointers that exist in what the user sent."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

SHOWN_CHARACTERS = 60


class Fault(NamedTuple):
    """One thing wrong, at a JSON pointer into the body or in a named parameter."""

    kind: str
    pointer: str | None
    parameter: str | None
    detail: str


def faults(errors: Sequence[Mapping[str, object]], body: JsonValue) -> list[Fault]:
    """One fault per place; of the branches of a union only the deepest places are told."""
    found: dict[tuple[str | None, str | None], Fault] = {}
    for error in errors:
        fault = read_fault(error, body)
        place = (fault.pointer, fault.parameter)
        earlier = found.get(place)
        if earlier is None:
            found[place] = fault
        elif fault.detail not in earlier.detail:
            found[place] = earlier._replace(detail=f"{earlier.detail}, or {fault.detail}")
    above = {parent for fault in found.values() for parent in parents(fault.pointer or "")}
    return [fault for fault in found.values() if fault.pointer not in above]


def parents(pointer: str) -> Iterator[str]:
    while pointer:
        pointer = pointer.rpartition("/")[0]
        yield pointer


def read_fault(error: Mapping[str, object], body: JsonValue) -> Fault:
    kind = str(error["type"])
    location = error["loc"]
    assert isinstance(location, tuple)
    source, *steps = location
    if kind == "json_invalid":
        context = error["ctx"]
        assert isinstance(context, Mapping)
        return Fault(kind, None, None, f"the body is not JSON: {context['error']} at character {steps[0]}")
    if source != "body":
        return Fault(kind, None, str(steps[0]) if steps else str(source), message(error))
    pointer = body_pointer(steps, body, missing=kind == "missing")
    if not steps and kind == "missing":
        return Fault(kind, pointer, None, "the request has no body; send a JSON object")
    return Fault(kind, pointer, None, message(error))


def message(error: Mapping[str, object]) -> str:
    """Pydantic's message with the value it is about; our own validators name theirs already."""
    text = str(error["msg"])
    if error["type"] in ("value_error", "missing"):
        return text.removeprefix("Value error, ")
    value = error.get("input")
    shown = value if isinstance(value, str | int | float | bool) or value is None else type(value).__name__
    return f"{text}, not {repr(shown)[:SHOWN_CHARACTERS]}"


def body_pointer(steps: Sequence[str | int], body: JsonValue, *, missing: bool) -> str:
    """Leaves out the names of union branches, which pydantic puts between the keys."""
    pointer, value = "", body
    for number, step in enumerate(steps):
        if isinstance(value, Mapping) and step in value:
            value = value[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        elif not (missing and number == len(steps) - 1):
            continue
        pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
    return pointer
