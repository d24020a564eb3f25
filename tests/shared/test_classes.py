import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.classes import (
    ClassSelection,
    CustomClass,
    class_lists,
    images_at_1x,
    resolve_classes,
    slug,
)
from shared.errors import Rejected
from shared.lexicon import Lexicon

BIRD, MACHINE = "n02012849", "n03126707"
SELECTION: TypeAdapter[ClassSelection] = TypeAdapter(ClassSelection)


def test_lists_have_the_published_sizes() -> None:
    assert [(known.name, known.size) for known in class_lists()] == [("in1k", 1000), ("in100", 100), ("digits", 10)]


def test_in100_is_a_part_of_in1k() -> None:
    in1k, in100, _ = class_lists()

    assert set(in100.wnids) < set(in1k.wnids)


def test_every_listed_id_is_in_the_lexicon(lexicon: Lexicon) -> None:
    assert [wnid for known in class_lists() for wnid in known.wnids if wnid not in lexicon] == []


def test_digits_have_the_counts_of_the_training_split() -> None:
    from sklearn.datasets import load_digits

    targets = load_digits().target[:1257]
    wnids = class_lists()[2].wnids

    assert [images_at_1x("digits", wnid) for wnid in wnids] == [int((targets == digit).sum()) for digit in range(10)]


def test_classes_without_a_known_count_have_1300_images() -> None:
    assert images_at_1x("in1k", BIRD) == 1300
    assert images_at_1x([BIRD], BIRD) == 1300


def test_labels_of_digits_are_the_digits(lexicon: Lexicon) -> None:
    names = [text.names[0] for text in resolve_classes("digits", lexicon)]

    assert names == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_labels_of_in1k_are_positions_in_the_sorted_ids(lexicon: Lexicon) -> None:
    classes = resolve_classes("in1k", lexicon)

    assert [text.id for text in classes] == sorted(text.id for text in classes)
    assert (classes[0].names[0], classes[999].names[0]) == ("tench", "toilet tissue")


def test_ids_are_sorted_and_keep_their_own_text(lexicon: Lexicon) -> None:
    bird, machine = resolve_classes([MACHINE, BIRD], lexicon)

    assert (bird.id, bird.hypernym) == (BIRD, "wading bird, wader")
    assert (machine.id, machine.hypernym) == (MACHINE, "lifting device")


def test_root_of_wordnet_has_no_hypernym(lexicon: Lexicon) -> None:
    assert resolve_classes(["n00001740"], lexicon)[0].hypernym is None


def test_own_classes_keep_their_order_and_text(lexicon: Lexicon) -> None:
    selection = SELECTION.validate_python([{"name": " Zinc roof ", "captions": ["a roof"]}, {"name": "attic"}])

    roof, attic = resolve_classes(selection, lexicon)

    assert (roof.id, roof.names, roof.captions, roof.hypernym) == ("zinc-roof", ("Zinc roof",), ("a roof",), None)
    assert attic.id == "attic"


@pytest.mark.parametrize(
    ("selection", "pointer", "message"),
    [
        ("in10k", "/classes", "unknown class list 'in10k'; known: in1k, in100, digits"),
        (BIRD, "/classes", f"a single class is written ['{BIRD}']"),
        ([], "/classes", "classes is empty"),
        ([BIRD, "n00000001"], "/classes/1", "n00000001 is no noun of WordNet 3.0"),
        (
            [BIRD, "crane"],
            "/classes/1",
            "'crane' is no WordNet id such as n02012849; for a class of your own write {'name': 'crane'}",
        ),
        ([BIRD, MACHINE, BIRD], "/classes/2", f"{BIRD} is given twice, at positions 0 and 2"),
        ([BIRD, CustomClass(name="roof")], "/classes/1", "'roof' stands among WordNet ids"),
        ([CustomClass(name="roof"), BIRD], "/classes/1", f"'{BIRD}' stands among named classes"),
        ([CustomClass(name="Roof"), CustomClass(name="roof")], "/classes/1", "roof is given twice"),
        ([CustomClass(name=BIRD)], "/classes/0", f"{BIRD} is a WordNet id; write it as a string"),
    ],
)
def test_bad_selection_is_rejected_at_the_item_at_fault(
    lexicon: Lexicon, selection: ClassSelection, pointer: str, message: str
) -> None:
    with pytest.raises(Rejected) as caught:
        resolve_classes(selection, lexicon)

    assert caught.value.pointer == pointer
    assert message in caught.value.detail


@pytest.mark.parametrize(
    "item",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "x" * 101},
        {"name": "nul\x00"},
        {"name": "two\nlines"},
        {"name": "cat", "colour": "black"},
        {"name": "cat", "description": "x" * 1001},
        {"name": "cat", "captions": [""]},
        {"description": "nameless"},
        7,
    ],
)
def test_bad_class_is_refused_at_the_border(item: object) -> None:
    with pytest.raises(ValidationError):
        SELECTION.validate_python([item])


def test_names_that_differ_only_in_lost_letters_get_different_ids() -> None:
    ids = {slug(name) for name in ("C", "C++", "C#", "猫", "犬", "猫 1", "犬 1", "--", "Ⅷ")}

    assert len(ids) == 9
    assert slug("Zinc_roof 2") == "zinc-roof-2"


@given(st.text(min_size=1, max_size=100))
def test_slug_is_a_path_component(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(name))
