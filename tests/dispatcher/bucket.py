"""Random rows and objects, of which it is known by construction what refers to what."""

import os
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy.orm import Session

from shared.database import database_now
from shared.ids import job_id
from shared.storage import LocalStore, ObjectStore
from shared.tables import TERMINAL, Job, Shard
from tests.rows import RECIPE, add_dataset

OLD_SECONDS = 1000.0
STATES = ("waiting", "queued", "running", *TERMINAL)
KINDS = {
    "dataset": "datasets",
    "training": "trainings",
    "evaluation": "evaluations",
    "experiment": "experiments",
    "probe": "probes",
}


class Planned(NamedTuple):
    """An object to put, and whether something refers to it or may soon."""

    key: str
    is_kept: bool


def age(store: LocalStore, key: str, *, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.path(key), (then, then))


def put(store: ObjectStore, key: str, *, age_seconds: float = 0.0) -> str:
    store.put(key, b"x" * 10)
    if isinstance(store, LocalStore):
        age(store, key, seconds=age_seconds)
    return key


def image_key(shard: Shard, fence: int) -> str:
    span = f"{shard.start_slot:08d}-{shard.stop_slot:08d}-{fence}"
    return f"images/{shard.recipe_digest}/{shard.class_key}/{span}.tar"


def random_shards(session: Session, chance: random.Random) -> Iterator[Planned]:
    add_dataset(session, images={"a": 1})  # makes the recipe's row
    for number in range(40):
        fence = chance.randint(0, 4)
        state = chance.choice(("pending", "leased", "done", "failed", "dormant")) if fence else "pending"
        shard = Shard(recipe_digest=RECIPE.digest, class_key=f"c{number % 5}-text", state=state, fence=fence)
        shard.start_slot, shard.stop_slot = number * 128, number * 128 + 128
        if state == "done" or chance.random() < 0.2:
            # Any attempt may be the one that counts: a shard whose object was damaged keeps it until it is redrawn.
            shard.object_key = image_key(shard, chance.randint(0, fence))
        session.add(shard)
        for attempt in range(6):
            key = image_key(shard, attempt)
            yield Planned(key, key == shard.object_key or (state == "leased" and attempt == fence))


def random_results(session: Session, chance: random.Random) -> Iterator[Planned]:
    for kind, state in [(kind, state) for kind in KINDS for state in STATES]:
        job = Job(
            id=job_id(kind), kind=kind, team_id="default", state=state, spec={}, total=1, fence=2, result={"images": 3}
        )
        keys = random_keys(job, chance)
        referred = chance.choice(keys)
        name = "checkpoint" if "/checkpoints/" in referred else "result"
        setattr(job, name, {"some_key": referred, "bytes": 1})
        yield from (Planned(key, is_kept(job, key, referred)) for key in keys)
        add(session, job)


def is_kept(job: Job, key: str, referred: str) -> bool:
    is_live = job.state not in TERMINAL
    if key == referred and (is_live or "/checkpoints/" not in key):
        return True
    # A live dataset may still name any manifest; of others only the lease that holds now can write.
    return is_live and (job.kind == "dataset" or "-1." not in key)


def random_keys(job: Job, chance: random.Random) -> list[str]:
    folder = f"{KINDS[job.kind]}/{job.id}"
    if job.kind == "dataset":
        return [f"{folder}/manifest-{chance.randbytes(8).hex()}.json" for _ in range(3)]
    if job.kind == "probe":
        return [f"{folder}/report-{fence}.json" for fence in (1, 2)]
    if job.kind == "experiment":
        return [f"{folder}/{name.format(fence)}" for name in ("report-{}.html", "prompts-{}.svg") for fence in (1, 2)]
    if job.kind == "evaluation":
        names = ("report-{}.json", "report-{}.html", "bars-{}.svg")
        return [f"{folder}/{name.format(fence)}" for name in names for fence in (1, 2)]
    checkpoints = [f"{folder}/checkpoints/{step:08d}-{fence}.safetensors" for step in (10, 20) for fence in (1, 2)]
    ends = ("encoder-{}.safetensors", "encoder-{}.json", "metrics-{}.jsonl")
    return checkpoints + [f"{folder}/{end.format(fence)}" for end in ends for fence in (1, 2)]


def add(session: Session, job: Job) -> None:
    job.created_at = database_now(session)
    session.add(job)


def without_rows(chance: random.Random) -> Iterator[Planned]:
    """Objects of work that this database has never seen, and names that are not ours."""
    yield Planned(f"images/{'0' * 64}/a-text/00000000-00000128-1.tar", is_kept=False)
    yield Planned(f"images/{RECIPE.digest}/c0-text/00099840-00099968-{chance.randint(1, 9)}.tar", is_kept=False)
    for kind, folder in KINDS.items():
        name = {"dataset": "manifest-0123.json", "training": "encoder-1.json"}.get(kind, "report-1.json")
        yield Planned(f"{folder}/{job_id(kind)}/{name}", is_kept=False)
        yield Planned(f"{folder}/real/{name}", is_kept=True)
        yield Planned(f"{folder}/{job_id(kind)}/thumbnails.bin", is_kept=True)
    yield Planned("images/.part-abc123", is_kept=False)
    yield Planned("sweeps/clock-0123456789abcdef", is_kept=False)
    yield Planned("images/readme.txt", is_kept=True)
    yield Planned("backup/images/anything.tar", is_kept=True)
    yield Planned("real/imagenet-val/0000.tar", is_kept=True)
