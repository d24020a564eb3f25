import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, Rejected
from shared.lexicon import Lexicon, load_lexicon

BUILD = """
import sys, pathlib
from shared.lexicon import build_lexicon
build_lexicon(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_lexicon_is_the_same_bytes_under_every_hash_seed(tmp_path: Path, wordnet_dir: Path, lexicon_path: Path) -> None:
    """Both this build and that of test_build_lexicon.py, under another seed, equal the file that is there."""
    path = tmp_path / "lexicon.json"
    environment = {**os.environ, "PYTHONHASHSEED": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", BUILD, str(wordnet_dir), str(path)], env=environment, check=True)
    assert path.read_bytes() == lexicon_path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_lexicon_holds_every_noun_of_wordnet_3_0(lexicon: Lexicon) -> None:
    assert len(lexicon) == 82_115


def test_entry_has_names_hypernym_and_definition(lexicon: Lexicon) -> None:
    entry = lexicon.entry("n03947888")

    assert entry.names == ("pirate", "pirate ship")
    assert entry.hypernym == "ship"
    assert entry.description == "a ship that is manned by pirates"


def test_zero_is_the_digit_and_not_nothing(lexicon: Lexicon) -> None:
    entry = lexicon.entry("n13742358")

    assert entry.hypernym == "digit, figure"
    assert entry.description == "a mathematical element that when added to another number yields the same number"


def test_two_classes_are_named_crane(lexicon: Lexicon) -> None:
    bird, machine = lexicon.entry("n02012849"), lexicon.entry("n03126707")

    assert bird.names == machine.names == ("crane",)
    assert (bird.hypernym, machine.hypernym) == ("wading bird, wader", "lifting device")


def test_first_of_several_hypernyms_is_the_one_with_the_lowest_offset(lexicon: Lexicon) -> None:
    # An accordion is also a keyboard instrument, n03614532.
    assert lexicon.entry("n02672831").hypernym == lexicon.entry("n03393324").names[0] == "free-reed instrument"


def test_instances_take_the_hypernym_they_are_instances_of(lexicon: Lexicon) -> None:
    # Einstein: no hypernym, only an instance hypernym.
    assert lexicon.entry("n10954498").hypernym == "physicist"


def test_only_the_root_has_no_hypernym(lexicon: Lexicon) -> None:
    assert lexicon.entry("n00001740").names == ("entity",)
    assert lexicon.entry("n00001740").hypernym == ""


@pytest.mark.parametrize("wnid", ["n00000000", "n2012849", "crane", "", "v01835496"])
def test_unknown_id_is_rejected_by_name(lexicon: Lexicon, wnid: str) -> None:
    assert wnid not in lexicon
    with pytest.raises(Rejected, match=f"unknown WordNet id '{wnid}'"):
        lexicon.entry(wnid)


def test_lexicon_is_loaded_once_per_path(lexicon_path: Path, lexicon: Lexicon) -> None:
    detour = lexicon_path.parent / ".." / lexicon_path.parent.name / lexicon_path.name

    assert load_lexicon(detour) is lexicon


def test_missing_lexicon_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.json: run `synthclone lexicon build`"):
        load_lexicon(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"source": "WordNet 3.0", "digest": "0'])
def test_unreadable_lexicon_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lexicon.json").write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"cannot be read .* run `synthclone lexicon build`"):
        load_lexicon(tmp_path / "lexicon.json")


def test_changed_text_is_found_by_the_digest(tmp_path: Path, lexicon_path: Path) -> None:
    changed = lexicon_path.read_bytes().replace(b"manned by pirates", b"manned by privates")
    (tmp_path / "lexicon.json").write_bytes(changed)

    with pytest.raises(ConfigurationError, match="does not match its digest"):
        load_lexicon(tmp_path / "lexicon.json")
