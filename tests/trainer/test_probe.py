"""Small networks on the first images of a dataset, and what their errors say of all of it."""

import json
import math
import threading
import time
from collections.abc import Sequence
from functools import partial
from hashlib import sha256

from shared.vision import digits
from shared.vision.images import decode

import numpy as np
import pytest
import torch

from services.dispatcher.tick import tick
from services.trainer.consumer import make_consumer
from services.trainer.power_law import fit_power_law, lack_of_fit, predict_error, smoothed_error
from services.trainer.probe import probe, refuse_stopped
from services.trainer.probe_images import FirstImages, Stopped, open_first_images
from services.trainer.probe_report import ProbeReport, network_of
from services.trainer.run import Place
from shared import leases
from shared.errors import BeingRedrawn, Rejected
from shared.job_leases import JobLease, claim_job
from shared.leases import ShardLease, StoredShard
from shared.lifecycle import transition
from shared.probes import ProbeRequest, ProbeSpec, images_of, recipe_for, steps_for
from shared.settings import Settings
from shared.shards import Sample, pack
from shared.stored.fetch import never_stop
from shared.tables import Job, JobParent, JsonObject
from tests import rows
from tests.conftest import changed

from .rows import DIGITS, add_job, claim, jpeg, read_job

IMAGES = 40  # of each digit
SLOTS = 8  # of a shard
SHARES = (0.05, 0.1, 0.2)
CPU = torch.device("cpu")
# A fair number of simulated probes: the standard error of a share near 0.95 is then 0.5 %.
SIMULATED = 2000
TESTED = 540  # photos of digits


