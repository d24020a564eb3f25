"""The report of an experiment, from the reports of its evaluations."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import select, update

from services.evaluator.evaluate import Place
from services.evaluator.experiment import ending_of_experiment, report_experiment
from services.evaluator.experiment_figures import draw_figures, prompt_names, size_curves
from services.evaluator.experiment_report import ExperimentReport, interval
from services.evaluator.figure_files import shortened
from services.evaluator.pages import plain
from services.evaluator.published import expected_images
from shared.endings import settle
from shared.experiments import Arm, ExperimentDataset, ExperimentRequest, ExperimentSpec, plan
from shared.job_leases import JobLease
from shared.specs import DatasetSpec, TrainingSpec
from shared.tables import Job, JsonObject
from tests.evaluator.evaluated import dataset_spec
from tests.trainer.rows import add_job, claim, read_job, spec_of

# Top-1 by what a network was trained on and its seed.
Hits = Callable[[str, int], float]
ASKED: dict[str, object] = {
    "name": "<b>cost</b> $x^2$ | 100 %",
    "classes": "in100",
    "grids": [
        {"prompts": ["name", "description"], "scales": [7.5], "models": ["sd14"]},
        {"prompts": ["description"], "scales": [2], "sizes": ["1x", "10x"], "models": ["sd14"]},
    ],
    "real": ["photos"],
    "training": {"recipe": "imagenet-sd"},
    "seeds": [0, 1],
    "benchmarks": ["imagenet-val", "imagenet-r"],
}
BEST, BEST_10X = "description, guidance 2, 1x, sd14", "description, guidance 2, 10x, sd14"


def steady(trained_on: str, seed: int) -> float:
    return {"real: photos": 0.8, BEST: 0.6, BEST_10X: 0.7}.get(trained_on, 0.4) + 0.02 * seed


def add_experiment(
    place: Place,
    hits: Hits = steady,
    *,
    lost: Mapping[tuple[str, int], str] | None = None,
    kept: Mapping[str, int] | None = None,
    tested: Mapping[str, object] | None = None,
    changed_recipe: Mapping[str, object] | None = None,
    is_distilled: bool = False,
    **changes: object,
) -> str:
    """All jobs ended; `lost` names trainings that failed and why, `kept` partial datasets and their images.

    `tested` are fields of every benchmark's report, `changed_recipe` of the recipes frozen with the trainings.
    `is_distilled` are the models of all datasets.
    """
    request = ExperimentRequest.model_validate({**ASKED, **changes})
    found = plan(request, images_per_second=1)
    datasets = []
    for known in found.datasets:
        drawn = dataset_spec(request.dataset(known.cell), is_distilled=is_distilled)
        dataset_id = add_dataset(place, drawn, known.images, (kept or {}).get(known.cell.label))
        datasets.append(ExperimentDataset(id=dataset_id, cell=known.cell, images=known.images))
    arms = []
    for arm in found.arms:
        dataset = None if arm.dataset is None else datasets[arm.dataset]
        trained_on = dataset.cell.label if dataset else f"real: {arm.real}"
        reason = (lost or {}).get((trained_on, arm.seed))
        images = 1257 if dataset is None else (kept or {}).get(trained_on, dataset.images)
        frozen = spec_of(request.recipes[arm.recipe].request(seed=arm.seed, priority=0, real="photos"))
        frozen = frozen.model_copy(update={"recipe": frozen.recipe.model_copy(update=changed_recipe or {})})
        training, evaluation = add_arm(
            place, request, frozen, hits(trained_on, arm.seed), images=images, reason=reason, tested=tested or {}
        )
        arms.append(
            Arm(
                dataset=dataset.id if dataset else None,
                real=arm.real,
                recipe=arm.recipe,
                seed=arm.seed,
                training=training,
                evaluation=evaluation,
            )
        )
    spec = ExperimentSpec(request=request, datasets=tuple(datasets), arms=tuple(arms), version="0.1.0")
    return add_job(place.database, "experiment", state="queued", spec=spec.model_dump(mode="json"), total=len(arms))


def add_dataset(place: Place, drawn: DatasetSpec, images: int, kept: int | None) -> str:
    state, done = ("succeeded", images) if kept is None else ("partial", kept)
    job_id = add_job(place.database, "dataset", state=state, spec=drawn.model_dump(mode="json"), total=images)
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(done=done))
    return job_id


def add_arm(
    place: Place,
    request: ExperimentRequest,
    training_spec: TrainingSpec,
    top1: float,
    *,
    images: int,
    reason: str | None,
    tested: Mapping[str, object],
) -> tuple[str, str]:
    frozen = training_spec.model_dump(mode="json")
    if reason is not None:
        lost = [add_job(place.database, kind, state="failed", spec=frozen) for kind in ("training", "evaluation")]
        with place.database.write() as session:
            session.execute(update(Job).where(Job.id == lost[0]).values(error={"detail": reason}))
        return lost[0], lost[1]
    training = add_job(place.database, "training", state="succeeded", spec=frozen, result={"images": images})
    usual = {"images": 5000, "crop_pct": 0.875}
    tests = [
        {"name": name, "kind": name, "top1": top1 / (1 + n), **usual, **tested}
        for n, name in enumerate(request.benchmarks)
    ]
    transfer = [{"name": name, "kind": name, "top1": top1, "test_images": 3000} for name in request.transfer]
    data = json.dumps({"benchmarks": tests, "transfer": transfer, "training": training}).encode()
    place.store.put(f"evaluations/{training}.json", data)
    result: JsonObject = {
        "report_key": f"evaluations/{training}.json",
        "report_sha256": hashlib.sha256(data).hexdigest(),
    }
    return training, add_job(place.database, "evaluation", state="succeeded", spec={}, result=result)


def reported(place: Place, lease: JobLease) -> tuple[JsonObject, ExperimentReport]:
    result = report_experiment(place, lease)
    return result, ExperimentReport.model_validate_json(place.store.get(str(result["report_key"])))


def test_seeds_are_averaged_and_published_values_stand_beside_equal_settings(place: Place) -> None:
    add_experiment(place)
    _, report = reported(place, claim(place.database, "experiment"))
    best = {row.trained_on: row for row in report.rows}[BEST]
    scores = {score.benchmark: score for score in best.scores}
    assert (best.seeds, best.images, best.times) == ((0, 1), 130_000, 1)
    assert scores["imagenet-val"].top1 == (0.6, 0.62)
    assert scores["imagenet-val"].mean == pytest.approx(0.61)
    assert scores["imagenet-val"].deviation == pytest.approx(0.02 / math.sqrt(2))
    assert {row.trained_on: row.scores[0].published for row in report.rows} == {
        "name, guidance 7.5, 1x, sd14": 0.431,
        "description, guidance 7.5, 1x, sd14": 0.469,
        BEST: 0.635,
        BEST_10X: 0.724,
        "real: photos": None,
    }
    assert scores["imagenet-r"].published == 0.642
    assert report.recipes["training"]["temperature"] == 0.1


def test_approximated_images_have_rows_and_names_of_their_own_and_no_published_value(place: Place) -> None:
    ways = [None, {"reuse_every": 3}]
    grid = {"prompts": ["description"], "scales": [2], "sizes": ["1x", "10x"], "models": ["sd14"]}
    add_experiment(place, grids=[grid | {"approximations": ways}], real=[])
    _, report = reported(place, claim(place.database, "experiment"))
    label = "approximated (deep features of one in 3 evaluations)"
    assert {(row.trained_on, row.approximation): row.scores[0].published for row in report.rows} == {
        (BEST, None): 0.635,
        (f"{BEST}, {label}", label): None,
        (BEST_10X, None): 0.724,
        (f"{BEST_10X}, {label}", label): None,
    }
    assert len(size_curves(report.rows, "imagenet-val")) == 2
    assert len(set(prompt_names([row for row in report.rows if row.times == 1]))) == 2


def test_rows_tell_that_a_model_was_distilled_which_the_request_did_not(place: Place) -> None:
    add_experiment(place, is_distilled=True, real=[])
    _, report = reported(place, claim(place.database, "experiment"))
    label = "approximated (by a model distilled to few steps)"
    assert {row.approximation for row in report.rows} == {label}
    assert f"{BEST}, {label}" in {row.trained_on for row in report.rows}
    assert {score.published for row in report.rows for score in row.scores} == {None}


def test_transfer_sets_have_tables_of_their_own_and_no_published_value(place: Place) -> None:
    add_experiment(place, transfer=["my-pets"], transfer_seeds=5)
    result, report = reported(place, claim(place.database, "experiment"))
    best = {row.trained_on: row for row in report.rows}[BEST]
    score = next(score for score in best.scores if score.benchmark == "my-pets")
    assert (score.images, score.top1, score.published) == (3000, (0.6, 0.62), None)
    assert [
        line for line in place.store.get(str(result["report.md_key"])).decode().splitlines() if "my-pets (3,000" in line
    ]
    assert [note for note in report.notes if "linear classifiers" in note and "mean of 5" in note]


@pytest.mark.parametrize(
    "training",
    [{"recipe": "plain"}, {"architecture": "resnet18"}, {"epochs": 90}, {"steps": 5}, {"temperature": 0.2}],
)
def test_a_network_trained_otherwise_has_no_published_value(place: Place, training: dict[str, object]) -> None:
    add_experiment(place, training={"recipe": "imagenet-sd", **training})
    _, report = reported(place, claim(place.database, "experiment"))
    assert [score.published for row in report.rows for score in row.scores] == [None] * 10


def test_the_interval_holds_test_images_and_seeds() -> None:
    """More test images narrow it, a spread of seeds widens it, and it never leaves 0 to 1."""
    assert interval([0.5], 10_000) == pytest.approx((0.4902, 0.5098), abs=1e-4)
    low, high = interval([0.48, 0.52], 10_000)
    # 12.7062 is the 97.5 % quantile of Student's t with one degree of freedom.
    assert high - 0.5 == pytest.approx(math.hypot(0.0098, 12.7062 * 0.02828 / math.sqrt(2)), abs=1e-4)
    assert 0.5 - low == pytest.approx(high - 0.5, abs=1e-4)
    assert interval([1.0, 1.0], 540) == pytest.approx((0.9929, 1.0), abs=1e-4)
    assert interval([0.0], 540)[0] == 0.0


@pytest.mark.parametrize(
    ("tested", "published"),
    [
        ({"kind": "imagenet-val"}, 0.635),
        ({"kind": "imagenet-sketch"}, 0.418),
        ({"kind": None}, None),
        ({"kind": "imagenet-val", "images": 4999}, None),
        ({"kind": "imagenet-val", "crop_pct": 0.95}, None),
    ],
)
def test_published_values_stand_beside_the_set_they_are_of_and_not_beside_its_name(
    place: Place, tested: dict[str, object], published: float | None
) -> None:
    add_experiment(place, tested=tested, benchmarks=["my-copy"])
    _, report = reported(place, claim(place.database, "experiment"))
    assert {row.trained_on: row.scores[0].published for row in report.rows}[BEST] == published


def test_on_the_whole_of_imagenet_the_number_of_test_images_is_the_published_one() -> None:
    assert [expected_images("in1k", kind) for kind in ("imagenet-val", "imagenet-r")] == [50_000, 30_000]
    assert [expected_images("in100", kind) for kind in ("imagenet-val", "imagenet-r")] == [5_000, None]


def test_a_partial_dataset_is_told_has_no_published_value_and_counts_as_what_was_trained_on(place: Place) -> None:
    add_experiment(place, kept={BEST: 97_500})
    _, report = reported(place, claim(place.database, "experiment"))
    best = {row.trained_on: row for row in report.rows}[BEST]
    assert (best.images, best.times, best.scores[0].published) == (97_500, 0.75, None)
    assert [note for note in report.notes if "partial" in note and "97,500 of 130,000 images" in note] == [
        *report.notes
    ]
    assert len(report.notes) == 1


def test_the_recipe_is_that_frozen_with_the_trainings(place: Place) -> None:
    """As when another version of the recipe was released between the training and the report."""
    add_experiment(place, changed_recipe={"temperature": 0.3})
    _, report = reported(place, claim(place.database, "experiment"))
    assert report.recipes["training"]["temperature"] == 0.3
    assert {score.published for row in report.rows for score in row.scores} == {None}


def test_networks_tested_on_different_images_are_told(place: Place) -> None:
    add_experiment(place)
    key = next(entry.key for entry in place.store.entries("evaluations/"))
    data = place.store.get(key).replace(b'"images": 5000', b'"images": 50000')
    place.store.put(key, data)
    with place.database.write() as session:
        evaluations = session.scalars(select(Job).where(Job.kind == "evaluation"))
        known = next(job for job in evaluations if (job.result or {})["report_key"] == key)
        known.result = {"report_key": key, "report_sha256": hashlib.sha256(data).hexdigest()}
    _, report = reported(place, claim(place.database, "experiment"))
    assert report.notes[0].startswith("imagenet-val: the networks were tested on 5,000, 50,000 of its images")


def test_a_template_that_reads_like_a_strategy_stands_beside_it(place: Place) -> None:
    grid = {"prompts": ["name", {"template": "name"}], "scales": [2, 2.0000001], "sizes": ["1x", "2x"]}
    add_experiment(place, grids=[grid], real=[])
    result, report = reported(place, claim(place.database, "experiment"))
    assert report.notes == ()
    assert {"prompts.svg_key", "sizes.svg_key"} <= set(result)
    summary = result["summary"]
    assert isinstance(summary, dict)
    assert len(summary) == len(report.rows) == 8


def test_what_a_figure_cannot_show_is_a_note_and_costs_no_other_figure(place: Place, tmp_path: Path) -> None:
    add_experiment(place)
    _, report = reported(place, claim(place.database, "experiment"))
    twice = [*report.rows, next(row for row in report.rows if row.trained_on == BEST)]
    drawn = draw_figures(twice, "imagenet-val", tmp_path, suffix="")
    assert drawn.files == ["sizes.svg", "sizes.png"]
    assert [note.startswith("no figure prompts: 2 has 2 bars") for note in drawn.notes] == [True]


def test_what_failed_is_named_and_the_experiment_ends_partial(place: Place) -> None:
    row = add_experiment(place, lost={(BEST, 1): "the disk was full", ("real: photos", 0): "no such folder"})
    lease = claim(place.database, "experiment")
    ending = ending_of_experiment(place, lease)
    with place.database.write() as session:
        settle(session, lease, ending, max_attempts=3)
    job = read_job(place.database, row)
    assert (job.state, job.done, job.failed) == ("partial", 8, 2)
    assert job.result is not None
    report = ExperimentReport.model_validate_json(place.store.get(str(job.result["report_key"])))
    assert [(known.trained_on, known.seed, known.reason) for known in report.failures] == [
        ("real: photos", 0, "no such folder"),
        (BEST, 1, "the disk was full"),
    ]
    best = {row.trained_on: row for row in report.rows}[BEST]
    assert (best.seeds, best.scores[0].deviation) == ((0,), None)
    assert "the disk was full" in place.store.get(str(job.result["report.md_key"])).decode()


def test_an_experiment_of_which_everything_succeeded_succeeds(place: Place) -> None:
    row = add_experiment(place)
    lease = claim(place.database, "experiment")
    with place.database.write() as session:
        settle(session, lease, ending_of_experiment(place, lease), max_attempts=3)
    job = read_job(place.database, row)
    assert (job.state, job.done, job.failed) == ("succeeded", 10, 0)


def test_an_experiment_without_a_single_result_fails_with_the_first_reason(place: Place) -> None:
    names = (BEST, BEST_10X, "name, guidance 7.5, 1x, sd14", "description, guidance 7.5, 1x, sd14", "real: photos")
    row = add_experiment(place, lost={(name, seed): "no weights" for name in names for seed in (0, 1)})
    lease = claim(place.database, "experiment")
    with place.database.write() as session:
        settle(session, lease, ending_of_experiment(place, lease), max_attempts=3)
    job = read_job(place.database, row)
    assert job.state == "failed"
    assert job.error is not None
    assert "none of 10 evaluations succeeded" in str(job.error["detail"])
    assert "no weights" in str(job.error["detail"])


def test_a_damaged_report_of_an_evaluation_fails_the_experiment_by_its_name(place: Place) -> None:
    add_experiment(place)
    key = next(entry.key for entry in place.store.entries("evaluations/"))
    place.store.put(key, b"other")
    ending = ending_of_experiment(place, claim(place.database, "experiment"))
    assert ending.error is not None
    assert key in str(ending.error["detail"])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_holds_both_figures_and_nothing_that_runs_or_is_elsewhere(place: Place) -> None:
    add_experiment(place)
    result, _ = reported(place, claim(place.database, "experiment"))
    tags = Tags()
    page = place.store.get(str(result["report.html_key"])).decode()
    tags.feed(page)
    assert (tags.seen.count("img"), tags.seen.count("table")) == (2, 2)
    assert {"script", "link", "b"} & set(tags.seen) == set()
    assert all(source.startswith("data:image/svg+xml;base64,") for source in tags.sources)
    assert "&lt;b&gt;cost&lt;/b&gt;" in page


def test_users_words_are_no_markup_in_markdown() -> None:
    assert plain("<b>a|b</b>\n[x](y) $1$") == r"\<b\>a\|b\</b\> \[x\](y) \$1\$"


def test_the_figures_show_every_row_with_its_published_value(place: Place, tmp_path: Path) -> None:
    add_experiment(place)
    _, report = reported(place, claim(place.database, "experiment"))
    drawn = draw_figures(report.rows, "imagenet-val", tmp_path, suffix="")
    assert drawn.files == ["prompts.svg", "prompts.png", "sizes.svg", "sizes.png"]
    prompts, sizes = (words(tmp_path / name) for name in ("prompts.svg", "sizes.svg"))
    # Those of size 1x: two prompts at 7.5, one of them at 2 too, and the real images.
    assert {"41.0", "43.1", "46.9", "61.0", "63.5", "81.0"} <= prompts
    assert "71.0" not in prompts
    assert {"1x", "10x", "61.0", "63.5", "71.0", "72.4", "81.0", "real: photos"} <= sizes
    assert (tmp_path / "prompts.png").read_bytes().startswith(b"\x89PNG")


def words(path: Path) -> set[str]:
    return {
        "".join(each.itertext()).strip() for each in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    }


def test_more_guidance_scales_than_colours_are_a_note_and_no_failure(place: Place) -> None:
    grid = {"prompts": ["name"], "scales": [1, 2, 3, 4, 5, 6, 7], "sizes": ["1x"]}
    add_experiment(place, grids=[grid])
    result, report = reported(place, claim(place.database, "experiment"))
    assert "prompts.svg_key" not in result
    assert report.notes == ("no figure prompts: it has 8 series, and 6 can be told apart",)


def test_templates_with_formulas_and_the_same_beginning_are_drawn(place: Place) -> None:
    long = "a photo of {name}, which costs $5 and $x^{{y and is seen from "
    grid = {"prompts": [{"template": f"{long}above"}, {"template": f"{long}below"}], "sizes": ["1x", "2x"]}
    add_experiment(place, grids=[grid], real=[])
    result, _ = reported(place, claim(place.database, "experiment"))
    assert {"prompts.svg_key", "sizes.svg_key"} <= set(result)


def test_each_way_of_training_has_figures_of_its_own(place: Place) -> None:
    add_experiment(place, training=None, trainings={"short": {"epochs": 1}, "long": {"epochs": 9}})
    result, report = reported(place, claim(place.database, "experiment"))
    assert {"prompts-short.svg_key", "prompts-long.svg_key", "sizes-long.png_key"} <= set(result)
    assert {row.recipe for row in report.rows} == {"short", "long"}


def test_shortened_texts_stay_different() -> None:
    first, second, again = shortened(["word " * 20 + "a", "word " * 20 + "b", "word " * 20 + "a"])
    assert first == again != second
    assert len(second) < 60
