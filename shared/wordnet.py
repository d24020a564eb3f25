"""WordNet 3.0: where its files come from, and its nouns as NLTK reads them.

NLTK's reader keeps process-wide state: use it from one thread of one process, and do not fork after it.
"""

import logging
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import nltk.data
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from .errors import ConfigurationError

logger = logging.getLogger(__name__)

NOUNS_IN_WORDNET_3_0 = 82_115
DOWNLOAD_TIMEOUT_SECONDS = 120
SYSTEM_FOLDER = Path("usr/share/wordnet")

PARTS_OF_SPEECH = ("adj", "adv", "noun", "verb")
WORDNET_FILES = tuple(f"{kind}.{part}" for kind in ("data", "index") for part in PARTS_OF_SPEECH) + tuple(
    f"{part}.exc" for part in PARTS_OF_SPEECH
)

# As in lexnames(5WN). Debian leaves the file out, and NLTK's reader does not start without it.
LEXICOGRAPHER_FILES = Path(__file__).parent / "data" / "lexnames.txt"

# NLTK drops a gloss's quoted examples but keeps who said them: "...; ; - Henry Miller".
ATTRIBUTION = re.compile(r"\s*(?:;\s*)+-.*$")


class SourceUnavailable(Exception):
    """One place to get WordNet from did not have it; the next one is tried."""


class Noun(NamedTuple):
    """A noun synset; `hypernym` is the id of the direct one with the lowest offset, "" for the root."""

    wnid: str
    names: tuple[str, ...]
    hypernym: str
    description: str


Source = Callable[[Path], Path]
"""Puts WordNet's files somewhere under the given scratch folder, or finds them: returns the folder they are in."""


def nltk_download(scratch: Path) -> Path:
    # A child process: the downloader hangs for minutes behind a silent network, and reports failure as success.
    run([sys.executable, "-m", "nltk.downloader", "-q", "-d", str(scratch), "wordnet"], cwd=scratch)
    archive = scratch / "corpora" / "wordnet.zip"
    if not archive.is_file():
        raise SourceUnavailable("the downloader wrote no archive (no network?)")
    return unpack(archive, scratch)


def unpack(archive: Path, scratch: Path) -> Path:
    """The files of NLTK's archive, whose one folder is named wordnet."""
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(scratch)
    except zipfile.BadZipFile as error:
        raise SourceUnavailable(f"{archive.name} is damaged: {error}") from error
    return scratch / "wordnet"


def system_package(_scratch: Path) -> Path:
    return Path("/") / SYSTEM_FOLDER


def debian_download(scratch: Path) -> Path:
    """The files of Debian's package without installing it, so without root."""
    run(["apt-get", "download", "wordnet-base"], cwd=scratch)
    for package in scratch.glob("wordnet-base*.deb"):
        run(["dpkg-deb", "-x", package.name, "."], cwd=scratch)
    return scratch / SYSTEM_FOLDER


SOURCES: dict[str, Source] = {
    "NLTK's downloader": nltk_download,
    "installed package wordnet-base": system_package,
    "apt-get download wordnet-base": debian_download,
}


