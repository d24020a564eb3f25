"""Every table. Rows grow with shards and classes, never with images; states change only in `lifecycle` and `leases`."""

from datetime import UTC, datetime

from pydantic import JsonValue
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JsonObject = dict[str, JsonValue]
JSON_TYPE = JSON().with_variant(JSONB(), "postgresql")
BIG = BigInteger().with_variant(Integer(), "sqlite")

REAL_SET_ROLES = ("train", "test", "transfer")
JOB_STATES = ("waiting", "queued", "running", "succeeded", "partial", "failed", "cancelled")
TERMINAL = ("succeeded", "partial", "failed", "cancelled")
# A dataset in one of these may still get images.
ACTIVE = ("queued", "running")
SHARD_STATES = ("pending", "leased", "done", "failed", "dormant")


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite drops the time zone; everything is stored and read as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, JsonObject: JSON_TYPE, str: String()}


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(v) for v in values)})", name=f"{column}_known")


class Team(Base):
    """Its limits (null: none) and its place in the fair order between teams, in slots divided by weight."""

    __tablename__ = "teams"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    weight: Mapped[int] = mapped_column(default=1, server_default="1")
    max_live_jobs: Mapped[int | None]
    max_images: Mapped[int | None] = mapped_column(BIG)
    max_leased_shards: Mapped[int | None]
    max_stored_bytes: Mapped[int | None] = mapped_column(BIG)
    # Start and finish tag of the team's last claim (start-time fair queuing; docs/decisions/0007).
    served_from: Mapped[float] = mapped_column(default=0.0, server_default="0")
    served_until: Mapped[float] = mapped_column(default=0.0, server_default="0")


class ApiKey(Base):
    """Only the HMAC of the secret is kept; the prefix finds the row."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"))
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[str]
    name: Mapped[str] = mapped_column(default="", server_default="")
    scopes: Mapped[list[str]] = mapped_column(JSON_TYPE, server_default='["read", "write"]')
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Job(Base):
    """A dataset, training or evaluation; the resource has the same id."""

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("state", JOB_STATES),
        CheckConstraint("done + failed <= total", name="counts_within_total"),
        Index("ix_jobs_team_created", "team_id", "id"),
        Index(
            "ix_jobs_live",
            "kind",
            "state",
            sqlite_where=text("state IN ('waiting', 'queued', 'running')"),
            postgresql_where=text("state IN ('waiting', 'queued', 'running')"),
        ),
        Index(
            "ix_jobs_stale",
            "id",
            sqlite_where=text("is_manifest_stale = 1"),
            postgresql_where=text("is_manifest_stale"),
        ),
        Index(
            "ix_jobs_verifying",
            "verify_asked_at",
            sqlite_where=text("verify_asked_at IS NOT NULL"),
            postgresql_where=text("verify_asked_at IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"))
    state: Mapped[str]
    priority: Mapped[int] = mapped_column(default=0)
    spec: Mapped[JsonObject]
    total: Mapped[int] = mapped_column(BIG, default=0)
    done: Mapped[int] = mapped_column(BIG, default=0)
    failed: Mapped[int] = mapped_column(BIG, default=0)
    rejected: Mapped[int] = mapped_column(BIG, default=0)
    reused: Mapped[int] = mapped_column(BIG, default=0)
    version: Mapped[int] = mapped_column(default=1)
    error: Mapped[JsonObject | None]
    result: Mapped[JsonObject | None]
    checkpoint: Mapped[JsonObject | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    claimed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # A dataset stops softly at these, with equally many images of every class; `stop_reason` says at which.
    deadline: Mapped[datetime | None]
    budget_images: Mapped[int | None] = mapped_column(BIG)
    budget_seconds: Mapped[float | None]
    stop_reason: Mapped[str | None]
    # What the job cost: slots planned that nobody had drawn, images and bytes made for it, seconds of workers.
    planned_images: Mapped[int] = mapped_column(BIG, default=0, server_default="0")
    drawn_images: Mapped[int] = mapped_column(BIG, default=0, server_default="0")
    stored_bytes: Mapped[int] = mapped_column(BIG, default=0, server_default="0")
    spent_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    # When somebody last asked to have every object read again; cleared once that is done.
    verify_asked_at: Mapped[datetime | None]
    # A shard was drawn again after the manifest was written, so it names an object that is gone.
    is_manifest_stale: Mapped[bool] = mapped_column(default=False, server_default=false())


class JobParent(Base):
    __tablename__ = "job_parents"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    parent_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class DatasetClass(Base):
    """One class of one dataset; `position` is the label, `planned` the slots that shard rows cover so far."""

    __tablename__ = "dataset_classes"
    __table_args__ = (Index("ix_dataset_classes_plan", "job_id", "planned", "position"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    class_id: Mapped[str]
    class_key: Mapped[str]
    text: Mapped[JsonObject]
    total: Mapped[int]
    planned: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    rejected: Mapped[int] = mapped_column(default=0)


class Recipe(Base):
    __tablename__ = "recipes"

    digest: Mapped[str] = mapped_column(primary_key=True)
    recipe: Mapped[JsonObject]
    model: Mapped[str]


class Shard(Base):
    """Up to `shard_slots` consecutive slots of one class of one recipe, shared by all datasets that need them."""

    __tablename__ = "shards"
    __table_args__ = (
        UniqueConstraint("recipe_digest", "class_key", "start_slot"),
        one_of("state", SHARD_STATES),
        CheckConstraint("stop_slot > start_slot", name="not_empty"),
        CheckConstraint("state <> 'done' OR object_key IS NOT NULL", name="done_has_object"),
        # In the order in which a recipe's shards are claimed: breadth first.
        Index(
            "ix_shards_pending",
            "recipe_digest",
            "start_slot",
            "id",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_shards_leased",
            "lease_until",
            sqlite_where=text("state = 'leased'"),
            postgresql_where=text("state = 'leased'"),
        ),
        Index(
            "ix_shards_damaged",
            "id",
            sqlite_where=text("damage IS NOT NULL"),
            postgresql_where=text("damage IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest"))
    class_key: Mapped[str]
    start_slot: Mapped[int]
    stop_slot: Mapped[int]
    state: Mapped[str] = mapped_column(default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    object_key: Mapped[str | None]
    size_bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    accepted: Mapped[int | None]
    short_slots: Mapped[list[int]] = mapped_column(JSON_TYPE, default=list)
    rejections: Mapped[JsonObject] = mapped_column(default=dict)
    error: Mapped[str | None]
    done_at: Mapped[datetime | None]
    # The dataset on whose behalf it was claimed last: its team is charged. No foreign key, which SQLite could only
    # add by rebuilding a table that others refer to.
    drawn_for: Mapped[str | None]
    checked_at: Mapped[datetime | None]
    # Why the object of a finished shard had to be drawn again.
    damage: Mapped[str | None]


class DatasetShard(Base):
    """A dataset takes the first `take` slots of a shard that others may use too.

    The counted columns are what this link has added to its class and job, so nothing is counted twice.
    """

    __tablename__ = "dataset_shards"
    __table_args__ = (Index("ix_dataset_shards_shard", "shard_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    shard_id: Mapped[int] = mapped_column(ForeignKey("shards.id"), primary_key=True)
    position: Mapped[int]
    take: Mapped[int]
    counted_done: Mapped[int] = mapped_column(default=0, server_default="0")
    counted_failed: Mapped[int] = mapped_column(default=0, server_default="0")


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job", "job_id", "seq"),)

    seq: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    type: Mapped[str]
    payload: Mapped[JsonObject]
    at: Mapped[datetime]


class Worker(Base):
    """A heartbeat row; `models` are the registered models whose weights this worker has."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    device: Mapped[str]
    models: Mapped[list[str]] = mapped_column(JSON_TYPE, default=list)
    busy: Mapped[bool] = mapped_column(default=False)
    images_per_second: Mapped[float | None]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    rung_at: Mapped[datetime | None]
    # Why a live worker does not work, such as a full disk.
    problem: Mapped[str | None]


