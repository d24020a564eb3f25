"""Cheaper ways along a trajectory, which give other images than the exact one: by name, and a part of the recipe."""

from operator import not_
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from .frozen import Frozen

Fraction = Annotated[float, Field(ge=0, le=1)]


class AskedApproximation(Frozen):
    """What a request may ask for; at least one of the two."""

    # Left out where it is not set, so that the digest of a recipe does not change when another kind is added.
    guidance_interval: tuple[Fraction, Fraction] | None = Field(
        None,
        exclude_if=not_,
        description="Guidance only between these fractions of the trajectory, 0 being noise and 1 the image.",
    )
    reuse_every: int | None = Field(
        None,
        ge=2,
        le=1000,
        exclude_if=not_,
        description="Compute the deep features of the network once in so many evaluations, and reuse them between.",
    )

    @field_validator("guidance_interval")
    @classmethod
    def check_interval(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is None:
            return value
        first, last = value
        if first >= last:
            raise ValueError(f"guidance_interval {list(value)} is empty; its first number must be below its second")
        if value == (0, 1):
            raise ValueError("guidance_interval [0, 1] is the whole trajectory, which is exact; leave it out")
        return value

    @model_validator(mode="after")
    def check_kinds(self) -> Self:
        if not self.words:
            raise ValueError(
                "an approximation has guidance_interval, reuse_every or both; leave it out for exact images"
            )
        return self

    @property
    def words(self) -> tuple[str, ...]:
        found = []
        if self.guidance_interval is not None:
            first, last = self.guidance_interval
            found.append(f"guidance only from {first} to {last} of the trajectory")
        if self.reuse_every is not None:
            found.append(f"deep features of one in {self.reuse_every} evaluations")
        return tuple(found)

    @property
    def label(self) -> str:
        return f"approximated ({', '.join(self.words)})"


class Approximation(AskedApproximation):
    """Of a recipe. `distilled` is no choice of a request: the model's entry says it."""

    distilled: bool = Field(False, exclude_if=not_, description="By a model distilled to few steps.")

    @property
    def words(self) -> tuple[str, ...]:
        return (*super().words, *(["by a model distilled to few steps"] if self.distilled else []))

    @property
    def is_of_the_trajectory(self) -> bool:
        """Or else of the weights alone, which are drawn with as any others are."""
        return self.guidance_interval is not None or self.reuse_every is not None


def approximation_of(asked: AskedApproximation | None, *, is_distilled: bool) -> Approximation | None:
    if asked is None and not is_distilled:
        return None
    return Approximation(**(asked.model_dump() if asked else {}), distilled=is_distilled)