class Drawn:
    """A dataset of forty images of each digit, in shards of eight slots, as far as it was told to be drawn."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self.place, self.settings = place, changed(settings, shard_slots=SLOTS)
        self.split = digits.train_digits()
        with place.database.write() as session:
            self.id = rows.add_dataset(session, images=dict.fromkeys(DIGITS, IMAGES)).id
        self.tick()

    def tick(self) -> None:
        tick(self.place.database, self.place.store, self.settings, absent={})

    def draw(self, shards: int, *, short: int = 0) -> None:
        """The next shards, breadth first; of each the last `short` slots stay without an image."""
        for lease in rows.claim(self.place.database, limit=shards):
            kept = range(lease.start_slot, lease.stop_slot - short)
            data = pack([Sample(f"image{slot}", slot, self.jpeg(lease.class_id, slot), 0, {}) for slot in kept])
            self.place.store.put(lease.object_key, data)
            lacking = tuple(range(kept.stop, lease.stop_slot))
            self.commit(
                lease, StoredShard(lease.object_key, len(data), sha256(data).hexdigest(), len(kept), lacking, {})
            )
        self.tick()

    def commit(self, lease: ShardLease, shard: StoredShard) -> None:
        with self.place.database.write() as session:
            leases.commit(session, lease, shard)

    def jpeg(self, class_id: str, slot: int) -> bytes:
        of_class = self.split.images[self.split.labels == DIGITS.index(class_id)]
        return jpeg(of_class[slot])

    def end(self, state: str) -> None:
        with self.place.database.write() as session:
            transition(session, self.id, state)

    def spec(self, *, steps: int = 5, repeats: int = 1, shares: Sequence[float] = SHARES) -> ProbeSpec:
        request = ProbeRequest(dataset=self.id, benchmark="digits", shares=tuple(shares), repeats=repeats)
        return ProbeSpec(
            request=request,
            class_ids=DIGITS,
            class_names=DIGITS,
            images=IMAGES * len(DIGITS),
            sizes=tuple(images_of(IMAGES, share) * len(DIGITS) for share in shares),
            architecture="test_resnet",
            image_size=32,
            steps=steps,
            recipe=recipe_for(steps),
            version="0.1.0",
        )

    def add_probe(self, spec: ProbeSpec, *, state: str = "waiting") -> str:
        total = len(spec.request.shares) * spec.request.repeats
        row = add_job(self.place.database, "probe", state=state, spec=spec.model_dump(mode="json"), total=total)
        with self.place.database.write() as session:
            session.add(JobParent(job_id=row, parent_id=self.id))
        return row

    def state(self, row: str) -> str:
        return read_job(self.place.database, row).state


@pytest.fixture
def drawn(place: Place, settings: Settings) -> Drawn:
    return Drawn(place, settings)


def run(place: Place, lease: JobLease, stop: threading.Event | None = None) -> JsonObject | None:
    return probe(place, lease, CPU, stop or threading.Event())


def first_images(drawn: Drawn, spec: ProbeSpec) -> FirstImages:
    return open_first_images(drawn.place, spec, check=never_stop)


def report_of(place: Place, result: JsonObject | None) -> ProbeReport:
    assert result is not None
    return ProbeReport.model_validate_json(place.store.get(str(result["report_key"])))


def test_errors_that_are_a_power_of_the_images_are_continued_exactly() -> None:
    images = [20, 100, 200]
    law = fit_power_law(images, [2 * count**-0.5 for count in images])
    error = predict_error(law, 2000, tested=10**12)
    assert (law.slope, math.exp(law.intercept)) == pytest.approx((-0.5, 2.0))
    assert tuple(error) == pytest.approx((2 * 2000**-0.5,) * 3, rel=1e-4)


def test_the_interval_is_the_one_worked_by_hand() -> None:
    """To base 2 the logarithms are 0, -1, -1 at 0, 1, 2: slope -1/2, beginning at -1/6, residuals 1/6, -1/3, 1/6."""
    law = fit_power_law([1, 2, 4], [1, 1 / 2, 1 / 2])
    error = predict_error(law, 8, tested=50)
    deviation = math.log(2) * math.sqrt(1 / 6)
    wrong = 2 ** (-5 / 3)
    variance = math.log(2) ** 2 / 6 * (1 + 1 / 3 + 4 / 2) + (1 - wrong) / (wrong * 50)
    half = 12.7062 * math.sqrt(variance)  # Student's t with one degree of freedom
    assert law.deviation == pytest.approx(deviation)
    assert math.log2(error.expected) == pytest.approx(-1 / 6 - 3 / 2)
    assert error.low == pytest.approx(error.expected * math.exp(-half), rel=1e-4)
    assert error.high == 1.0


@pytest.mark.parametrize(("factor", "slope"), [(0.9, -0.3), (2.5, -0.7)])
def test_the_interval_holds_nineteen_of_twenty_new_networks(factor: float, slope: float) -> None:
    """Of an exact law, where only the count of wrong test images scatters: 50 and 7 of them at full size."""
    generator = np.random.default_rng(0)
    images = np.repeat([20, 100, 200], 3)
    shares = factor * np.append(images, 2000) ** slope
    hits = 0
    for counts in generator.binomial(TESTED, shares, size=(SIMULATED, len(shares))).tolist():
        *seen, new = [smoothed_error(wrong, TESTED) for wrong in counts]
        found = predict_error(fit_power_law(images.tolist(), seen), 2000, tested=TESTED)
        hits += found.low <= new <= found.high
    assert hits / SIMULATED >= 0.95


def test_networks_that_all_err_alike_leave_doubt() -> None:
    law = fit_power_law([20, 100, 200], [smoothed_error(5, TESTED)] * 3)
    found = predict_error(law, 2000, tested=TESTED)
    assert found.low < 0.5 * found.expected
    assert found.high > 2 * found.expected


def test_the_interval_grows_with_the_distance() -> None:
    law = fit_power_law([20, 100, 200, 200], [0.5, 0.3, 0.2, 0.22])
    found = [predict_error(law, images, tested=TESTED) for images in (100, 400, 2000)]
    widths = [math.log(error.high / error.low) for error in found]
    assert widths == sorted(widths)


def test_sizes_off_the_line_are_told_from_networks_that_differ() -> None:
    """Two networks of each size, logarithms to base 2: squares within the sizes are 2 + 2 + 2; the line is level at
    2, the means 1, 4 and 1 are off it by 2 + 8 + 2, so F is 12 / 1 over 6 / 3."""
    images = [1, 1, 2, 2, 4, 4]
    found = lack_of_fit(images, [2.0**log for log in (0, 2, 3, 5, 0, 2)])
    assert found == pytest.approx(0.0917, abs=1e-4)  # of F = 6 with 1 and 3 degrees of freedom
    assert lack_of_fit(images, [2.0**-log for log in (0, 1, 1, 2, 2, 3)]) == pytest.approx(1.0)
    assert lack_of_fit([1, 2, 4], [0.5, 0.2, 0.1]) is None


@pytest.mark.parametrize(("errors", "expected"), [((0.3, 0.3, 0.1), 0.0), ((0.4, 0.2, 0.1), 1.0), ((0.3,) * 3, 1.0)])
def test_networks_of_one_size_that_err_alike_leave_nothing_to_chance(errors: Sequence[float], expected: float) -> None:
    alike = [error for error in errors for _ in range(3)]
    assert lack_of_fit([1, 1, 1, 2, 2, 2, 4, 4, 4], alike) == expected


def test_a_network_without_errors_has_a_logarithm_too() -> None:
    assert smoothed_error(0, 540) == pytest.approx(0.5 / 541)
    assert smoothed_error(540, 540) < 1


def test_steps_follow_the_whole_dataset_and_not_the_share() -> None:
    assert [steps_for(images) for images in (20, 2000, 12_000, 10**7)] == [300, 312, 1875, 20_000]


def test_a_probe_waits_until_the_first_images_of_every_class_are_drawn(drawn: Drawn) -> None:
    row = drawn.add_probe(drawn.spec())
    drawn.draw(9)
    assert drawn.state(row) == "waiting"
    with drawn.place.database.write() as session:
        assert claim_job(session, "training", "probe", worker="w", lease_seconds=60) is None
    drawn.draw(1)
    assert (drawn.state(row), drawn.state(drawn.id)) == ("queued", "running")


def test_a_probe_of_a_larger_share_waits_for_more_shards(drawn: Drawn) -> None:
    row = drawn.add_probe(drawn.spec(shares=(0.05, 0.1, 0.25)))
    drawn.draw(10)
    assert drawn.state(row) == "waiting"
    drawn.draw(10)
    assert drawn.state(row) == "queued"


def test_a_probe_does_not_wait_for_a_shard_that_failed(drawn: Drawn) -> None:
    row = drawn.add_probe(drawn.spec())
    drawn.draw(9)
    (lease,) = rows.claim(drawn.place.database, limit=1)
    with drawn.place.database.write() as session:
        leases.give_up(session, lease, reason="broken", max_attempts=1)
    drawn.tick()
    assert drawn.state(row) == "queued"


def test_a_probe_fails_with_its_dataset(drawn: Drawn) -> None:
    row = drawn.add_probe(drawn.spec())
    drawn.end("cancelled")
    drawn.tick()
    error = read_job(drawn.place.database, row).error
    assert drawn.state(row) == "failed"
    assert f"{drawn.id} ended cancelled" in str(error)


def test_a_dataset_in_progress_is_probed(drawn: Drawn) -> None:
    drawn.draw(10)
    row = drawn.add_probe(drawn.spec(repeats=2), state="queued")
    report = report_of(drawn.place, run(drawn.place, claim(drawn.place.database, "probe")))
    assert [(point.share, point.images, point.tested) for point in report.points] == [
        (share, images, 540) for share, images in ((0.05, 20), (0.1, 40), (0.2, 80)) for _ in range(2)
    ]
    assert len({point.seed for point in report.points}) == 6
    assert (report.prediction.images, report.prediction.times, report.fit.dof) == (400, 5.0, 4)
    low, high = report.prediction.interval
    assert 0 <= low <= report.prediction.top1 <= high <= 1
    assert "not that of a larger network" in report.notes[0]
    assert read_job(drawn.place.database, row).done == 6


def test_the_same_probe_finds_the_same_numbers(drawn: Drawn) -> None:
    drawn.draw(10)
    reports = []
    for _ in range(2):
        drawn.add_probe(drawn.spec(steps=3), state="queued")
        reports.append(report_of(drawn.place, run(drawn.place, claim(drawn.place.database, "probe"))))
    assert reports[0].points == reports[1].points
    assert reports[0].network == reports[1].network


def test_more_steps_are_another_network(drawn: Drawn) -> None:
    assert network_of(drawn.spec(steps=5)).digest != network_of(drawn.spec(steps=6)).digest


def test_each_share_has_the_images_of_a_smaller_dataset(drawn: Drawn) -> None:
    drawn.draw(10)
    first = first_images(drawn, drawn.spec())
    found = first.of(0.1)
    assert found.labels.tolist() == [label for label in range(10) for _ in range(4)]
    for index in (0, 3, 39):
        class_id, slot = DIGITS[index // 4], index % 4
        assert torch.equal(found.image(index), decode(drawn.jpeg(class_id, slot)))


def test_a_share_may_end_in_the_middle_of_a_later_shard(drawn: Drawn) -> None:
    drawn.draw(20)
    spec = drawn.spec(shares=(0.05, 0.1, 0.3))
    assert np.bincount(first_images(drawn, spec).of(0.3).labels).tolist() == [12] * 10


def test_a_dataset_that_ended_early_is_probed_with_what_it_has(drawn: Drawn) -> None:
    drawn.draw(10)
    drawn.end("partial")
    row = drawn.add_probe(drawn.spec())
    drawn.tick()
    assert drawn.state(row) == "queued"
    assert len(first_images(drawn, drawn.spec()).of(0.2).labels) == 80


def test_a_dataset_that_ended_too_early_is_refused_with_both_numbers(drawn: Drawn) -> None:
    drawn.draw(9)
    drawn.end("partial")
    with pytest.raises(Rejected, match=r"has 36 of the 40 images of share 0\.1, of 9 of 10 classes"):
        first_images(drawn, drawn.spec()).of(0.1)


def test_slots_that_the_gate_emptied_count_as_missing(drawn: Drawn) -> None:
    drawn.draw(10, short=1)
    first = first_images(drawn, drawn.spec())
    assert len(first.of(0.1).labels) == 40
    with pytest.raises(Rejected, match="has 70 of the 80 images"):
        first.of(0.2)


def test_a_probe_that_lacks_images_trains_nothing(drawn: Drawn) -> None:
    drawn.draw(10, short=1)
    row = drawn.add_probe(drawn.spec(), state="queued")
    with pytest.raises(Rejected, match="has 70 of the 80 images"):
        run(drawn.place, claim(drawn.place.database, "probe"))
    assert read_job(drawn.place.database, row).done == 0


def test_a_damaged_shard_is_drawn_again_first(drawn: Drawn) -> None:
    drawn.draw(10)
    key = first_images(drawn, drawn.spec()).shards[0].key
    drawn.place.store.delete(key)
    for file in drawn.place.cache.folder.glob("*.tar"):
        file.unlink()
    with pytest.raises(BeingRedrawn, match="is being drawn again"):
        first_images(drawn, drawn.spec())


def test_a_probe_told_to_stop_ends_within_seconds(drawn: Drawn) -> None:
    drawn.draw(10)
    drawn.add_probe(drawn.spec(steps=20_000), state="queued")
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    started = time.monotonic()
    assert run(drawn.place, claim(drawn.place.database, "probe"), stop) is None
    assert time.monotonic() - started < 15


def test_a_probe_told_to_stop_fetches_nothing_more(drawn: Drawn) -> None:
    drawn.draw(10)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        open_first_images(drawn.place, drawn.spec(), check=partial(refuse_stopped, stop))
    assert list(drawn.place.cache.folder.glob("*.tar")) == []


@pytest.mark.slow
def test_a_trainer_works_on_probes_and_gives_back_what_it_cannot_finish(drawn: Drawn, settings: Settings) -> None:
    drawn.draw(10)
    endless = drawn.add_probe(drawn.spec(steps=20_000), state="queued")
    consumer = make_consumer(settings)
    stop = threading.Event()
    threading.Timer(6.0, stop.set).start()
    consumer.work(stop)
    given_back = read_job(drawn.place.database, endless)
    assert (given_back.state, given_back.attempts) == ("queued", 0)
    with drawn.place.database.write() as session:
        session.get_one(Job, endless).spec = drawn.spec().model_dump(mode="json")
    consumer.work(threading.Event())
    consumer.close()
    ended = read_job(drawn.place.database, endless)
    assert ended.state == "succeeded"
    assert ended.result is not None
    report = json.loads(drawn.place.store.get(f"probes/{endless}/report-{ended.fence}.json"))
    assert ended.result["summary"] == {name: report["prediction"][name] for name in ("top1", "interval", "images")}
