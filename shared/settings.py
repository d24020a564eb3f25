"""All configuration, read from SYNTHCLONE_* variables; `.env.example` is generated from this class."""

import json
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SHORTEST_PEPPER = 32
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SYNTHCLONE_", env_ignore_empty=True, extra="ignore")

    mode: Literal["standalone", "cluster"] = Field(
        "standalone", description="standalone: SQLite and a folder, workers poll. cluster: PostgreSQL, Redis and S3."
    )
    data_dir: Path = Field(PROJECT_ROOT / "data", description="Standalone: database, objects and caches live here.")
    lexicon_path: Path = Field(
        PROJECT_ROOT / "data/lexicon.json", description="Class texts, written by `synthclone lexicon build`."
    )
    models_dir: Path = Field(PROJECT_ROOT / "models", description="Folder that holds one diffusers folder per model.")
    models_file: Path | None = Field(
        None, description="JSON with more registered models (see shared/data/models.json)."
    )
    default_model: str = Field("digits-sd", description="Model of requests that name none.")

    database_url: str | None = Field(None, description="SQLAlchemy URL; empty: SQLite in data_dir.")
    redis_url: str | None = Field(None, description="Celery broker, only wakes workers up; empty: workers poll.")

    s3_endpoint: str | None = Field(None, description="host:port of the S3 server; empty: a folder in data_dir.")
    s3_public_endpoint: str | None = Field(None, description="host:port that users reach, for presigned links.")
    s3_secure: bool = Field(True, description="Use TLS towards the S3 server.")
    s3_region: str = Field("us-east-1", description="Region that presigned links are signed for.")
    s3_bucket: str = Field("synthclone", description="Bucket for shards, checkpoints, encoders and reports.")
    s3_access_key: str | None = Field(None, description="S3 access key id.")
    s3_secret_key: SecretStr | None = Field(None, description="S3 secret access key.")

    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    auth: Literal["off", "keys"] = Field("off", description="off is allowed only in standalone mode on loopback.")
    key_pepper: SecretStr | None = Field(None, description="Server secret mixed into API key hashes; needed with keys.")

    max_images: int = Field(100_000_000, gt=0, description="Most images in one dataset.")
    max_body_bytes: int = Field(4_194_304, gt=0, description="Largest request body.")
    body_seconds: float = Field(30, gt=0, description="A request body must arrive within this.")
    max_streams: int = Field(2000, gt=0, description="Event streams one API process keeps open at once.")
    requests_per_minute: int = Field(6000, gt=0, description="Of one team, at one API process; beyond: 429.")
    trusted_hosts: tuple[str, ...] = Field(
        (), description="JSON list of host names users may address the API by; empty: any with keys, loopback without."
    )
    webhook_hosts: tuple[str, ...] = Field(
        (), description="JSON list of host names webhooks may go to, '*.example.org' for a domain; empty: webhooks off."
    )
    webhook_hours: float = Field(24, gt=0, description="An event that no attempt could deliver is given up after this.")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where torch sees one.")
    batch_size: int | None = Field(
        None, gt=0, le=1024, description="Images drawn at once by one generating worker; unset: as suits its device."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Compile what draws images; kernels are kept in data_dir. auto: on GPUs."
    )
    fused_kernels: Literal["auto", "off"] = Field(
        "auto", description="auto: where images are drawn compiled on a GPU, try our Triton kernels beside torch's."
    )
    lease_seconds: float = Field(75, gt=0, description="Work of a silent worker is given to another after this.")
    poll_seconds: float = Field(0.5, gt=0, description="Standalone workers look for work this often.")
    tick_seconds: float = Field(1.0, gt=0, description="The dispatcher looks at the database this often.")
    ring_again_seconds: float = Field(60, gt=0, description="An unanswered doorbell is rung again after this.")
    drain_seconds: float = Field(600, gt=0, description="A woken worker goes on claiming for this long.")
    max_attempts: int = Field(5, gt=0, description="A shard or run that was lost this often fails.")
    plan_window: int = Field(512, gt=0, description="Shard rows a job has open ahead of the workers.")
    shard_slots: int = Field(128, gt=0, le=1000, description="Images in one shard.")
    missing_model_seconds: float = Field(30, gt=0, description="A job no live worker has weights for fails after this.")
    watchdog_seconds: float = Field(
        300, gt=0, description="A worker that could not claim for this long while work is pending ends itself."
    )
    upload_seconds: float = Field(
        600, gt=0, description="A drawn shard waits this long for an object store that is away."
    )
    min_free_bytes: int = Field(
        268_435_456, ge=0, description="A worker pauses while its disk has less room than this."
    )
    sweep_seconds: float = Field(
        3600, gt=0, description="The dispatcher looks for objects nothing refers to this often."
    )
    stray_seconds: float = Field(86_400, gt=0, description="An object that nothing refers to is deleted at this age.")
    event_days: float = Field(30, gt=0, description="Progress events of a job are kept this long after its end.")
    idempotency_hours: float = Field(72, gt=0, description="The answer to an Idempotency-Key is kept this long.")
    trainer_nodes: int = Field(1, ge=1, description="Machines that train together; see docs/guides/several-nodes.md.")
    trainer_node_rank: int = Field(0, ge=0, description="Of this machine; 0 claims trainings, the others join it.")
    rendezvous: str | None = Field(None, description="host:port of node 0, open to all nodes while it trains.")
    mlflow_uri: str | None = Field(
        None,
        pattern="^https?://",
        description="MLflow server that shows trainings too: https://user:password@host:port.",
    )
    worker_health_port: int = Field(0, ge=0, le=65535, description="Workers answer /readyz here; 0: they do not.")
    log_format: Literal["console", "json"] = Field("console", description="Format of log lines on stderr.")

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.auth == "off" and (self.mode != "standalone" or self.api_host not in LOOPBACK):
            raise ValueError("auth=off is allowed only with mode=standalone and api_host=127.0.0.1; set auth=keys")
        # Redis and S3 are asked for by the services that use them: none is given what it has no need for.
        if self.mode == "cluster" and not self.database_url:
            raise ValueError("mode=cluster needs database_url")
        if self.trainer_nodes > 1 and self.rendezvous is None:
            raise ValueError(f"trainer_nodes={self.trainer_nodes} needs rendezvous, host:port of node 0")
        if self.trainer_node_rank >= self.trainer_nodes:
            raise ValueError(
                f"trainer_node_rank {self.trainer_node_rank} is not below trainer_nodes {self.trainer_nodes}; "
                "nodes are numbered from 0"
            )
        if self.stray_seconds < 2 * self.lease_seconds:
            raise ValueError(
                f"stray_seconds {self.stray_seconds:g} is less than twice lease_seconds {self.lease_seconds:g}; "
                "objects that a worker is about to commit would be deleted"
            )
        return self

    @cached_property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'synthclone.db'}"

    @property
    def rendezvous_address(self) -> tuple[str, int]:
        """Host and port; raises ConfigurationError where they were not given so."""
        host, _, port = (self.rendezvous or "").rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigurationError(f"rendezvous {self.rendezvous or ''!r} is not host:port, such as trainer-0:29400")
        return host, int(port)

    @property
    def lock_seconds(self) -> float:
        """Who holds leases waits no longer for a lock: a commit that waits keeps its own lease from being extended."""
        return self.lease_seconds / 5

    def required_pepper(self) -> SecretStr:
        """Only who makes or checks keys needs it; raises ConfigurationError where it is missing or short."""
        if self.key_pepper is None or len(self.key_pepper.get_secret_value()) < SHORTEST_PEPPER:
            raise ConfigurationError(
                f"API keys are hashed with SYNTHCLONE_KEY_PEPPER, a random secret of {SHORTEST_PEPPER} characters or "
                "more, which is not set or shorter; the API and everything that makes keys need the same one"
            )
        return self.key_pepper

    @property
    def objects_dir(self) -> Path:
        return self.data_dir / "objects"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"

    @property
    def kernels_dir(self) -> Path:
        return self.data_dir / "kernels"


def env_example() -> str:
    """The text of `.env.example`: every variable with its meaning and default."""
    lines = ["# Generated by `make env-example`; every variable is optional in standalone mode."]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        if isinstance(default, Path):
            default = default.relative_to(PROJECT_ROOT)
        elif isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, tuple):
            default = json.dumps(default)
        lines += ["", f"# {field.description}", f"#SYNTHCLONE_{name.upper()}={default}"]
    return "\n".join(lines) + "\n"
