"""What one request of an experiment stands for."""

import time
from collections import Counter

import pytest
from pydantic import ValidationError

from shared.approximations import AskedApproximation
from shared.errors import Rejected
from shared.experiment_estimate import BUILT_IN_SETS, estimate_experiment
from shared.experiments import ExperimentRequest, Plan, TrainingFields, plan
from shared.realsets import built_in_sets
from shared.settings import Settings
from shared.specs import TrainingRequest

DIGITS_1X = 1257


def request(**fields: object) -> ExperimentRequest:
    usual: dict[str, object] = {
        "name": "digits",
        "classes": "digits",
        "grids": [{"prompts": ["name", "description"], "scales": [2, 7.5]}],
        "training": {"steps": 10},
        "benchmarks": ["digits"],
    }
    return ExperimentRequest.model_validate({**usual, **fields})


def planned(**fields: object) -> Plan:
    return plan(request(**fields), images_per_second=10)


def test_a_grid_is_every_combination_and_each_is_trained_with_every_seed_beside_the_real_sets() -> None:
    found = planned(real=["digits-train"], seeds=[0, 1, 2])
    assert [dataset.cell.label for dataset in found.datasets] == [
        "name, guidance 2, 1x",
        "name, guidance 7.5, 1x",
        "description, guidance 2, 1x",
        "description, guidance 7.5, 1x",
    ]
    assert Counter((arm.dataset, arm.real) for arm in found.arms) == dict.fromkeys(
        [(0, None), (1, None), (2, None), (3, None), (None, "digits-train")], 3
    )
    assert found.drawn_images == 4 * DIGITS_1X
    assert found.gpu_hours == pytest.approx(4 * DIGITS_1X / 10 / 3600)


def test_a_dataset_of_two_grids_is_made_once() -> None:
    best = {"prompts": ["description"], "scales": [2], "sizes": ["1x", "02x"]}
    found = planned(grids=[{"prompts": ["name", "description"], "scales": [2]}, best, best])
    assert [(dataset.cell.label, dataset.grid) for dataset in found.datasets] == [
        ("name, guidance 2, 1x", 0),
        ("description, guidance 2, 1x", 0),
        ("description, guidance 2, 2x", 1),
    ]


def test_sizes_of_one_recipe_share_their_beginnings_in_whatever_order_they_stand() -> None:
    found = planned(grids=[{"prompts": ["description"], "scales": [2], "sizes": ["4x", "1x", "2x"]}])
    assert [dataset.images for dataset in found.datasets] == [4 * DIGITS_1X, DIGITS_1X, 2 * DIGITS_1X]
    assert [dataset.drawn for dataset in found.datasets] == [2 * DIGITS_1X, DIGITS_1X, DIGITS_1X]
    assert found.drawn_images == 4 * DIGITS_1X


def test_other_steps_or_models_share_nothing() -> None:
    grid = {"prompts": ["name"], "steps": [10, 15], "models": ["digits-sd", "sd14"], "images_per_class": [3, 5]}
    assert planned(grids=[grid]).drawn_images == 4 * 5 * 10


def test_exact_and_approximated_datasets_are_named_and_share_nothing() -> None:
    ways = [None, {"reuse_every": 3}, {"guidance_interval": [0.2, 0.8]}]
    found = planned(grids=[{"prompts": ["name"], "images_per_class": [3], "approximations": ways}])
    assert [dataset.cell.label for dataset in found.datasets] == [
        "name, guidance 7.5, 3 per class",
        "name, guidance 7.5, 3 per class, approximated (deep features of one in 3 evaluations)",
        "name, guidance 7.5, 3 per class, approximated (guidance only from 0.2 to 0.8 of the trajectory)",
    ]
    assert found.drawn_images == 3 * 3 * 10
    requests = [request().dataset(dataset.cell).approximation for dataset in found.datasets]
    assert requests == [None, AskedApproximation(reuse_every=3), AskedApproximation(guidance_interval=(0.2, 0.8))]


def test_several_ways_of_training_are_tried_on_every_dataset() -> None:
    ways = {"short": {"steps": 5}, "long": {"steps": 50}}
    assert Counter(arm.recipe for arm in planned(training=None, trainings=ways).arms) == {"short": 4, "long": 4}


def test_a_plan_that_draws_more_than_its_budget_is_refused_with_both_numbers() -> None:
    total = 4 * DIGITS_1X
    assert planned(budget=total).drawn_images == total
    with pytest.raises(Rejected, match=rf"would draw {total:,} images, its budget is {total - 1:,}"):
        planned(budget=total - 1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"grids": [{"prompts": ["name"], "scales": [step / 10 for step in range(50)], "steps": [1, 2, 3]}]}, "150"),
        ({"seeds": list(range(50)), "real": [f"set-{number}" for number in range(10)]}, "700 trainings"),
        (
            {"classes": [{"name": f"class {number}"} for number in range(25_000)]}
            | {"grids": [{"prompts": ["name"], "scales": [1, 2, 3, 4, 5]}]},
            "125,000 classes of all datasets together",
        ),
    ],
)
def test_what_one_request_cannot_make_is_refused_with_the_number(fields: dict[str, object], named: str) -> None:
    with pytest.raises(Rejected, match=named):
        planned(**fields)


