"""`synthclone testsets add`, as an operator runs it on a set that takes long to read."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import update

from shared.database import Database
from shared.realsets import benchmark
from shared.schema import upgrade
from shared.settings import Settings
from shared.tables import Team
from tests.client.test_command_line import clean_environment, run
from tests.conftest import ServeApi
from tests.shared.real.layouts import small_images, write_csv, write_webdataset


def test_others_write_to_the_database_while_a_set_is_read(tmp_path: Path) -> None:
    database = Database(Settings(data_dir=tmp_path).sqlalchemy_url)
    upgrade(database)
    root = write_csv(tmp_path / "photos", small_images())
    table = root / "labels.csv"
    content = table.read_text()
    table.unlink()
    os.mkfifo(table)  # whoever reads it waits for what is written below
    command = [sys.executable, "-m", "client.main", "testsets", "add", "photos", str(root)]
    adding = subprocess.Popen(
        [*command, "--role", "test", "--layout", "csv"], env=clean_environment(SYNTHCLONE_DATA_DIR=str(tmp_path))
    )
    try:
        with table.open("w") as pipe:  # opens once the command reads
            with database.write() as session:  # SQLite has one writer: this would wait for the command's transaction
                session.execute(update(Team).values(weight=2))
            pipe.write(content)
        assert adding.wait(60) == 0
    finally:
        adding.kill()
        adding.wait(10)
    with database.read() as session:
        assert benchmark(session, "photos").images == 40


def test_shards_in_the_object_store_are_registered_by_their_address(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    upgrade(Database(settings.sqlalchemy_url))
    write_webdataset(settings.objects_dir / "real/photos", small_images())
    place = {"SYNTHCLONE_DATA_DIR": str(tmp_path)}
    command = ("testsets", "add", "photos", "s3://synthclone/real/photos", "--role", "test")
    done = run(*command, "--layout", "webdataset", **place)
    assert done.stderr.strip() == "photos is registered as a test set: 40 images of 10 classes"
    (row,) = [line.split() for line in run("testsets", "list", **place).stdout.splitlines() if "photos" in line]
    assert row == ["photos", "test", "-", "10", "40", "s3://synthclone/real/photos/"]


def test_who_cannot_see_the_database_asks_the_api(serve_api: ServeApi, lexicon_path: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, lexicon_path=lexicon_path)
    upgrade(Database(settings.sqlalchemy_url))
    url = str(serve_api(settings).base_url)
    shown = run("testsets", "list", "--remote", "--api", url, SYNTHCLONE_DATABASE_URL="sqlite:////nowhere/x.db")
    assert [line.split() for line in shown.stdout.splitlines()[1:]] == [
        ["digits-train", "train", "-", "10", "1257"],
        ["digits", "test", "-", "10", "540"],
    ]
    as_json = run("testsets", "list", "--remote", "--json", "--api", url)
    assert [known["name"] for known in json.loads(as_json.stdout)] == ["digits-train", "digits"]
