"""`synthclone eval --distance`, as a process."""

from client import Client
from tests.client.test_command_line import SMALL, TRAIN, Place, place, run, submitted

__all__ = ["place"]


def test_compared_sets_reach_the_request(place: Place) -> None:
    dataset = submitted(place, "submit", "--classes", "digits", "--per-class", "3")
    training = submitted(place, *TRAIN)
    words = ["--distance", f"{dataset}=digits", "--distance", f"{dataset}=digits-train", "--images", "30"]
    evaluation = submitted(place, "eval", training, *words)
    with Client(place.url) as client:
        request = client.evaluations.get(evaluation).spec["request"]
    assert isinstance(request, dict)
    expected = [{"dataset": dataset, "real": real, "images": 30, "seed": 0} for real in ("digits", "digits-train")]
    assert (request["distances"], request["benchmarks"]) == (expected, [])


def test_as_many_images_are_compared_as_the_api_says_unless_told(place: Place) -> None:
    dataset, training = submitted(place, *SMALL), submitted(place, *TRAIN)
    done = run("--api", place.url, "eval", training, "--distance", f"{dataset}=digits")
    assert (done.returncode, "fewer than the 5,000 asked for" in done.stderr) == (3, True)


def test_neighbours_reach_the_request_and_need_a_transfer_set(place: Place) -> None:
    done = run("--api", place.url, "eval", "tr-1", "--on", "digits", "--neighbours", "20")
    assert (done.returncode, "neighbours classify" in done.stderr) == (2, True)


def test_a_number_of_images_without_sets_to_compare_is_an_error_of_usage(place: Place) -> None:
    done = run("--api", place.url, "eval", "tr-1", "--on", "digits", "--images", "20")
    assert (done.returncode, "--distance" in done.stderr) == (2, True)


def test_a_pair_without_a_real_set_is_an_error_of_usage(place: Place) -> None:
    done = run("--api", place.url, "eval", "tr-1", "--distance", "ds-1")
    assert (done.returncode, "is not DATASET=REAL" in done.stderr) == (2, True)