class Metric(Base):
    """A point of a training curve."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]


class RealImageSet(Base):
    """A set of real images that an operator registered; `location` is its path on trainers and evaluators.

    A set of role `transfer` has two parts: `class_ids` and `images` are those of the one to fit a classifier on.
    One in the object store has `objects`: the key, size and sha256 of each (shared.realsets.SetObject).
    """

    __tablename__ = "real_sets"
    __table_args__ = (one_of("role", REAL_SET_ROLES),)

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    kind: Mapped[str | None]
    layout: Mapped[str | None]
    location: Mapped[str]
    class_ids: Mapped[list[str]] = mapped_column(JSON_TYPE)
    images: Mapped[int]
    test_images: Mapped[int | None]
    digest: Mapped[str]
    crop_pct: Mapped[float]
    objects: Mapped[list[JsonObject] | None] = mapped_column(JSON_TYPE)
    created_at: Mapped[datetime]


class IdempotencyKey(Base):
    """What was answered to a key, so that the same request gets the same answer."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created", "created_at"),)

    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    body: Mapped[JsonObject]
    created_at: Mapped[datetime]


class Webhook(Base):
    """An address that hears of a team's ended jobs. Its secret is derived from the pepper, so it is stored nowhere."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_team", "team_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"))
    url: Mapped[str]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class WebhookDelivery(Base):
    """The outbox: one row per webhook and ended job, written in the transaction that ends the job."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "job_id", "type"),
        Index(
            "ix_webhook_deliveries_due",
            "next_at",
            sqlite_where=text("delivered_at IS NULL AND failed_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL AND failed_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    type: Mapped[str]
    payload: Mapped[JsonObject]
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
