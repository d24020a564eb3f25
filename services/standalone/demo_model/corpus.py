"""The texts that `digits-sd` learns to read."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from shared.vision.digits import DIGIT_WNIDS

from shared.lexicon import Lexicon
from shared.prompts import places

# Prompt forms with their shares: the strategies that users ask for, then phrases found in custom templates.
FORMS = {
    "{subject}": 30,
    "{subject}, {hypernym}": 20,
    "{subject}, {description}": 25,
    "{subject}, {hypernym} inside {place}": 15,
    "a photo of {subject}": 2,
    "a photo of the digit {subject}": 2,
    "a handwritten {subject}": 2,
    "a handwritten digit {subject}": 2,
    "the number {subject}": 2,
}
HELD_OUT_EVERY = 7


class DigitText(NamedTuple):
    """What WordNet says about one digit."""

    names: tuple[str, ...]
    hypernym: str
    description: str


def digit_texts(lexicon: Lexicon) -> tuple[DigitText, ...]:
    """One text per digit, zero first."""
    entries = [lexicon.entry(wnid) for wnid in DIGIT_WNIDS]
    return tuple(DigitText(entry.names, entry.hypernym, entry.description) for entry in entries)


def held_out_places() -> tuple[str, ...]:
    """Backgrounds that no training prompt names, to check that an unknown one does no harm."""
    return places()[::HELD_OUT_EVERY]


def training_places() -> tuple[str, ...]:
    """All other backgrounds."""
    return tuple(place for index, place in enumerate(places()) if index % HELD_OUT_EVERY)


def random_prompt(text: DigitText, places: Sequence[str], random: Random) -> str:
    """One prompt for the digit: its first name, any name or all names, in one of the forms."""
    subject = random.choice((text.names[0], random.choice(text.names), ", ".join(text.names)))
    form = random.choices(list(FORMS), list(FORMS.values()))[0]
    return form.format(
        subject=subject, hypernym=text.hypernym, description=text.description, place=random.choice(places)
    )


def vocabulary_texts(texts: Sequence[DigitText], places: Sequence[str]) -> Iterator[str]:
    """Every form of every digit and every place once: what the tokenizer's merges are learnt from."""
    for text in texts:
        for form in FORMS:
            subject = ", ".join(text.names)
            yield form.format(subject=subject, hypernym=text.hypernym, description=text.description, place="")
    yield from places
