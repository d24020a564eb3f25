import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.classes import ClassText, resolve_classes
from shared.errors import Rejected
from shared.lexicon import Lexicon
from shared.prompts import (
    FIELDS,
    PROMPT_NAMES,
    PromptField,
    PromptSpec,
    ambiguities,
    fields_used,
    fill,
    places,
    render,
    used_text,
)
from tests.rows import parse_prompt

SHIP = ClassText(
    id="n03947888",
    names=("pirate", "pirate ship"),
    hypernym="ship",
    description="a ship that is manned by pirates",
    captions=("a ship at dawn", "a ship at night"),
)
CLASS_TEXTS = st.builds(
    ClassText,
    id=st.just("some-class"),
    names=st.lists(st.text(min_size=1), min_size=1).map(tuple),
    hypernym=st.text(min_size=1),
    description=st.text(min_size=1),
    captions=st.lists(st.text(min_size=1), min_size=1).map(tuple),
)
PLAIN_PARTS = st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), min_size=1)
TEMPLATES = st.lists(
    st.sampled_from([f"{{{field}}}" for field in FIELDS])
    | PLAIN_PARTS.map(lambda text: text.replace("{", "{{").replace("}", "}}")),
    min_size=1,
).map("".join)
SPECS = st.sampled_from(PROMPT_NAMES).map(parse_prompt) | TEMPLATES.filter(lambda text: len(text) <= 500).map(
    lambda text: parse_prompt({"template": text})
)
SEEDS = st.integers(min_value=0, max_value=2**63 - 1)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("name", "pirate, pirate ship"),
        ("hypernym", "pirate, pirate ship, ship"),
        ("description", "pirate, pirate ship, a ship that is manned by pirates"),
        ("background", "pirate, pirate ship, ship inside apartment building, outdoor"),
        ("captions", "a ship at night"),
        ({"template": "a photo of {name}, {description}"}, "a photo of pirate, a ship that is manned by pirates"),
        ({"template": "{names} {{{name}}} {{x}} {hypernym}"}, "pirate, pirate ship {pirate} {x} ship"),
    ],
)
def test_each_strategy_words_the_class_as_published(prompt: str | dict[str, str], text: str) -> None:
    assert render(parse_prompt(prompt), SHIP, slot=3, background_seed=8).text == text


def test_captions_are_cycled_by_slot() -> None:
    texts = [render(parse_prompt("captions"), SHIP, slot=slot, background_seed=0).text for slot in range(3)]

    assert texts == ["a ship at dawn", "a ship at night", "a ship at dawn"]


def test_background_is_one_of_365_places_and_reported_with_the_prompt() -> None:
    spec = parse_prompt("background")

    drawn = {render(spec, SHIP, slot=0, background_seed=seed).background for seed in range(365)}

    assert drawn == set(places())
    assert len(drawn) == 365
    assert render(parse_prompt("name"), SHIP, slot=0, background_seed=8).background is None


@given(SPECS, CLASS_TEXTS, st.integers(min_value=0, max_value=10**8), SEEDS)
def test_render_is_pure_and_never_fails_on_a_complete_class(
    spec: PromptSpec, text: ClassText, slot: int, seed: int
) -> None:
    first = render(spec, text, slot=slot, background_seed=seed)

    assert first == render(spec, text, slot=slot, background_seed=seed)
    assert first.text


@given(SPECS, CLASS_TEXTS, CLASS_TEXTS, st.integers(min_value=0, max_value=10**8), SEEDS)
def test_the_used_text_alone_decides_the_prompt(
    spec: PromptSpec, text: ClassText, other: ClassText, slot: int, seed: int
) -> None:
    unused = {field: getattr(other, field) for field in ("hypernym", "description", "captions")}
    changed = text.model_copy(update={key: value for key, value in unused.items() if key not in used_text(spec, text)})

    assert used_text(spec, changed) == used_text(spec, text)
    assert render(spec, changed, slot=slot, background_seed=seed) == render(spec, text, slot=slot, background_seed=seed)


@given(PLAIN_PARTS.filter(lambda text: len(text) <= 200))
def test_doubled_braces_stand_for_themselves(words: str) -> None:
    escaped = words.replace("{", "{{").replace("}", "}}")

    assert render(parse_prompt({"template": escaped}), SHIP, slot=0, background_seed=0).text == words


