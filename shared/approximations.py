"""Cheaper ways along a trajectory, which give other images than the exact one: by name, and a part of the recipe."""

from collections.abc import Iterator
from operator import not_
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from .frozen import Frozen

LEAST_REUSE = 2  # 1 would reuse nothing
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
        ge=LEAST_REUSE,
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


def are_guided(count: int, interval: tuple[float, float]) -> Iterator[bool]:
    """Of each of `count` evaluations of the network in order.

    One is guided where the middle of its share of the trajectory lies in the interval: number k of S, from 0, where
    first <= (k + 1/2) / S < last (Kynkäänniemi et al. 2024, arXiv 2404.07724, who give the interval in noise levels).
    """
    first, last = interval
    for number in range(count):
        yield first <= (number + 0.5) / count < last


def count_evaluations(scheduler: str, steps: int) -> int:
    """Of the network, by diffusers' samplers as Stable Diffusion 1 sets them: PNDM evaluates its second step twice."""
    return steps + 1 if scheduler == "pndm" and steps > 1 else steps


def approximation_of(asked: AskedApproximation | None, *, is_distilled: bool) -> Approximation | None:
    if asked is None and not is_distilled:
        return None
    return Approximation(**(asked.model_dump() if asked else {}), distilled=is_distilled)
