"""Approximated datasets through a worker: said in every sample and in the manifest, or not drawn at all."""

from pathlib import Path

import pytest

from shared.approximations import Approximation
from tests.sd_worker.place import Place
from tests.sd_worker.test_worker import work_once

REUSED = Approximation(reuse_every=2)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


def test_an_approximated_dataset_shares_no_image_with_the_exact_one_and_says_what_it_is(place: Place) -> None:
    exact, approximated = place.dataset(per_class=2, steps=4), place.dataset(per_class=2, steps=4, approximation=REUSED)
    work_once(place)
    assert [getattr(place.ended(job), "state", None) for job in (exact, approximated)] == ["succeeded"] * 2
    assert place.manifest(exact)["recipe"]["engine"] == "exact"
    assert place.manifest(approximated)["recipe"]["engine"] == {"reuse_every": 2}
    keys = [{shard["key"] for shard in place.manifest(job)["shards"]} for job in (exact, approximated)]
    assert keys[0].isdisjoint(keys[1])
    first, second = place.samples(exact), place.samples(approximated)
    assert {str(metadata.get("approximation")) for _, metadata in first.values()} == {"None"}
    assert {str(metadata["approximation"]) for _, metadata in second.values()} == {"{'reuse_every': 2}"}


def test_an_approximation_that_cannot_be_drawn_fails_with_its_reason_and_leaves_no_image(place: Place) -> None:
    job_id = place.dataset(per_class=1, approximation=REUSED, width=36)
    place.settings = place.settings.model_copy(update={"max_attempts": 1})
    work_once(place)
    job = place.ended(job_id)
    assert job is not None
    assert (job.state, job.done) == ("failed", 0)
    assert "36 x 32 are not multiples of 8" in str((job.error or {})["detail"])
