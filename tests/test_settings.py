"""Settings that contradict each other are refused with the remedy, and `.env.example` follows the class."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import Settings, env_example

ROOT = Path(__file__).parents[1]
CLUSTER = {
    "mode": "cluster",
    "auth": "keys",
    "key_pepper": "pepper",
    "database_url": "postgresql://database/synthclone",
    "redis_url": "redis://redis",
    "s3_endpoint": "s3.example.org",
    "s3_access_key": "access",
    "s3_secret_key": "secret",
}


def test_env_example_is_what_the_settings_class_says() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_cluster_mode_starts_with_everything_it_needs() -> None:
    assert Settings.model_validate(CLUSTER).sqlalchemy_url == CLUSTER["database_url"]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("auth", "set auth=keys"),
        ("key_pepper", "auth=keys needs key_pepper"),
        ("database_url", "mode=cluster needs database_url"),
        ("redis_url", "mode=cluster needs database_url, redis_url"),
        ("s3_endpoint", "mode=cluster needs database_url, redis_url and s3_endpoint"),
        ("s3_access_key", "s3_endpoint needs s3_access_key"),
        ("s3_secret_key", "s3_endpoint needs s3_access_key and s3_secret_key"),
    ],
)
def test_cluster_mode_names_what_is_missing(missing: str, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Settings.model_validate({name: value for name, value in CLUSTER.items() if name != missing})


def test_an_open_api_beyond_loopback_is_refused() -> None:
    with pytest.raises(ValidationError, match="api_host=127"):
        Settings.model_validate({"auth": "off", "api_host": "0.0.0.0"})


def test_every_setting_is_read_somewhere() -> None:
    sources = [
        path.read_text() for folder in ("shared", "services", "client") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    read = set(re.findall(r"(?:settings|configured)\.([a-z0-9_]+)", "\n".join(sources)))
    # Inside the class itself the fields are read through self.
    read |= set(re.findall(r"\bself\.([a-z0-9_]+)", (ROOT / "shared/settings.py").read_text()))
    assert set(Settings.model_fields) - read == set()
