"""Networks that were trained elsewhere: what is refused, and how they are tested."""

from pathlib import Path

from shared.vision import digits
from shared.vision.images import normalised, squared
from shared.vision.imported import NewEncoder, find_team, insert_training, read_encoder, store_encoder

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from services.evaluator.evaluate import Place, evaluate
from services.evaluator.report import Report
from shared.classes import listed_wnids
from shared.errors import Rejected
from shared.job_leases import finish_job
from shared.specs import EvaluationRequest, EvaluationSpec
from tests.trainer.pickles import hostile_pickle
from tests.trainer.rows import DIGITS, add_job, claim, read_job

ARCHITECTURE, SIZE, HALF = "test_resnet", 32, (0.5, 0.5, 0.5)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    network = timm.create_model(ARCHITECTURE, num_classes=10).train()
    with torch.no_grad():
        for _ in range(30):  # so that its outputs depend on what it is shown
            network(normalised(shown()[:64]))
    file = tmp_path / "network.safetensors"
    save_file(network.state_dict(), file)
    return file


def shown() -> torch.Tensor:
    pixels = torch.from_numpy(digits.test_digits().images).permute(0, 3, 1, 2)
    return torch.stack([squared(image, SIZE) for image in pixels])


def said(file: Path, **changes: object) -> NewEncoder:
    return NewEncoder("ours", file, ARCHITECTURE, DIGITS, SIZE)._replace(**changes)  # type: ignore[arg-type]


def imported(place: Place, new: NewEncoder) -> str:
    read = read_encoder(new)
    result = store_encoder(place.store, read)
    with place.database.write() as session:
        insert_training(session, read, result, team_id=find_team(session, "default"))
    return read.card.training


def evaluated(place: Place, request: EvaluationRequest) -> tuple[str, Report]:
    spec = EvaluationSpec(request=request, version="0.1.0").model_dump(mode="json")
    row = add_job(place.database, "evaluation", state="queued", spec=spec, total=1)
    lease = claim(place.database, "evaluation")
    result = evaluate(place, lease, ())
    assert result is not None
    with place.database.write() as session:
        finish_job(session, lease, result)
    return row, Report.model_validate_json(place.store.get(str(result["report_key"])))


def hits_by_hand(file: Path, mean: float, std: float) -> int:
    network = timm.create_model(ARCHITECTURE, num_classes=10).eval()
    network.load_state_dict(load_file(file))
    with torch.inference_mode():
        predicted = network((shown() / 255 - mean) / std).argmax(dim=1)
    return int((predicted == torch.from_numpy(digits.test_digits().labels)).sum())


def test_an_imported_network_is_tested_with_its_own_mean_and_deviation(place: Place, weights: Path) -> None:
    training = imported(place, said(weights, mean=HALF, std=HALF))
    _, report = evaluated(place, EvaluationRequest(training=training))
    assert report.benchmarks[0].top1 == hits_by_hand(weights, 0.5, 0.5) / 540
    assert report.trained is None
    assert report.notes[0].startswith(f"{training} was trained elsewhere and imported as ours: {ARCHITECTURE} at 32")


def test_imported_networks_are_compared_by_their_names(place: Place, weights: Path) -> None:
    first, _ = evaluated(place, EvaluationRequest(training=imported(place, said(weights))))
    other = imported(place, said(weights, name="theirs", mean=HALF, std=HALF))
    _, report = evaluated(place, EvaluationRequest(training=other, compare_with=(first,)))
    assert [model.trained_on for model in report.comparisons[0].models] == ["imported: theirs", "imported: ours"]


def test_weights_are_stored_byte_by_byte_under_the_names_of_a_training(place: Place, weights: Path) -> None:
    training = imported(place, said(weights))
    result = read_job(place.database, training).result
    assert result is not None
    assert result["encoder_key"] == f"trainings/{training}/encoder-0.safetensors"
    assert place.store.get(str(result["encoder_key"])) == weights.read_bytes()


def test_classes_of_imagenet_have_names_and_others_are_their_own(weights: Path) -> None:
    class_ids = (*listed_wnids("in1k")[:2], *DIGITS[:8])
    names = read_encoder(said(weights, class_ids=class_ids)).card.class_names
    assert names[:3] == ("tench", "goldfish", DIGITS[0])


def changed(file: Path, **tensors: torch.Tensor | None) -> Path:
    state = load_file(file) | tensors
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, file)
    return file


NAN = torch.full((10,), float("nan"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fc.bias": None}, "has no tensor fc.bias, which test_resnet needs"),
        ({"fc.scale": torch.ones(3)}, "has a tensor fc.scale, which test_resnet has not; give another --arch"),
        ({"fc.bias": torch.ones(11)}, r"fc\.bias of .* is 11, and 10 in test_resnet with 10 classes at 32 pixels"),
        ({"fc.bias": NAN}, r"fc\.bias of .* has values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    weights: Path, tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    with pytest.raises(Rejected, match=message):
        read_encoder(said(changed(weights, **tensors)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_ids": DIGITS[:9]}, r"fc\.bias of .* is 10, and 9 in test_resnet with 9 classes"),
        ({"class_ids": (*DIGITS[:9], DIGITS[0])}, "at least one, each named once"),
        ({"architecture": "resnet49"}, "unknown architecture 'resnet49'; close names: "),
        ({"std": (1.0, 0.0, 1.0)}, "not three numbers each, the latter above 0"),
    ],
)
def test_what_is_said_must_fit(weights: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(Rejected, match=message):
        read_encoder(said(weights, **changes))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"cannot read .*network\.safetensors: No such file"):
        read_encoder(said(tmp_path / "network.safetensors"))


def test_an_unknown_team_is_answered_with_the_known_ones(place: Place) -> None:
    with (
        place.database.read() as session,
        pytest.raises(Rejected, match="there is no team 'nobody'; known: default"),
    ):
        find_team(session, "nobody")


def test_a_pickle_is_refused_with_what_to_do_and_never_loaded(tmp_path: Path) -> None:
    file, marker = tmp_path / "network.pth", tmp_path / "executed"
    file.write_bytes(hostile_pickle(marker))
    with pytest.raises(Rejected, match=r"is no safetensors file .*weights_only=True\) reads a \.pth, safetensors"):
        read_encoder(said(file))
    assert not marker.exists()
