"""What the figures show: measured numbers, and published ones that are never mixed with them."""

from collections import Counter
from dataclasses import dataclass

from shared.errors import Rejected

ROUNDING = 1e-9  # the interval of a perfect score may end a bit below 1


@dataclass(frozen=True)
class Bar:
    """Top-1 `value` from 0 to 1 with its 95 % interval; published numbers often come without one: both ends None."""

    name: str
    value: float
    low: float | None
    high: float | None
    is_published: bool

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise Rejected(f"{self.name} has one end of an interval; give both or none")
        low, high = self.ends
        if not (0 <= low <= self.value + ROUNDING and self.value - ROUNDING <= high <= 1):
            raise Rejected(f"{self.name} is {self.value} in ({low}, {high}); 0 <= low <= value <= high <= 1 is needed")

    @property
    def ends(self) -> tuple[float, float]:
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


@dataclass(frozen=True)
class Series:
    """One colour: a model or a setting, with at most one measured and one published bar of each name."""

    name: str
    bars: tuple[Bar, ...]

    def __post_init__(self) -> None:
        for (name, _), count in Counter((bar.name, bar.is_published) for bar in self.bars).items():
            if count > 1:
                raise Rejected(f"{self.name} has {count} bars named {name}; one measured and one published may stand")


@dataclass(frozen=True)
class Size:
    """A training set `times` as large as the real one."""

    times: float
    bar: Bar


@dataclass(frozen=True)
class Curve:
    name: str
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Prompt:
    """The bar's name is the prompt's."""

    guidance: float
    bar: Bar