def run(command: Sequence[str], *, cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailable(f"no answer in {DOWNLOAD_TIMEOUT_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise SourceUnavailable(error.stderr.strip()[-200:] or f"exit code {error.returncode}") from error
    except FileNotFoundError as error:
        raise SourceUnavailable(f"{command[0]} is not installed") from error


def fetch_wordnet(target_dir: Path, sources: dict[str, Source] = SOURCES) -> Path:
    """WordNet's files under `target_dir` in the layout NLTK wants; the network is asked only when they are missing.

    Raises ConfigurationError that lists every source tried and why it failed.
    """
    corpus = target_dir.resolve() / "corpora" / "wordnet"
    if is_complete(corpus):
        return corpus
    failures = []
    for name, source in sources.items():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                install(source(Path(scratch)), corpus)
            except SourceUnavailable as error:
                failures.append(f"{name}: {error}")
                continue
        logger.info("wordnet fetched", extra={"source": name, "folder": str(corpus)})
        return corpus
    raise ConfigurationError(
        f"no WordNet 3.0 for {corpus}; tried {'; '.join(failures)}. Install the package wordnet-base, "
        f"or unpack NLTK's corpora/wordnet.zip so that {corpus / 'data.noun'} exists"
    )


def is_complete(corpus: Path) -> bool:
    return all((corpus / name).is_file() for name in (*WORDNET_FILES, "lexnames", "index.sense"))


def install(found: Path, corpus: Path) -> None:
    """Copy the database where NLTK accepts it: plain files and folders that no other account can write to."""
    missing = [name for name in WORDNET_FILES if not (found / name).is_file()]
    if missing:
        raise SourceUnavailable(f"missing in {found}: {', '.join(missing)}")
    corpus.mkdir(parents=True, exist_ok=True)
    for name in WORDNET_FILES:
        shutil.copyfile(found / name, corpus / name)
    shutil.copyfile(LEXICOGRAPHER_FILES, corpus / "lexnames")
    # The reader opens the sense index only to map between versions of WordNet; empty means nothing to map.
    (corpus / "index.sense").touch()
    make_private(corpus)


def make_private(corpus: Path) -> None:
    for folder in (corpus, corpus.parent, corpus.parent.parent):
        folder.chmod(0o755)
    for file in corpus.iterdir():
        file.chmod(0o644)


def read_nouns(wordnet_dir: Path) -> list[Noun]:
    """Every noun synset of a folder that `fetch_wordnet` returned, in the order of its offsets.

    Raises ConfigurationError unless the folder holds exactly WordNet 3.0: in other versions ids mean other things.
    """
    check_version(wordnet_dir / "data.noun")
    return [
        Noun(
            wnid=wnid(synset.offset()),
            names=tuple(name.replace("_", " ") for name in synset.lemma_names()),
            # NLTK keeps pointers in a set: without a choice by offset the first one differs between runs.
            hypernym=min((wnid(s.offset()) for s in synset.hypernyms() or synset.instance_hypernyms()), default=""),
            description=clean_definition(synset.definition()),
        )
        for synset in open_reader(wordnet_dir).all_synsets("n")
    ]


def check_version(data_file: Path) -> None:
    try:
        content = data_file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {data_file}: {error}; run `synthclone lexicon build`") from error
    version = re.search(rb"Word[nN]et (\S+) Copyright", content[:2000])
    if version is None or version.group(1) != b"3.0":
        found = version.group(1).decode(errors="replace") if version else "of no known version"
        raise ConfigurationError(f"{data_file} is WordNet {found}; ImageNet's ids are those of WordNet 3.0")
    nouns = len(re.findall(rb"^\d{8} .*\n", content, re.MULTILINE))
    if nouns != NOUNS_IN_WORDNET_3_0:
        raise ConfigurationError(
            f"{data_file} has {nouns} nouns, WordNet 3.0 has {NOUNS_IN_WORDNET_3_0}: "
            f"delete {data_file.parent} and run `synthclone lexicon build`"
        )


def open_reader(wordnet_dir: Path) -> WordNetCorpusReader:
    # NLTK reads only below its search path; the corpus lies two folders below such a root.
    root = str(wordnet_dir.parent.parent)
    if root not in nltk.data.path:
        nltk.data.path.insert(0, root)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions")
        try:
            return WordNetCorpusReader(str(wordnet_dir), omw_reader=None)
        except (OSError, LookupError, ValueError) as error:
            raise ConfigurationError(
                f"NLTK cannot read {wordnet_dir}: {error}; delete the folder and run `synthclone lexicon build`"
            ) from error


def wnid(offset: int) -> str:
    return f"n{offset:08d}"


def clean_definition(definition: str) -> str:
    return " ".join(ATTRIBUTION.sub("", definition).split()).strip(" ;:,")
