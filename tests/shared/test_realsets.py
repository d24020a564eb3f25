from shared.vision import digits

import pytest

from shared.errors import Rejected
from shared.realsets import benchmark, registered_sets, training_set


@pytest.mark.parametrize(("name", "split"), [("digits-train", digits.train_digits()), ("digits", digits.test_digits())])
def test_the_register_agrees_with_the_pixels(name: str, split: digits.DigitsSplit) -> None:
    known = registered_sets()[name]
    assert known.images == len(split.images)
    assert known.class_ids == digits.DIGIT_WNIDS


def test_a_test_set_cannot_be_trained_on() -> None:
    with pytest.raises(Rejected, match="digits is registered as a test set and cannot be trained on"):
        training_set("digits")


def test_a_training_set_cannot_be_tested_on() -> None:
    with pytest.raises(Rejected, match="digits-train is registered as a training set and cannot be tested on"):
        benchmark("digits-train")


def test_an_unknown_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Rejected, match=r"'mnist'; known: digits-train \(train\), digits \(test\)"):
        benchmark("mnist")


def test_each_role_has_its_set() -> None:
    assert (training_set("digits-train").images, benchmark("digits").images) == (1257, 540)
