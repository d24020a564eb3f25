from shared.vision import digits

import pytest

from shared.database import Database
from shared.errors import Rejected
from shared.realsets import benchmark, built_in_sets, registered_sets, training_set


@pytest.mark.parametrize(("name", "split"), [("digits-train", digits.train_digits()), ("digits", digits.test_digits())])
def test_the_register_agrees_with_the_pixels(name: str, split: digits.DigitsSplit) -> None:
    known = next(each for each in built_in_sets() if each.name == name)
    assert known.images == len(split.images)
    assert known.class_ids == digits.DIGIT_WNIDS


def test_a_test_set_cannot_be_trained_on(database: Database) -> None:
    with (
        database.read() as session,
        pytest.raises(Rejected, match="digits is registered as a test set and cannot be trained on"),
    ):
        training_set(session, "digits")


def test_a_training_set_cannot_be_tested_on(database: Database) -> None:
    with (
        database.read() as session,
        pytest.raises(Rejected, match="digits-train is registered as a training set and cannot be tested on"),
    ):
        benchmark(session, "digits-train")


def test_an_unknown_set_is_answered_with_the_known_ones(database: Database) -> None:
    with (
        database.read() as session,
        pytest.raises(Rejected, match=r"'mnist'; known: digits-train \(train\), digits \(test\)"),
    ):
        benchmark(session, "mnist")


def test_each_role_has_its_set(database: Database) -> None:
    with database.read() as session:
        assert set(registered_sets(session)) == {"digits-train", "digits"}
        assert (training_set(session, "digits-train").images, benchmark(session, "digits").images) == (1257, 540)
