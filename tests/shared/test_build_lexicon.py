import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_module_writes_the_lexicon_where_the_settings_say(
    wordnet_dir: Path, lexicon_path: Path, tmp_path: Path
) -> None:
    written = tmp_path / "lexicon.json"
    # fetch_wordnet puts its files in corpora/wordnet below <data_dir>/wordnet.
    places = {"SYNTHCLONE_DATA_DIR": str(wordnet_dir.parents[2]), "SYNTHCLONE_LEXICON_PATH": str(written)}
    environment = os.environ | places | {"PYTHONHASHSEED": "1"}  # test_lexicon.py builds with another one
    subprocess.run([sys.executable, "-m", "shared.build_lexicon"], env=environment, check=True)
    assert written.read_bytes() == lexicon_path.read_bytes()
