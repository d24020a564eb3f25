import pytest

from shared.seeds import canonical_json, class_key, slot_seed
from tests.rows import RECIPE

PLACE = ("recipe", "class", 3, 0, "noise")


def test_seed_is_the_first_63_bits_of_the_hash() -> None:
    # printf recipe/class/3/0/noise | sha256sum begins 482f645247d94f46.
    assert slot_seed(*PLACE) == 0x482F645247D94F46 >> 1


@pytest.mark.parametrize(
    "other", [("r2", "class", 3, 0, "noise"), ("recipe", "c2", 3, 0, "noise"), ("recipe", "class", 4, 0, "noise"),
              ("recipe", "class", 3, 1, "noise"), ("recipe", "class", 3, 0, "background")],
)  # fmt: skip
def test_every_part_changes_the_seed(other: tuple[str, str, int, int, str]) -> None:
    assert slot_seed(*other) != slot_seed(*PLACE)


def test_canonical_json_ignores_key_order_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"a": float("nan")})


def test_class_key_follows_the_text_that_was_used() -> None:
    assert class_key("n1", {"names": ["crane"]}) == class_key("n1", {"names": ["crane"]})
    assert class_key("n1", {"names": ["crane"]}) != class_key("n1", {"names": ["crane", "bird"]})


def test_recipe_digest_changes_with_each_setting_that_changes_pixels() -> None:
    changed = [
        RECIPE.model_copy(update=update)
        for update in ({"steps": 3}, {"guidance": 7.5}, {"seed": 1}, {"jpeg_quality": 90}, {"scheduler": "pndm"})
    ]
    assert len({RECIPE.digest, *(recipe.digest for recipe in changed)}) == 6
