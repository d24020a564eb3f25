"""A training's recipe: the named one with the request's changes, frozen with the result."""

import pytest
from pydantic import ValidationError

from shared.errors import Rejected
from shared.recipes import IMAGENET_SD, PLAIN, CropRecipe, TrainingRecipe
from shared.specs import TrainingRequest, TrainingSpec, name_sources


def resolved(**fields: object) -> TrainingRecipe:
    return TrainingRequest.model_validate({"real": "digits-train"} | fields).resolved_recipe()


def test_without_changes_the_recipe_is_the_named_one() -> None:
    assert resolved() == PLAIN
    assert resolved(recipe="imagenet-sd") == IMAGENET_SD


def test_the_published_recipe_grows_its_rate_with_the_batch() -> None:
    assert resolved(recipe="imagenet-sd").peak_learning_rate == pytest.approx(0.4)
    assert resolved(recipe="imagenet-sd", batch_size=512).peak_learning_rate == pytest.approx(0.2)


def test_a_rate_that_is_asked_for_is_taken_as_it_is() -> None:
    assert resolved(recipe="imagenet-sd", learning_rate=0.05).peak_learning_rate == 0.05


def test_a_warm_up_in_steps_replaces_the_one_in_epochs() -> None:
    changed = resolved(recipe="imagenet-sd", warmup_steps=7)
    assert (changed.warmup_steps, changed.warmup_epochs) == (7, 0)


def test_without_flips_no_crop_is_flipped() -> None:
    changed = resolved(recipe="imagenet-sd", flip=False)
    assert [crop.flip for crop in changed.crops] == [0, 0]
    assert [crop.flip for crop in IMAGENET_SD.crops] == [0.5, 0.5]


def test_a_batch_that_has_no_such_equal_parts_is_refused() -> None:
    assert resolved(batch_size=12, accumulate=4).accumulate == 4
    with pytest.raises(Rejected, match="batch_size 12 has no 5 equal parts; give an accumulate that divides it"):
        resolved(batch_size=12, accumulate=5)


def test_a_stored_recipe_of_before_there_were_parts_is_still_understood() -> None:
    old = IMAGENET_SD.model_dump(exclude={"accumulate", "compile"})
    assert TrainingRecipe.model_validate(old) == IMAGENET_SD


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Rejected, match="unknown recipe 'rsb'; known: plain, imagenet-sd"):
        resolved(recipe="rsb")


@pytest.mark.parametrize("fields", [{"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"flip": 2}])
def test_impossible_crops_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CropRecipe.model_validate({"size": 32, "count": 1} | fields)


def test_a_row_of_before_there_were_recipes_is_still_understood() -> None:
    request = {"real": "digits-train", "learning_rate": 0.3, "batch_size": 16, "flip": False}
    old = {"request": request, "class_ids": ["a"], "class_names": ["a"], "version": "0"}
    recipe = TrainingSpec.model_validate(old).recipe
    assert (recipe.peak_learning_rate, recipe.batch_size, recipe.flip) == (0.3, 16, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"real": None}, "give datasets, real, or both with shares"),
        ({"datasets": ["a"]}, "mixed by shares"),
        ({"datasets": ["a"], "shares": [0.5]}, "are not 2 numbers that add up to 1"),
        ({"datasets": ["a"], "shares": [0.5, 0.6]}, "are not 2 numbers that add up to 1"),
        ({"datasets": ["a"], "shares": [1.0, 0.0]}, "greater than 0"),
    ],
)
def test_sources_that_make_no_mixture_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingRequest.model_validate({"real": "digits-train"} | fields)


def test_a_mixture_names_every_source_with_its_share() -> None:
    assert name_sources(["ds-1"], "digits-train", [0.9, 0.1]) == "0.9 ds-1 + 0.1 digits-train"
    assert name_sources(["ds-1", "ds-2"], None, None) == "ds-1, ds-2"
    assert name_sources([], "digits-train", None) == "digits-train"
