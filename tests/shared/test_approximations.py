"""Approximations are named in the recipe, have digests of their own, and leave those of exact recipes alone."""

import pytest
from pydantic import JsonValue, ValidationError

from shared.approximations import Approximation, AskedApproximation, approximation_of
from shared.specs import Recipe
from tests.rows import RECIPE

BOTH = Approximation(guidance_interval=(0.2, 0.8), reuse_every=3)
# Of tests.rows.RECIPE at the versions below; images of exact recipes were stored by such digests before there were
# approximations.
DIGEST = "22cc1063b9d2ce74500469aec436251ef169a9be10968882e4088cc91ee6c826"


def approximated(approximation: Approximation) -> Recipe:
    return RECIPE.model_copy(update={"engine": approximation})


def test_the_digest_of_an_exact_recipe_is_what_it_was() -> None:
    first = RECIPE.model_copy(update={"shards_version": 1, "prompts_version": 1})
    assert (first.approximation, first.digest) == (None, DIGEST)


def test_each_approximation_has_a_digest_of_its_own() -> None:
    kinds = [
        BOTH,
        Approximation(reuse_every=3),
        Approximation(reuse_every=4),
        Approximation(guidance_interval=(0.2, 0.8)),
        Approximation(guidance_interval=(0.2, 0.9)),
        Approximation(distilled=True),
    ]
    assert len({RECIPE.digest, *(approximated(kind).digest for kind in kinds)}) == 7


def test_a_recipe_holds_the_kinds_that_are_set_and_no_others() -> None:
    stored = approximated(Approximation(reuse_every=3)).model_dump(mode="json")
    assert stored["engine"] == {"reuse_every": 3}
    assert Recipe.model_validate(stored).approximation == Approximation(reuse_every=3)


@pytest.mark.parametrize(
    ("asked", "is_distilled", "expected"),
    [
        (None, False, None),
        (None, True, Approximation(distilled=True)),
        (AskedApproximation(reuse_every=2), False, Approximation(reuse_every=2)),
        (AskedApproximation(reuse_every=2), True, Approximation(reuse_every=2, distilled=True)),
    ],
)
def test_a_distilled_model_is_named_whatever_was_asked_for(
    asked: AskedApproximation | None, is_distilled: bool, expected: Approximation | None
) -> None:
    assert approximation_of(asked, is_distilled=is_distilled) == expected


def test_the_label_names_every_kind() -> None:
    assert BOTH.model_copy(update={"distilled": True}).label == (
        "approximated (guidance only from 0.2 to 0.8 of the trajectory, deep features of one in 3 evaluations, "
        "by a model distilled to few steps)"
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "has guidance_interval, reuse_every or both"),
        ({"guidance_interval": [0.8, 0.2]}, r"guidance_interval \[0.8, 0.2\] is empty"),
        ({"guidance_interval": [0.5, 0.5]}, r"guidance_interval \[0.5, 0.5\] is empty"),
        ({"guidance_interval": [0, 1]}, "is the whole trajectory, which is exact; leave it out"),
        ({"guidance_interval": [0, 1.1]}, "less than or equal to 1"),
        ({"reuse_every": 1}, "greater than or equal to 2"),
        ({"distilled": True}, "Extra inputs"),
    ],
)
def test_what_approximates_nothing_or_cannot_be_asked_for_is_refused(fields: dict[str, JsonValue], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        AskedApproximation.model_validate(fields)
