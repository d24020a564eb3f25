"""The report of an evaluation to read: its tables, its figure, and photos of what went wrong."""

import hashlib
import io
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from services.evaluator.dataset_distances import DistanceReport, FeatureSpace, MemorisationReport
from services.evaluator.evaluate import Place
from services.evaluator.evaluation_files import bars_figure, make_files
from services.evaluator.evaluation_page import markdown, page
from services.evaluator.evaluation_tables import closing, model_names, tables
from services.evaluator.mistakes import Mistake, mistakes_in, thumbnail
from services.evaluator.paired import Model, compare_all
from services.evaluator.predictions import Predictions
from services.evaluator.report import Report, worst_classes
from services.evaluator.transfer import SeedReport, TransferReport
from shared.errors import Rejected

from .evaluated import add_network, evaluated, grey, predictions

FILES = ("bars.png", "bars.svg", "report", "report.html", "report.md")
SVG_TEXT = "{http://www.w3.org/2000/svg}text"


def report_of(*found: Predictions, others: tuple[Model, ...] = (), **fields: object) -> Report:
    tests = {each.report.name: each for each in found}
    own = Model("ev-1", "tr-1", "real: photos", "resnet18", "plain", 0, tests)
    values: dict[str, object] = {
        "evaluation": "ev-1",
        "training": "tr-1",
        "encoder_sha256": "0" * 64,
        "benchmarks": [each.report for each in found],
        "comparisons": list(compare_all(own, others)),
        "versions": {"synthclone": "0.1.0"},
    }
    return Report.model_validate(values | fields)


def other(evaluation: str, *found: Predictions, seed: int = 0, trained_on: str = "synthetic: name, 1x") -> Model:
    tests = {each.report.name: each for each in found}
    return Model(evaluation, f"tr-{evaluation}", trained_on, "resnet18", "plain", seed, tests)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def tags_of(html: str) -> Tags:
    found = Tags()
    found.feed(html)
    return found


def test_every_form_of_the_report_is_stored_with_its_hash(place: Place) -> None:
    evaluation, result, _ = evaluated(place, add_network(place))
    for name in FILES:
        stem, _, kind = name.partition(".")
        assert result[f"{name}_key"] == f"evaluations/{evaluation}/{stem}-1.{kind or 'json'}"
        data = place.store.get(str(result[f"{name}_key"]))
        assert result[f"{name}_sha256"] == hashlib.sha256(data).hexdigest()
    assert place.store.get(str(result["bars.png_key"])).startswith(b"\x89PNG")


def test_the_page_holds_its_pictures_and_nothing_that_runs_or_is_elsewhere(place: Place) -> None:
    """Digits of a network with random weights: ten bad classes at most, four photos of each."""
    names = [f"<b>{number}</b> | $x$" for number in range(10)]
    _, result, report = evaluated(place, add_network(place, class_names=names))
    html = place.store.get(str(result["report.html_key"])).decode()
    tags = tags_of(html)
    photos = [source for source in tags.sources if source.startswith("data:image/jpeg;base64,")]
    assert len(photos) == 4 * len(report.benchmarks[0].worst) >= 4 * 8
    assert [source[:25] for source in tags.sources if source not in photos] == ["data:image/svg+xml;base64"]
    assert tags.seen["table"] == 2
    assert {"script", "link", "b"} & set(tags.seen) == set()
    assert "&lt;b&gt;3&lt;/b&gt; | $x$" in html
    assert len(html) < 1_000_000
    text = place.store.get(str(result["report.md_key"])).decode()
    assert r"\<b\>3\</b\> \| \$x\$" in text
    assert "<b>" not in text


def test_the_same_evaluation_gives_the_same_bytes() -> None:
    found = predictions([0, 1], [0, 2])
    first, second = (make_files(report_of(found), [(found, grey)]) for _ in range(2))
    assert first == second


def test_the_worst_classes_are_those_of_lowest_accuracy_with_their_usual_mistake() -> None:
    """By hand: a is always right, c is twice taken for a and once for b, b once for a."""
    labels = [0, 0, 2, 2, 2, 2, 1, 1]
    said = [0, 0, 0, 0, 1, 2, 0, 1]
    found = predictions(said, labels, names="abcd").report
    assert [each.model_dump() for each in found.worst] == [
        {"id": "id-c", "name": "c", "accuracy": 0.25, "images": 4, "taken_for": "a", "mistaken": 2},
        {"id": "id-b", "name": "b", "accuracy": 0.5, "images": 2, "taken_for": "a", "mistaken": 1},
    ]