@given(st.text())
def test_values_are_never_read_as_templates(value: str) -> None:
    assert fill("{name}", {"name": value}) == value


@pytest.mark.parametrize("strategy", [name for name in PROMPT_NAMES if name != "captions"])
def test_every_class_of_in1k_renders_without_underscores(in1k: tuple[ClassText, ...], strategy: str) -> None:
    spec = parse_prompt(strategy)

    texts = [render(spec, text, slot=0, background_seed=label).text for label, text in enumerate(in1k)]

    assert [text for text in texts if "_" in text or text != text.strip() or "  " in text] == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "at least 1 character"),
        ("x" * 501, "at most 500 characters"),
        ("a {colour} cat", r"unknown field '{colour}'; known: {name}, {names}"),
        ("{}", "unknown field '{}'"),
        ("{0}", "unknown field '{0}'"),
        ("{name.__class__}", "unknown field '{name.__class__}'"),
        ("{name!r}", "unknown field '{name!r}'"),
        ("{name:>9999999}", "unknown field"),
        ("{captions}", "unknown field '{captions}'"),
        ("{name", "unbalanced '{' at 0"),
        ("name}", "unbalanced '}' at 4"),
        ("{{{name}}", "unbalanced '}' at 8"),
        ("{ name }", "unknown field '{ name }'"),
        ("{name}\x00", "control characters"),
    ],
)
def test_bad_template_is_refused_with_its_fault(template: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_prompt({"template": template})

    (error,) = caught.value.errors()
    assert error["loc"] == ("template",)
    assert message in error["msg"]


@pytest.mark.parametrize(
    "value", ["template", "Name", "", 7, None, {}, {"template": "x", "kind": "name"}, {"kind": "name"}, ["name"]]
)
def test_unknown_prompt_is_refused_with_the_known_ones(value: object) -> None:
    with pytest.raises(ValidationError, match="known: name, hypernym, description, background, captions"):
        TypeAdapter(PromptField).validate_python(value)


@pytest.mark.parametrize("fields", [{"kind": "template"}, {"kind": "name", "template": "x"}])
def test_template_belongs_to_the_kind_template_alone(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="kind template needs a template"):
        PromptSpec.model_validate(fields)


@given(SPECS)
def test_prompts_are_written_as_they_are_read(spec: PromptSpec) -> None:
    field: TypeAdapter[PromptSpec] = TypeAdapter(PromptField)
    assert field.validate_json(field.dump_json(spec)) == spec


def test_stored_spec_is_read_back() -> None:
    spec = parse_prompt({"template": "{name}"})

    assert PromptSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("prompt", "missing"),
    [("hypernym", "hypernym"), ("background", "hypernym"), ("description", "description"), ("captions", "captions")],
)
def test_class_without_the_needed_text_is_rejected_by_name(prompt: str, missing: str) -> None:
    bare = ClassText(id="zinc-roof", names=("Zinc roof",))

    with pytest.raises(Rejected, match=rf"class zinc-roof \(Zinc roof\) has no {missing}"):
        render(parse_prompt(prompt), bare, slot=0, background_seed=0)


def test_used_text_holds_only_what_the_prompt_reads() -> None:
    assert used_text(parse_prompt("background"), SHIP) == {"names": ["pirate", "pirate ship"], "hypernym": "ship"}
    assert used_text(parse_prompt({"template": "{name} in {background}"}), SHIP) == {"name": "pirate"}
    assert fields_used(parse_prompt("background")) == ("background", "hypernym", "names")


def test_classes_that_share_a_name_are_told_to_the_user(in1k: tuple[ClassText, ...]) -> None:
    warnings = ambiguities(in1k, parse_prompt("description"))

    assert 'n02012849 and n03126707 are both named "crane"' in warnings
    assert len(warnings) == 3


def test_classes_that_share_a_prompt_are_told_to_the_user(lexicon: Lexicon) -> None:
    cranes = resolve_classes(["n02012849", "n03126707", "n03947888"], lexicon)

    assert ambiguities(cranes) == (
        'n02012849 and n03126707 are both named "crane"',
        'n02012849 and n03126707 are both drawn from the same prompt "crane"',
    )
    assert ambiguities(cranes, parse_prompt({"template": "a photo"})) == (
        'n02012849 and n03126707 are both named "crane"',
        'n02012849, n03126707 and n03947888 are all drawn from the same prompt "a photo"',
    )
