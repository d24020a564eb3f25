from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from services.evaluator.bars import Bar, Curve, Prompt, Series, Size
from services.evaluator.figures import COLOURS, bars, grouped, prompts, sizes
from shared.errors import Rejected

SVG = "{http://www.w3.org/2000/svg}"


def measured(name: str, value: float, *, half: float = 0.02) -> Bar:
    return Bar(name, value, value - half, value + half, is_published=False)


def published(name: str, value: float) -> Bar:
    return Bar(name, value, None, None, is_published=True)


MODELS = (
    Series("synthetic $1x$", (measured("ImageNet val", 0.612), published("ImageNet val", 0.429), measured("v2", 0.5))),
    Series("real", (measured("ImageNet val", 0.803), measured("v2", 0.701))),
)
CURVES = (Curve("synthetic", (Size(1, measured("1x", 0.611)), Size(10, measured("10x", 0.702)))),)
PAPER = Curve("paper", (Size(1, published("1x", 0.635)), Size(50, published("50x", 0.733))))
PROMPTS = (
    Prompt(7.5, measured("name", 0.412)),
    Prompt(7.5, published("name", 0.431)),
    Prompt(2.0, measured("hypernym inside background", 0.555)),
)


def draw_bars(path: Path) -> None:
    bars(MODELS, path)


def draw_sizes(path: Path) -> None:
    sizes((*CURVES, PAPER), measured("real images", 0.861, half=0.01), path)


def draw_prompts(path: Path) -> None:
    prompts(PROMPTS, path)


def texts(path: Path) -> list[str]:
    """What the figure says, word for word."""
    return ["".join(each.itertext()).strip() for each in ElementTree.parse(path).iter(f"{SVG}text")]


def ticks(said: list[str]) -> list[int]:
    return [int(text) for text in said if text.isdigit()]


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (
            draw_bars,
            {"61.2", "42.9", "50.0", "80.3", "70.1", "synthetic $1x$, published", "real", "ImageNet val", "v2"},
        ),
        (draw_sizes, {"61.1", "70.2", "63.5", "73.3", "86.1", "1x", "10x", "50x", "paper, published", "real images"}),
        (draw_prompts, {"41.2", "43.1", "55.5", "2", "7.5", "7.5, published", "hypernym inside", "background"}),
    ],
)
def test_a_figure_says_every_number_and_which_are_published(
    draw: Callable[[Path], None], words: set[str], tmp_path: Path
) -> None:
    draw(tmp_path / "figure.svg")
    assert words - set(texts(tmp_path / "figure.svg")) == set()


@pytest.mark.parametrize("draw", [draw_bars, draw_sizes, draw_prompts])
def test_the_axis_starts_at_zero(draw: Callable[[Path], None], tmp_path: Path) -> None:
    draw(tmp_path / "figure.svg")
    found = ticks(texts(tmp_path / "figure.svg"))
    assert 0 in found
    assert max(found) <= 100


def test_the_axis_of_a_perfect_score_ends_at_a_hundred(tmp_path: Path) -> None:
    bars((Series("a", (Bar("digits", 1.0, 0.99, 1.0, is_published=False),)),), tmp_path / "figure.svg")
    assert ticks(texts(tmp_path / "figure.svg")) == [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize("draw", [draw_bars, draw_sizes, draw_prompts])
def test_two_renders_have_the_same_bytes(draw: Callable[[Path], None], tmp_path: Path) -> None:
    draw(tmp_path / "one.svg")
    draw(tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()


def test_published_bars_are_hollow_and_measured_ones_are_not(tmp_path: Path) -> None:
    bars((Series("a", (measured("v2", 0.5), published("v2", 0.6))),), tmp_path / "figure.svg")
    styles = [each.get("style", "") for each in ElementTree.parse(tmp_path / "figure.svg").iter(f"{SVG}path")]
    colour = COLOURS[0].lower()
    # A bar and its entry in the legend each.
    assert sum(f"fill: {colour}" in style for style in styles) == 2
    assert sum("fill: #ffffff" in style and f"stroke: {colour}" in style for style in styles) == 2


def test_a_figure_without_intervals_does_not_speak_of_whiskers(tmp_path: Path) -> None:
    bars((Series("paper", (published("v2", 0.43),)),), tmp_path / "published.svg")
    bars((Series("paper", (measured("v2", 0.43),)),), tmp_path / "measured.svg")
    assert not any("whiskers" in said for said in texts(tmp_path / "published.svg"))
    assert any("whiskers: 95 % interval" in said for said in texts(tmp_path / "measured.svg"))


def test_a_single_size_at_which_nothing_is_right_can_be_drawn(tmp_path: Path) -> None:
    none = Bar("1x", 0.0, 0.0, 0.0, is_published=False)
    sizes((Curve("bad", (Size(1, none),)),), none, tmp_path / "figure.svg")
    said = texts(tmp_path / "figure.svg")
    assert {"0.0", "1x"} <= set(said)
    assert ticks(said) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("value", "low", "high", "message"),
    [
        (43.1, None, None, r"v2 is 43.1 in \(43.1, 43.1\); 0 <= low <= value <= high <= 1 is needed"),
        (0.5, 0.6, 0.7, "v2 is 0.5"),
        (0.5, 0.4, 0.45, "v2 is 0.5"),
        (0.5, 0.4, None, "v2 has one end of an interval; give both or none"),
    ],
)
def test_a_bar_outside_its_interval_is_refused(
    value: float, low: float | None, high: float | None, message: str
) -> None:
    with pytest.raises(Rejected, match=message):
        Bar("v2", value, low, high, is_published=False)


def test_an_interval_that_ends_at_the_value_up_to_rounding_is_taken() -> None:
    assert Bar("digits", 1.0, 0.99, 0.9999999999999999, is_published=False).value == 1


def test_two_bars_at_one_place_are_refused() -> None:
    with pytest.raises(Rejected, match="a has 2 bars named v2; one measured and one published may stand"):
        Series("a", (measured("v2", 0.5), measured("v2", 0.6)))


def test_more_series_than_colours_are_refused(tmp_path: Path) -> None:
    series = [Series(str(place), (measured("v2", 0.5),)) for place in range(7)]
    with pytest.raises(Rejected, match="a figure tells 6 series apart and 7 were given"):
        bars(series, tmp_path / "figure.svg")


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="at least one bar"):
        bars((), tmp_path / "figure.svg")


@pytest.mark.parametrize("letters", [5, 15, 25, 40])
def test_a_legend_of_long_names_fits_into_its_figure(letters: int) -> None:
    series = [Series(f"{number}{'n' * letters}", (measured("v2", 0.5), published("v2", 0.4))) for number in range(5)]
    figure = grouped(series, legend_title="trained on")
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1