def test_no_more_than_ten_classes_are_the_worst() -> None:
    many = [str(number) for number in range(12)]
    found = predictions([0] * 12, list(range(12)), names=many).report
    assert [each.name for each in found.worst] == many[1:11]
    assert worst_classes(found.per_class[:1], torch.tensor([[3]])) == ()


def brightness(mistake: Mistake) -> int:
    with Image.open(io.BytesIO(mistake.jpeg)) as image:
        assert max(image.size) == 64
        return round(sum(image.convert("L").resize((1, 1)).get_flattened_data()))


def test_photos_are_the_first_mistakes_of_each_of_the_worst_classes() -> None:
    """`grey` makes photos as bright as their position."""
    labels = [0, 1, 1, 1, 1, 1, 1, 2, 2]
    said = [0, 0, 1, 2, 0, 0, 2, 2, 0]
    found = mistakes_in(predictions(said, labels), grey, most_bytes=100_000)
    shown = [(each.class_id, each.taken_for, brightness(each)) for each in found]
    assert shown == [("id-b", "a", 1), ("id-b", "c", 3), ("id-b", "a", 4), ("id-b", "a", 5), ("id-c", "a", 8)]


def test_where_there_is_little_room_every_class_has_a_photo_before_any_has_two() -> None:
    said, labels = [0] * 12, [0, 0, *([1] * 5), *([2] * 5)]
    size = len(thumbnail(grey(3)))
    found = mistakes_in(predictions(said, labels), grey, most_bytes=3 * size + size // 2)
    assert [each.class_id for each in found] == ["id-b", "id-b", "id-c"]


def test_a_photo_of_megabytes_becomes_a_small_one_without_its_comment() -> None:
    data = io.BytesIO()
    Image.effect_noise((900, 300), 100).convert("RGB").save(data, "JPEG", comment=b"c" * 60_000)
    with Image.open(data) as photo:
        assert photo.info["comment"]
        small = thumbnail(photo)
    assert len(small) < 5_000
    with Image.open(io.BytesIO(small)) as image:
        assert (image.size, image.info.get("comment")) == ((64, 21), None)


def words(files: dict[str, bytes]) -> list[str]:
    return ["".join(each.itertext()).strip() for each in ElementTree.fromstring(files["bars.svg"]).iter(SVG_TEXT)]


def test_the_figure_shows_every_model_and_hollow_what_was_published() -> None:
    own, another = predictions([0, 1, 1], [0, 1, 2]), predictions([0, 1, 2], [0, 1, 2])
    published = own._replace(report=own.report.model_copy(update={"published": 0.421}))
    alone = predictions([0, 1], [0, 2], on="letters")
    report = report_of(published, alone, others=(other("ev-2", another),))
    said = words(make_files(report, []))
    assert {"66.7", "42.1", "100.0", "50.0", "digits", "letters"} <= set(said)
    assert {"real: photos", "real: photos, published", "synthetic: name, 1x"} <= set(said)


def test_models_are_told_apart_by_what_differs() -> None:
    found = predictions([0, 1], [0, 2])
    same = other("ev-4", found, seed=1)
    report = report_of(found, others=(other("ev-2", found), other("ev-3", found, seed=1), same))
    assert list(model_names(report).values()) == [
        "real: photos, seed 0",
        "synthetic: name, 1x, seed 0",
        "synthetic: name, 1x, seed 1",
        "synthetic: name, 1x, seed 1 (2)",
    ]


def test_more_models_than_colours_cost_the_figure_and_no_number() -> None:
    found = predictions([0, 1], [0, 2])
    report = report_of(found, others=tuple(other(f"ev-{number}", found) for number in range(2, 9)))
    with pytest.raises(Rejected, match="8 series"):
        bars_figure(report)
    files = make_files(report, [])
    assert set(files) == {"report.md", "report.html", "report"}
    assert Report.model_validate_json(files["report"]).notes == (
        "no figure bars: it has 8 series, and 6 can be told apart",
    )
    assert "no figure bars" in files["report.html"].decode()


TRANSFER = TransferReport(
    name="pets",
    kind="pets",
    set_digest="d2" * 32,
    probe="logistic regression",
    trials=30,
    classes=37,
    train_images=3680,
    test_images=3669,
    features=2048,
    top1=0.8123,
    top1_deviation=0.0021,
    mean_per_class=0.8,
    mean_per_class_deviation=0.002,
    seeds=tuple(
        SeedReport(seed=seed, settings={}, validation_top1=0.8, top1=0.8, mean_per_class=0.8) for seed in (0, 1)
    ),
    neighbours=20,
    neighbours_top1=0.7077,
)
DISTANCE = DistanceReport(
    dataset="ds-1",
    recipe_digest="r",
    sample_digest="s",
    real="photos",
    set_digest="d3" * 32,
    images=5000,
    seed=3,
    drawn_of=9000,
    real_of=7000,
    classes=8,
    dataset_classes=10,
    real_classes=9,
    space=FeatureSpace(training="tr-1", encoder_sha256="0" * 64, width=512, image_size=32),
    frechet=12.345678,
    precision=0.5,
    recall=0.25,
    density=0.875,
    coverage=0.75,
    memorisation=MemorisationReport(
        bank=7000,
        drawn_images=5000,
        real_images=5000,
        quantiles=(0.01, 0.001),
        distances=(1.0, 0.5),
        share_within=(0.031, 0.004),
        closest=(),
    ),
    memorisation_missing=None,
)


def test_transfer_sets_and_distances_have_tables_of_their_own() -> None:
    report = report_of(transfer=[TRANSFER], transfer_means={"small sets": 0.7}, distances=[DISTANCE])
    rows = {section.title: section.rows for section in tables(report)}
    assert list(rows.values()) == [
        [("pets", "37", "3,680", "3,669", "logistic regression", "81.2", "0.2", "80.0", "70.8")],
        [("small sets", "70.0")],
        [("ds-1", "photos", "5,000", "8 of 10 and 9", "12.35", "50.0", "25.0", "0.875", "75.0", "3.1")],
    ]
    said = "\n".join(closing(report))
    assert "pets: logistic regression, 30 trials, seeds 0, 1, 20 nearest neighbours" in said
    assert "5,000 images drawn of 9,000 and 7,000 by seed 3, global pool of tr-1, 512 values" in said
    assert set(make_files(report, [])) == {"report.md", "report.html", "report"}


def test_a_distance_without_a_memorisation_says_why() -> None:
    few = DISTANCE.model_copy(update={"memorisation": None, "memorisation_missing": "photos has 7 photos"})
    report = report_of(distances=[few])
    assert next(iter(tables(report))).rows[0][-1] == "-"
    assert any("near a photo: photos has 7 photos" in line for line in closing(report))


def test_each_row_of_a_markdown_table_has_as_many_cells_as_its_head() -> None:
    found = predictions([0, 1, 1], [0, 2, 2], names=("a|b", "c", "d"))
    report = report_of(found, others=(other("ev-2", found, trained_on='synthetic: "a | {name}"'),), transfer=[TRANSFER])
    lines = [line.replace(r"\|", "") for line in markdown(report, ["bars.svg"]).splitlines() if line.startswith("|")]
    for line, following in pairwise(lines):
        if following.startswith("|---"):
            width = line.count("|")
        if not line.startswith("|---"):
            assert line.count("|") == width, line
    assert "![bars.svg](bars.svg)" in markdown(report, ["bars.svg"])


def test_the_protocol_names_recipe_view_seeds_and_versions(place: Place) -> None:
    _, result, report = evaluated(place, add_network(place))
    assert report.trained is not None
    assert (report.trained.trained_on, report.trained.seed, report.trained.steps) == ("real: digits-train", 0, 4)
    assert "epochs" not in report.trained.recipe
    text = place.store.get(str(result["report.md_key"])).decode()
    for said in (
        "short side to 32 pixels, centre square of 32",
        "optimizer adamw",
        "timm",
        "seed 0, 4 steps",
        "Wilson",
    ):
        assert said in text
    assert text.startswith("# test\\_resnet trained on real: digits-train\n")


def test_a_report_of_before_is_still_told() -> None:
    report = report_of(predictions([0, 1], [0, 2]), trained=None)
    assert page(report, {}, {}).count("<h1>tr-1</h1>") == 1
