"""What WordNet says about each noun: one file, built once, that every machine reads the same."""

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from . import seeds
from .errors import ConfigurationError, Rejected

REMEDY = "run `synthclone lexicon build`"


class LexiconEntry(BaseModel):
    """A noun synset: its lemmas, those of its first direct hypernym joined by ", ", and its definition."""

    model_config = ConfigDict(frozen=True)

    wnid: str
    names: tuple[str, ...]
    hypernym: str
    description: str


class Record(NamedTuple):
    """One synset in the file: a single string, because 82,115 strings load five times as fast as lists."""

    names: str
    hypernym: str
    description: str

    @classmethod
    def parse(cls, line: str) -> "Record":
        names, hypernym, description = line.split("\t")
        return cls(names, hypernym, description)


class Lexicon:
    def __init__(self, records: dict[str, str]) -> None:
        self._records = records
        self.digest = seeds.digest(records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, wnid: object) -> bool:
        return wnid in self._records

    def entry(self, wnid: str) -> LexiconEntry:
        if wnid not in self._records:
            raise Rejected(f"unknown WordNet id {wnid!r}; known are WordNet 3.0 nouns such as n02012849")
        record = Record.parse(self._records[wnid])
        hypernym = Record.parse(self._records[record.hypernym]).names if record.hypernym else ""
        names = tuple(record.names.split(", "))
        return LexiconEntry(wnid=wnid, names=names, hypernym=hypernym, description=record.description)


class LexiconFile(BaseModel):
    """`records` maps a WordNet id to "lemmas, joined<tab>id of the hypernym<tab>definition"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    digest: str
    records: dict[str, str]


def load_lexicon(path: Path) -> Lexicon:
    """The lexicon at `path`, read once per process; raises ConfigurationError if it is missing or damaged."""
    return _load(path.resolve())


@lru_cache(maxsize=4)
def _load(path: Path) -> Lexicon:
    try:
        file = LexiconFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"no lexicon at {path}: {REMEDY}") from error
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"the lexicon at {path} cannot be read ({type(error).__name__}): {REMEDY}") from error
    lexicon = Lexicon(file.records)
    if lexicon.digest != file.digest:
        raise ConfigurationError(f"the lexicon at {path} is damaged: its text does not match its digest; {REMEDY}")
    return lexicon


def build_lexicon(wordnet_dir: Path, path: Path) -> Lexicon:
    """Write every noun of WordNet 3.0 to `path`, the same bytes on every machine."""
    # Only building needs NLTK; importing it takes longer than loading the whole lexicon.
    from .wordnet import read_nouns

    records = {
        noun.wnid: "\t".join(Record(", ".join(noun.names), noun.hypernym, noun.description))
        for noun in read_nouns(wordnet_dir)
    }
    lexicon = Lexicon(records)
    file = LexiconFile(source="WordNet 3.0", digest=lexicon.digest, records=records)
    replace_file(path, file.model_dump_json().encode())
    return lexicon


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` so that a crash leaves the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    # Temporary files are private to their owner; services may run as another user.
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
