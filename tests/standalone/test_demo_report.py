"""The demo's numbers, words and pictures."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.vision.digits import train_digits

import numpy as np
import pytest
from PIL import Image

from client.models import Cost, Counts, Job
from services.standalone.demo.figures import Column, axis_start, draw_bars, draw_samples
from services.standalone.demo.report import Report, Row, findings, margin_points, markdown, row
from services.standalone.demo.run import covered_seconds

START = datetime(2026, 1, 1, tzinfo=UTC)


def synthetic(guidance: float, *top1: float) -> Row:
    return row(f"synthetic, guidance {guidance:g}", guidance, images=1250, top1=top1, n_test=540)


def real(*top1: float) -> Row:
    return row("real", None, images=1257, top1=top1, n_test=540)


ROWS = (synthetic(7.5, 90.0, 92.0, 91.0), synthetic(2.0, 97.0, 97.5, 98.0), real(98.0, 98.5, 99.0))


def test_row_has_the_mean_and_the_sample_standard_deviation() -> None:
    known = synthetic(2.0, 97.0, 98.0, 99.0)
    assert (known.top1_mean, known.top1_sd) == (98.0, 1.0)


def test_one_seed_has_no_spread() -> None:
    assert synthetic(2.0, 97.0).top1_sd == 0.0


def test_margin_follows_from_test_images_and_seeds() -> None:
    one, other = synthetic(2.0, 49.0, 50.0, 51.0), synthetic(7.5, 50.0)
    # 50 % of 540 images: variance 2500 / 540 each; a standard deviation of 1 over 3 seeds adds 1 / 3.
    assert margin_points(one, other) == pytest.approx(1.96 * (2 * 2500 / 540 + 1 / 3) ** 0.5)


def test_difference_beyond_the_margin_is_told_in_the_measured_direction() -> None:
    lower = findings((synthetic(7.5, 90.0), synthetic(2.0, 97.0), real(97.0)))[0]
    higher = findings((synthetic(7.5, 97.0), synthetic(2.0, 90.0), real(97.0)))[0]
    assert lower.startswith("synthetic, guidance 2 gave more than synthetic, guidance 7.5: 97.0 % against 90.0 %")
    assert higher.startswith("synthetic, guidance 7.5 gave more than synthetic, guidance 2: 97.0 % against 90.0 %")


def test_difference_within_the_margin_is_no_conclusion() -> None:
    sentence = findings((synthetic(7.5, 97.2), synthetic(2.0, 97.0), real(97.0)))[0]
    assert "no conclusion" in sentence


def test_real_images_are_compared_with_the_best_synthetic_ones() -> None:
    sentences = findings((synthetic(7.5, 80.0), synthetic(2.0, 90.0), real(99.0)))
    assert sentences[-1].startswith("real gave more than synthetic, guidance 2: 99.0 % against 90.0 %")


def test_synthetic_images_may_beat_the_real_ones() -> None:
    assert findings((synthetic(2.0, 99.0), real(80.0)))[-1].startswith("synthetic, guidance 2 gave more than real")


@pytest.mark.parametrize(("lowest", "start"), [(30.0, 0), (59.9, 0), (66.0, 60), (91.0, 80), (99.0, 90)])
def test_axis_starts_at_zero_or_well_below_every_bar(lowest: float, start: int) -> None:
    assert axis_start([synthetic(2.0, lowest), real(99.5)]) == start


def test_report_in_words_has_every_number_and_what_the_demo_is_not() -> None:
    report = Report(
        rows=ROWS,
        setup="Every row: small.",
        seconds={"draw": 71.4},
        machine="2 cores",
        versions={"torch": "2.13"},
        findings=findings(ROWS),
    )
    text = markdown(report)
    assert "| synthetic, guidance 7.5 | 1250 | 91.0 | 1.0 | 540 |" in text
    assert "| real | 1257 | 98.5 | 0.5 | 540 |" in text
    assert "distilled from 1,257 labelled real digits" in text
    assert "draw 71 s" in text


def test_bars_are_blue_for_synthetic_and_grey_for_real_images(tmp_path: Path) -> None:
    draw_bars(ROWS, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        counts = image.convert("RGB").getcolors(image.width * image.height) or ()
    colours = {colour for pixels, colour in counts if pixels > 1000}
    assert {(0x3B, 0x6F, 0xB6), (0xBD, 0xBD, 0xBD)} <= colours


def test_samples_show_each_class_in_a_row_and_each_training_set_in_a_column(tmp_path: Path) -> None:
    images, labels = train_digits()
    classes = [list(images[labels == digit][:3]) for digit in range(10)]
    black = [[np.zeros((32, 32, 3), np.uint8)] * 3 for _ in range(10)]
    draw_samples([Column("real", classes), Column("black", black)], list("0123456789"), tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as image:
        pixels = np.asarray(image.convert("L"))
    left, right = pixels[40:, 40 : image.width // 2 - 20], pixels[40:, image.width // 2 + 20 : -20]
    assert ((left > 60) & (left < 200)).sum() > 10 * ((right > 60) & (right < 200)).sum()


def job(start: float, stop: float) -> Job:
    return Job(
        id="tr-1",
        kind="training",
        state="succeeded",
        terminal=True,
        summary="",
        progress=1,
        counts=Counts(total=1, done=1, rejected=0, failed=0, reused=0),
        cost=Cost(drawn_images=0, worker_seconds=0, stored_bytes=0),
        created_at=START,
        started_at=START + timedelta(seconds=start),
        finished_at=START + timedelta(seconds=stop),
    )


def test_time_counts_overlaps_once_and_pauses_not_at_all() -> None:
    assert covered_seconds([job(0, 10), job(5, 12), job(6, 8), job(100, 103)]) == 15.0


def test_datasets_whose_images_were_all_there_took_no_time() -> None:
    assert covered_seconds([job(0, 1).model_copy(update={"started_at": None})]) == 0.0
