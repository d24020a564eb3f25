"""Settings that contradict each other are refused with the remedy, and `.env.example` follows the class."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import ConfigurationError
from shared.models import load_entries
from shared.queue import celery_app
from shared.settings import Settings, env_example
from shared.storage import open_store

ROOT = Path(__file__).parents[1]
CLUSTER = {
    "mode": "cluster",
    "auth": "keys",
    "database_url": "postgresql://database/synthclone",
    "redis_url": "redis://redis",
    "s3_endpoint": "s3.example.org",
    "s3_access_key": "access",
    "s3_secret_key": "secret",
}


def test_env_example_is_what_the_settings_class_says() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_cluster_mode_starts_with_everything_it_needs_which_is_no_pepper() -> None:
    assert Settings.model_validate(CLUSTER).sqlalchemy_url == CLUSTER["database_url"]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("auth", "set auth=keys"),
        ("database_url", "mode=cluster needs database_url"),
    ],
)
def test_cluster_mode_names_what_is_missing(missing: str, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Settings.model_validate({name: value for name, value in CLUSTER.items() if name != missing})


@pytest.mark.parametrize(
    ("missing", "needs"),
    [
        ("redis_url", celery_app),
        ("s3_endpoint", open_store),
        ("s3_access_key", open_store),
        ("s3_secret_key", open_store),
    ],
)
def test_who_uses_redis_or_s3_in_a_cluster_says_what_is_missing(
    missing: str, needs: Callable[[Settings], object]
) -> None:
    settings = Settings.model_validate({name: value for name, value in CLUSTER.items() if name != missing})
    with pytest.raises(ConfigurationError, match=f"SYNTHCLONE_{missing.upper()}"):
        needs(settings)


def test_an_open_api_beyond_loopback_is_refused() -> None:
    with pytest.raises(ValidationError, match="api_host=127"):
        Settings.model_validate({"auth": "off", "api_host": "0.0.0.0"})


def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCH_SIZE", "MODELS_FILE", "DEFAULT_MODEL", "WEBHOOK_HOSTS"):
        monkeypatch.setenv(f"SYNTHCLONE_{name}", "")
    settings = Settings()
    found = (settings.batch_size, settings.models_file, settings.default_model, settings.webhook_hosts)
    assert found == (None, None, "digits-sd", ())


@pytest.mark.parametrize("name", ["", "none.json"])
def test_a_models_file_that_is_a_folder_or_missing_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigurationError, match=re.escape(f"SYNTHCLONE_MODELS_FILE names {path}, which is no file")):
        load_entries(path)


def test_every_setting_is_read_somewhere() -> None:
    sources = [
        path.read_text() for folder in ("shared", "services", "client") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    read = set(re.findall(r"(?:settings|configured)\.([a-z0-9_]+)", "\n".join(sources)))
    # Inside the class itself the fields are read through self.
    read |= set(re.findall(r"\bself\.([a-z0-9_]+)", (ROOT / "shared/settings.py").read_text()))
    assert set(Settings.model_fields) - read == set()
