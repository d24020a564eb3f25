"""From a class and a slot to the text that Stable Diffusion reads. Every function here is pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    model_validator,
)

from .classes import ClassText, check_printable
from .errors import Rejected

# Part of every recipe: raise it when a strategy's words change, so that old and new images are never mixed.
PROMPTS_VERSION = 1

PLACES_FILE = Path(__file__).parent / "data" / "places365.txt"

# "c", "c, h_c", "c, d_c" and "c, h_c inside b" of Sariyildiz et al. 2023 (arXiv 2212.08420).
STRATEGIES = {
    "name": "{names}",
    "hypernym": "{names}, {hypernym}",
    "description": "{names}, {description}",
    "background": "{names}, {hypernym} inside {background}",
}
Strategy = Literal["name", "hypernym", "description", "background", "captions"]
PROMPT_NAMES: tuple[str, ...] = get_args(Strategy)

FIELDS = ("name", "names", "hypernym", "description", "background")
TEMPLATE_EXAMPLE = "a photo of {name}, {description}"
# Only these fields, and "{{" and "}}" for braces: no expressions as in str.format, which reads any attribute.
TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
TEMPLATE_PATTERN = rf"^(?:[^{{}}]|\{{\{{|\}}\}}|\{{(?:{'|'.join(FIELDS)})\}})+$"


def check_template(template: str) -> str:
    for token in TOKEN.finditer(template):
        if token.group() in ("{", "}"):
            raise ValueError(f"unbalanced {token.group()!r} at {token.start()}; write {{{{ or }}}} for a brace itself")
        field = token.group(1)
        if field is not None and field not in FIELDS:
            raise ValueError(f"unknown field {token.group()[:50]!r}; known: {{{'}, {'.join(FIELDS)}}}")
    return template


Template = Annotated[
    str,
    Field(
        min_length=1, max_length=500, json_schema_extra={"pattern": TEMPLATE_PATTERN, "examples": [TEMPLATE_EXAMPLE]}
    ),
    AfterValidator(check_printable),
    AfterValidator(check_template),
]


class PromptSpec(BaseModel):
    """How a class becomes text; `template` only with kind template."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Strategy | Literal["template"]
    template: Template | None = None

    @model_validator(mode="after")
    def check_kind(self) -> Self:
        if (self.kind == "template") != (self.template is not None):
            raise ValueError("kind template needs a template, and the other kinds take none")
        return self


NAME_PROMPT = PromptSpec(kind="name")


class TemplatePrompt(BaseModel):
    """The user's own wording; fields in braces, {{ and }} for braces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: Template


def read_prompt(value: object) -> object:
    """What users write, as PromptSpec's fields."""
    if isinstance(value, str) and value in PROMPT_NAMES:
        return {"kind": value}
    if isinstance(value, Mapping) and value.keys() == {"template"}:
        return {"kind": "template", "template": value["template"]}
    if isinstance(value, PromptSpec):
        return value
    raise ValueError(
        f"unknown prompt {str(value)[:50]!r}; known: {', '.join(PROMPT_NAMES)}, "
        f"or an object with one key such as {{'template': {TEMPLATE_EXAMPLE!r}}}"
    )


def write_prompt(spec: PromptSpec) -> str | dict[str, str]:
    return spec.kind if spec.template is None else {"template": spec.template}


PromptField = Annotated[
    PromptSpec,
    BeforeValidator(read_prompt, json_schema_input_type=Strategy | TemplatePrompt),
    PlainSerializer(write_prompt),
]
"""A PromptSpec that is read and written as users write it: "description" or {"template": "..."}."""


class Prompt(NamedTuple):
    text: str
    background: str | None


@lru_cache
def places() -> tuple[str, ...]:
    """The 365 scene names of Places365 (Zhou et al. 2017)."""
    return tuple(PLACES_FILE.read_text().splitlines())


def fields_used(spec: PromptSpec) -> tuple[str, ...]:
    """What of a class, and of the slot, decides the text; sorted."""
    if spec.kind == "captions":
        return ("captions",)
    return tuple(sorted({token.group(1) for token in TOKEN.finditer(wording(spec)) if token.group(1)}))


def wording(spec: PromptSpec) -> str:
    return STRATEGIES[spec.kind] if spec.template is None else spec.template


def used_text(spec: PromptSpec, text: ClassText) -> dict[str, JsonValue]:
    """The class's fields that this prompt reads: classes that agree in them share their images.

    Raises Rejected for a class that lacks one.
    """
    values: dict[str, JsonValue] = {
        "name": text.names[0],
        "names": list(text.names),
        "hypernym": text.hypernym,
        "description": text.description,
        "captions": list(text.captions),
    }
    used = {field: values[field] for field in fields_used(spec) if field != "background"}
    for field, value in used.items():
        if not value:
            raise Rejected(
                f"class {text.id} ({text.names[0]}) has no {field}, which the prompt {spec.kind!r} reads; "
                f"add it or choose another prompt: {', '.join(PROMPT_NAMES)}"
            )
    return used


def render(spec: PromptSpec, text: ClassText, *, slot: int, background_seed: int) -> Prompt:
    """The prompt of one slot; a background is drawn uniformly: the seed is 63 random bits, modulo 365 places.

    Raises Rejected for a class that lacks a field the prompt reads.
    """
    if spec.kind == "captions":
        used_text(spec, text)
        return Prompt(text.captions[slot % len(text.captions)], None)
    values = {field: joined(value) for field, value in used_text(spec, text).items()}
    background = places()[background_seed % len(places())] if "background" in fields_used(spec) else None
    return Prompt(fill(wording(spec), values | {"background": background or ""}), background)


def joined(value: JsonValue) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def fill(template: str, values: Mapping[str, str]) -> str:
    return TOKEN.sub(lambda token: values[token.group(1)] if token.group(1) else token.group()[0], template)


def ambiguities(classes: Sequence[ClassText], spec: PromptSpec = NAME_PROMPT) -> tuple[str, ...]:
    """Warnings: classes that share their first name, and classes whose prompts are the same words."""
    named = grouped((text.names[0].casefold(), text.id) for text in classes)
    prompts = grouped((render(spec, text, slot=0, background_seed=0).text, text.id) for text in classes)
    return tuple(f'{listed(ids)} named "{name}"' for name, ids in named.items()) + tuple(
        f'{listed(ids)} drawn from the same prompt "{prompt}"' for prompt, ids in prompts.items()
    )


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Ids by key, for keys that several ids have."""
    groups = defaultdict(list)
    for key, class_id in pairs:
        groups[key].append(class_id)
    return {key: ids for key, ids in groups.items() if len(ids) > 1}


def listed(ids: Sequence[str]) -> str:
    return f"{ids[0]} and {ids[1]} are both" if len(ids) == 2 else f"{', '.join(ids[:-1])} and {ids[-1]} are all"
