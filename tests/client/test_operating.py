"""`synthclone keys` and `synthclone teams`, as an operator runs them, and what they change at the API."""

import json
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from client import Client
from client.errors import ApiRefused
from shared.settings import Settings
from tests.client.test_command_line import run
from tests.conftest import ServeApi
from tests.teams import PEPPER

Operate = Callable[..., subprocess.CompletedProcess[str]]


def operating(folder: Path) -> Operate:
    variables = {"SYNTHCLONE_DATA_DIR": str(folder), "SYNTHCLONE_KEY_PEPPER": PEPPER.get_secret_value()}
    assert run("migrate", **variables).returncode == 0
    return lambda *arguments, **others: run(*arguments, **{**variables, **others})


@pytest.fixture
def operate(tmp_path: Path) -> Operate:
    return operating(tmp_path)


@pytest.fixture(scope="module")
def operate_in_vain(tmp_path_factory: pytest.TempPathFactory) -> Operate:
    """For commands that change nothing, on one database."""
    return operating(tmp_path_factory.mktemp("operating"))


@pytest.fixture
def url(serve_api: ServeApi, lexicon_path: Path, tmp_path: Path) -> str:
    settings = Settings(data_dir=tmp_path, lexicon_path=lexicon_path, auth="keys", key_pepper=PEPPER)
    return str(serve_api(settings).base_url)


def rows(operate: Operate, kind: str) -> list[dict[str, str]]:
    return list(json.loads(operate(kind, "list", "--json").stdout))


def test_keys_are_made_for_a_team_with_name_scopes_and_end(operate: Operate) -> None:
    words = ("--team", "vision", "--name", "ci", "--scope", "read", "--expires-in-days", "30")
    made = json.loads(operate("keys", "create", *words, "--json").stdout)
    (row,) = rows(operate, "keys")
    assert (made["team"], made["name"], made["scopes"]) == ("vision", "ci", ["read"])
    assert (row["prefix"], row["team"], row["scopes"]) == (made["key"][3:11], "vision", ["read"])
    lifetime = datetime.fromisoformat(row["expires_at"]) - datetime.fromisoformat(row["created_at"])
    assert lifetime == timedelta(days=30)


def test_listed_keys_show_no_secret(operate: Operate) -> None:
    key = operate("keys", "create").stdout.strip()
    for form in ((), ("--json",)):
        listed = operate("keys", "list", *form).stdout
        assert key[3:11] in listed
        assert key[12:] not in listed


def test_revoked_key_is_refused_by_the_api_at_once(operate: Operate, url: str) -> None:
    key = operate("keys", "create").stdout.strip()
    with Client(url, key) as client:
        assert list(client.jobs.list()) == []
        assert operate("keys", "revoke", key[3:11]).returncode == 0
        with pytest.raises(ApiRefused, match="unknown, expired or revoked"):
            list(client.jobs.list())


def test_rotated_key_works_beside_the_new_one_until_its_grace_is_over(operate: Operate, url: str) -> None:
    old = operate("keys", "create", "--team", "vision").stdout.strip()
    new = operate("keys", "rotate", old[3:11]).stdout.strip()
    newest = operate("keys", "rotate", new[3:11], "--grace-hours", "0").stdout.strip()
    opened = [run("jobs", "--api", url, SYNTHCLONE_API_TOKEN=key).returncode for key in (old, new, newest)]
    assert opened == [0, 3, 0]
    assert {row["team"] for row in rows(operate, "keys")} == {"vision"}


def test_limits_of_a_team_are_set_shown_and_removed(operate: Operate) -> None:
    assert operate("teams", "set", "default", "--weight", "3", "--max-live-jobs", "5").returncode == 0
    (team,) = rows(operate, "teams")
    assert (team["weight"], team["max_live_jobs"], team["max_images"]) == (3, 5, None)
    assert operate("teams", "set", "default", "--max-live-jobs", "none").returncode == 0
    (team,) = rows(operate, "teams")
    assert (team["weight"], team["max_live_jobs"]) == (3, None)


def test_limit_that_is_reached_is_told_at_once_with_its_remedy(operate: Operate, url: str) -> None:
    key = operate("keys", "create").stdout.strip()
    operate("teams", "set", "default", "--max-live-jobs", "0")
    words = ("submit", "--classes", "digits", "--per-class", "1", "--api", url)
    done = run(*words, SYNTHCLONE_API_TOKEN=key)
    assert done.returncode == 3
    assert "of 0 it may have" in done.stderr
    assert "teams set default --max-live-jobs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("keys", "revoke", "0badc0de"), "0badc0de"),
        (("keys", "rotate", "0badc0de"), "0badc0de"),
        (("keys", "create", "--scope", "admin"), "'admin' is unknown; known: read, write"),
        (("keys", "create", "--expires-in-days", "0"), "--expires-in-days 0"),
        (("keys", "create", "--expires-in-days", "nan"), "--expires-in-days nan"),
        (("keys", "create", "--expires-in-days", "1e300"), "--expires-in-days 1e+300"),
        (("keys", "create", "--team", ""), "--team ''"),
        (("teams", "set", "nosuch", "--weight", "2"), "no team 'nosuch'; known: default"),
        (("teams", "set", "default"), "nothing is to be changed"),
        (("teams", "set", "default", "--weight", "0"), "--weight '0' is no whole number from 1 to 1000"),
        (("teams", "set", "default", "--weight", "none"), "--weight 'none'"),
        (("teams", "set", "default", "--max-live-jobs", "-1"), "--max-live-jobs '-1'"),
        (("teams", "set", "default", "--max-leased-shards", "4294967296"), "from 0 to 2147483647, or none"),
        (("teams", "set", "default", "--max-stored-bytes", "1.5"), "--max-stored-bytes '1.5'"),
    ],
)
def test_value_at_fault_is_named_with_exit_code_3(
    operate_in_vain: Operate, arguments: tuple[str, ...], named: str
) -> None:
    done = operate_in_vain(*arguments)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_are_not_made_without_the_pepper(operate_in_vain: Operate) -> None:
    done = operate_in_vain("keys", "create", SYNTHCLONE_KEY_PEPPER="")
    assert done.returncode == 78
    assert "SYNTHCLONE_KEY_PEPPER" in done.stderr


def test_database_that_was_never_migrated_is_said(tmp_path: Path) -> None:
    done = run("teams", "list", SYNTHCLONE_DATA_DIR=str(tmp_path))
    assert done.returncode == 78
    assert "synthclone migrate" in done.stderr


def test_usage_is_shown_by_kind_with_the_limits(operate: Operate, url: str) -> None:
    key = operate("keys", "create").stdout.strip()
    operate("teams", "set", "default", "--max-live-jobs", "5")
    token = {"SYNTHCLONE_API_TOKEN": key}
    assert run("submit", "--classes", "digits", "--per-class", "1", "--api", url, **token).returncode == 0
    shown = run("usage", "--api", url, **token)
    assert [line.split()[:3] for line in shown.stdout.splitlines()[1:]] == [
        ["dataset", "1", "0"],
        ["training", "0", "0"],
        ["evaluation", "0", "0"],
        ["experiment", "0", "0"],
        ["probe", "0", "0"],
    ]
    assert "live jobs 1 of 5" in shown.stderr
    old = json.loads(
        run("usage", "--since", "2025-01-01", "--until", "2025-01-31", "--json", "--api", url, **token).stdout
    )
    assert (old["dataset"]["jobs"], old["until"]) == (0, "2025-01-31")
