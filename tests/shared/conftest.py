from pathlib import Path

import pytest

from shared.classes import ClassText, resolve_classes
from shared.lexicon import Lexicon, build_lexicon, load_lexicon
from shared.wordnet import fetch_wordnet

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def wordnet_dir() -> Path:
    return fetch_wordnet(DATA / "wordnet")


@pytest.fixture(scope="session")
def lexicon_path(request: pytest.FixtureRequest) -> Path:
    path = DATA / "lexicon.json"
    if not path.is_file():
        build_lexicon(request.getfixturevalue("wordnet_dir"), path)
    return path


@pytest.fixture(scope="session")
def lexicon(lexicon_path: Path) -> Lexicon:
    return load_lexicon(lexicon_path)


@pytest.fixture(scope="session")
def in1k(lexicon: Lexicon) -> tuple[ClassText, ...]:
    return resolve_classes("in1k", lexicon)