def test_an_experiment_that_is_too_large_is_refused_before_its_images_are_counted() -> None:
    """Counting takes a second for each million classes of all datasets together; here there are 25 million."""
    classes = [{"name": f"class {number}"} for number in range(25_000)]
    asked = request(classes=classes, grids=[{"prompts": ["name"], "scales": [n / 25 for n in range(50)]}] * 20)
    asked = asked.model_copy(
        update={
            "grids": tuple(grid.model_copy(update={"steps": (step,)}) for step, grid in enumerate(asked.grids, start=1))
        }
    )
    before = time.process_time()
    with pytest.raises(Rejected, match="1,000 datasets"):
        plan(asked, images_per_second=1)
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("fields", "pointer", "named"),
    [
        ({"training": {"recipe": "imagnet-sd"}}, "/training/recipe", "imagnet-sd"),
        ({"training": {"architecture": "resnet 50"}}, "/training/architecture", "resnet 50"),
        ({"training": None, "trainings": {"a": {}, "b": {"recipe": "x"}}}, "/trainings/b/recipe", "unknown recipe 'x'"),
        ({"training": {"recipe": "imagenet-sd", "image_size": 64}}, "/training/image_size", "without crops"),
    ],
)
def test_an_estimate_refuses_a_training_that_nobody_could_make(
    fields: dict[str, object], pointer: str, named: str
) -> None:
    with pytest.raises(Rejected, match=named) as refused:
        estimate_experiment(request(**fields), Settings())
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"training": None}, "either training or trainings"),
        ({"trainings": {"a": {}}}, "either training or trainings"),
        ({"grids": []}, "nothing to train on"),
        ({"seeds": [1, 1]}, "seeds names 1 twice"),
        ({"benchmarks": ["digits", "digits"]}, "benchmarks names 'digits' twice"),
        ({"transfer": ["pets", "pets"]}, "transfer names 'pets' twice"),
        ({"training": {"seed": 1}}, "seed\n"),
        ({"training": {"steps": 1, "epochs": 1}}, "steps or epochs, not both"),
        ({"grids": [{"prompts": ["name"], "sizes": ["1x"], "images_per_class": [1]}]}, "sizes or images_per_class"),
        (
            {"grids": [{"prompts": ["name"] * 50, "scales": [1] * 50, "sizes": ["1x"] * 50, "models": ["m"] * 50}]},
            "grids have 6,250,000 combinations, at most 1,000",
        ),
        ({"trainings": {"../a": {}}, "training": None}, "should match pattern"),
    ],
)
def test_a_request_that_says_too_much_or_too_little_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        request(**fields)


def test_training_fields_are_those_of_a_training_but_what_the_experiment_chooses() -> None:
    chosen = {"datasets", "real", "shares", "seed", "priority"}
    assert TrainingFields.model_fields.keys() == TrainingRequest.model_fields.keys() - chosen
    fields = TrainingFields.model_validate({"steps": 7, "flip": False})
    made = TrainingRequest.model_validate({"datasets": ["ds-1"], "seed": 3, "priority": 2, "steps": 7, "flip": False})
    assert fields.request(seed=3, priority=2, datasets=["ds-1"]) == made
    assert fields.resolved_recipe() == made.resolved_recipe()


def test_a_frozen_request_reads_back_the_same() -> None:
    asked = request(real=["digits-train"], grids=[{"prompts": [{"template": "a {name}"}], "images_per_class": [2]}])
    assert ExperimentRequest.model_validate_json(asked.model_dump_json()) == asked


def test_an_estimate_names_its_rate_and_what_is_lacking() -> None:
    grid = {"prompts": ["name"], "models": ["sd14", "unknown"], "sizes": ["1x"]}
    asked = request(classes="in100", grids=[grid], real=["imagenet100-train"], benchmarks=["imagenet-val", "digits"])
    found = estimate_experiment(asked, Settings(), images_per_second=2)
    assert found.gpu_hours == pytest.approx(260_000 / 2 / 3600, abs=1e-4)
    assert "2 images per second (as given)" in found.assumption
    assert {need.name for need in found.needs if need.remedy} == {
        "sd14",
        "unknown",
        "imagenet100-train",
        "imagenet-val",
    }
    assert all("testsets add" in (need.remedy or "") for need in found.needs if need.name.startswith("imagenet"))
    assert "card" in estimate_experiment(asked, Settings()).assumption


def test_a_set_that_is_registered_for_something_else_is_no_remedy() -> None:
    asked = request(real=["digits"], benchmarks=["digits", "digits-train"], transfer=["digits", "pets"])
    found = estimate_experiment(asked, Settings())
    assert {(need.kind, need.name) for need in found.needs if "is registered as" in (need.remedy or "")} == {
        ("real training set", "digits"),
        ("real test set", "digits-train"),
        ("real transfer set", "digits"),
    }
    assert [(need.name, need.remedy is None) for need in found.needs if "transfer" in need.kind] == [
        ("digits", False),
        ("pets", False),
    ]


def test_the_sets_that_every_server_has_are_those_of_the_register() -> None:
    assert {known.name: known.role for known in built_in_sets()} == BUILT_IN_SETS
