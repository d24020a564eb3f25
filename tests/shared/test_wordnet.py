import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from shared.classes import class_lists
from shared.errors import ConfigurationError
from shared.wordnet import (
    WORDNET_FILES,
    SourceUnavailable,
    clean_definition,
    fetch_wordnet,
    open_reader,
    read_nouns,
    run,
    unpack,
)


def refuse(_scratch: Path) -> Path:
    raise SourceUnavailable("switched off")


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """A folder as a package might leave it: every file, open to the group, no lexnames."""
    folder = tmp_path / "found"
    folder.mkdir()
    for name in WORDNET_FILES:
        (folder / name).write_text(f"{name}\n")
        (folder / name).chmod(0o664)
    return folder


def test_fetched_files_are_private_plain_files(tmp_path: Path, found: Path) -> None:
    (found / "data.noun").rename(found / "elsewhere")
    (found / "data.noun").symlink_to(found / "elsewhere")

    corpus = fetch_wordnet(tmp_path / "target", {"folder": lambda _: found})

    modes = [path.lstat().st_mode for path in [corpus.parent.parent, corpus.parent, corpus, *corpus.iterdir()]]
    assert not [oct(mode) for mode in modes if mode & 0o022 or stat.S_ISLNK(mode)]


def test_fetch_asks_no_source_when_the_files_are_there(tmp_path: Path, found: Path) -> None:
    first = fetch_wordnet(tmp_path / "target", {"folder": lambda _: found})

    assert fetch_wordnet(tmp_path / "target", {"network": refuse}) == first


def test_fetch_goes_on_to_the_next_source(tmp_path: Path, found: Path) -> None:
    corpus = fetch_wordnet(tmp_path / "target", {"network": refuse, "folder": lambda _: found})

    assert (corpus / "data.noun").read_text() == "data.noun\n"
    assert len((corpus / "lexnames").read_text().splitlines()) == 45


def test_failed_fetch_names_every_source_and_the_remedy(tmp_path: Path, found: Path) -> None:
    (found / "index.verb").unlink()

    with pytest.raises(ConfigurationError) as caught:
        fetch_wordnet(tmp_path / "target", {"network": refuse, "folder": lambda _: found})

    assert "network: switched off" in caught.value.detail
    assert f"folder: missing in {found}: index.verb" in caught.value.detail
    assert "Install the package wordnet-base" in caught.value.detail


def test_archive_of_nltk_is_unpacked(tmp_path: Path, found: Path) -> None:
    archive = tmp_path / "wordnet.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in WORDNET_FILES:
            file.write(found / name, f"wordnet/{name}")

    assert (unpack(archive, tmp_path) / "data.noun").read_text() == "data.noun\n"


def test_damaged_archive_is_an_unavailable_source(tmp_path: Path) -> None:
    archive = tmp_path / "wordnet.zip"
    archive.write_bytes(b"half a down")

    with pytest.raises(SourceUnavailable, match=r"wordnet\.zip is damaged"):
        unpack(archive, tmp_path)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["no-such-program"], "no-such-program is not installed"),
        (["sh", "-c", "echo no route >&2; exit 100"], "no route"),
        (["false"], "exit code 1"),
    ],
)
def test_failing_command_is_an_unavailable_source(tmp_path: Path, command: list[str], reason: str) -> None:
    with pytest.raises(SourceUnavailable, match=reason):
        run(command, cwd=tmp_path)


def test_38_classes_of_in1k_have_several_hypernyms(wordnet_dir: Path) -> None:
    reader = open_reader(wordnet_dir)
    wnids = class_lists()[0].wnids

    counts = [len(reader.synset_from_pos_and_offset("n", int(wnid[1:])).hypernyms()) for wnid in wnids]

    assert sum(count > 1 for count in counts) == 38
    assert min(counts) == 1


def test_other_versions_of_wordnet_are_refused(tmp_path: Path, wordnet_dir: Path) -> None:
    shutil.copytree(wordnet_dir, tmp_path / "wordnet")
    data = (wordnet_dir / "data.noun").read_bytes()
    (tmp_path / "wordnet/data.noun").write_bytes(data.replace(b"WordNet 3.0 ", b"WordNet 3.1 ", 1))

    with pytest.raises(ConfigurationError, match=r"is WordNet 3\.1; .* WordNet 3\.0"):
        read_nouns(tmp_path / "wordnet")


def test_cut_data_file_is_refused(tmp_path: Path, wordnet_dir: Path) -> None:
    shutil.copytree(wordnet_dir, tmp_path / "wordnet")
    (tmp_path / "wordnet/data.noun").write_bytes((wordnet_dir / "data.noun").read_bytes()[:1_000_000])

    with pytest.raises(ConfigurationError, match=r"has \d+ nouns, WordNet 3\.0 has 82115"):
        read_nouns(tmp_path / "wordnet")


def test_missing_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="synthclone lexicon build"):
        read_nouns(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("definition", "cleaned"),
    [
        ("complete change in character or condition; - Henry Miller", "complete change in character or condition"),
        ("the world of the dead; ; --Theognis; -Bible", "the world of the dead"),
        ("female of domestic cattle:", "female of domestic cattle"),
        ("something unusual -- perhaps worthy of collecting", "something unusual -- perhaps worthy of collecting"),
        ("a sum;  a product", "a sum; a product"),
    ],
)
def test_definitions_lose_what_is_left_of_examples(definition: str, cleaned: str) -> None:
    assert clean_definition(definition) == cleaned
