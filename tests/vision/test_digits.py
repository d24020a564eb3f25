from collections import Counter

from shared.vision import digits  # test_digits by itself would be collected as a test

import numpy as np


def test_the_two_parts_are_all_1797_digits_without_overlap() -> None:
    training, held_out = digits.train_digits(), digits.test_digits()
    assert training.images.shape == (1257, 32, 32, 3)
    assert held_out.images.shape == (540, 32, 32, 3)
    seen = {image.tobytes() for image in training.images}
    assert not any(image.tobytes() in seen for image in held_out.images)


def test_every_digit_is_in_both_parts_about_equally_often() -> None:
    for part, per_digit in ((digits.train_digits(), 125), (digits.test_digits(), 54)):
        counts = Counter(part.labels.tolist())
        assert sorted(counts) == list(range(10))
        assert all(abs(count - per_digit) <= 5 for count in counts.values())


def test_digits_are_grey_and_keep_the_full_range() -> None:
    images = digits.train_digits().images
    assert images.dtype == np.uint8
    assert (images[..., 0] == images[..., 2]).all()
    assert (images.min(), images.max()) == (0, 255)


def test_first_digit_is_a_ring_around_a_dark_centre() -> None:
    part = digits.train_digits()
    zero = part.images[0, ..., 0].astype(int)
    assert part.labels[0] == 0
    assert zero[14:18, 14:18].max() < 64
    assert zero[16, 6:14].max() > 128
    assert zero[16, 18:26].max() > 128


def test_sorted_ids_are_in_the_order_of_the_digits() -> None:
    assert len(set(digits.DIGIT_WNIDS)) == 10
    assert list(digits.DIGIT_WNIDS) == sorted(digits.DIGIT_WNIDS)
