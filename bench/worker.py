"""How much of a device's rate is left once claims, gate, JPEG, tar, a verified upload and commits are added.

`python -m bench.worker` needs a PostgreSQL server that `createdb` reaches, and Ceph's gateway for S3 (Debian packages;
moto's server where they are missing). The device is a null generator: it draws nothing, and a batch of 32 ready images
of 512 x 512 is done so many seconds after the one before it. The bare rate is that of a loop that starts and waits.
A GPU takes no more than about a thousand kernels ahead, a twentieth of a batch of 50 steps, and holds up the host that
launches more; two cases do so, too: the worker then has that twentieth of a batch for everything but drawing.
`whole` counts from the worker's first claim to its last commit, `steady` from its first batch's start to the last
one's end: there the device alone can be the limit, and the last upload does not count.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select

from services.dispatcher.tick import tick
from services.prompt_api.accept import insert_dataset, plan_dataset
from services.sd_worker.batches import MOST_DRAWING
from services.sd_worker.drawn import Drawn
from services.sd_worker.encoding import encode_jpeg
from services.sd_worker.machine import Machine
from services.sd_worker.worker import ShardWorker
from shared.database import Database
from shared.lexicon import load_lexicon
from shared.migrate import migrate
from shared.schema import DEFAULT_TEAM
from shared.settings import Settings
from shared.specs import JPEG_QUALITY, DatasetRequest, Recipe
from shared.storage import open_store
from shared.tables import Job
from tests.s3_servers import has_radosgw, moto, radosgw, s3_settings

from .accept_in1k import temporary_database
from .machine import write_result

BATCH = 32
SIDE = 512
POOL = 2 * BATCH
PACKAGES = ("pillow", "numpy", "sqlalchemy", "psycopg", "minio")


class Case(NamedTuple):
    """`rate` in images per second; `least` is the share of it that the whole worker must keep; of `ahead` batches, no
    more are left to be drawn when a start returns."""

    rate: float
    images: int
    bare_batches: int
    least: float
    ahead: float = MOST_DRAWING


WARM_UP = Case(1000, 640, 0, 0)
AHEAD = 0.05
CASES = (
    Case(7, 480, 3, 0.99),
    Case(50, 1600, 8, 0.97),
    Case(200, 6400, 32, 0.90),
    Case(7, 480, 3, 0.99, AHEAD),
    Case(50, 1600, 8, 0.97, AHEAD),
)


def photos(count: int) -> NDArray[np.uint8]:
    """(count, SIDE, SIDE, 3): noise at every scale, the coarser the stronger: as many bytes of JPEG as a photo has."""
    generator = np.random.default_rng(0)
    images = np.full((count, SIDE, SIDE, 3), 128.0, np.float32)
    for image in images:
        for side in (4, 16, 64, 256, SIDE):
            for channel in range(3):
                noise = Image.fromarray(generator.normal(size=(side, side)).astype(np.float32))
                image[..., channel] += (
                    110 / side**0.6 * np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
                )
    return images.clip(0, 255).astype(np.uint8)


class NullDevice:
    """Keeps when its first batch was started and when its last one was taken."""

    def __init__(self, case: Case, pool: NDArray[np.uint8]) -> None:
        self.rate, self.ahead, self.pool = case.rate, case.ahead, pool
        self.began: float | None = None
        self.ended = self.free_at = 0.0
        self.batches = 0

    def make(self, folder: Path, machine: Machine) -> Self:
        return self

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> "NullBatch":
        now = time.perf_counter()
        self.began = self.began or now
        self.free_at = max(now, self.free_at) + len(prompts) / self.rate
        first = self.batches * BATCH % POOL
        self.batches += 1
        time.sleep(max(0.0, self.free_at - self.ahead * BATCH / self.rate - time.perf_counter()))
        return NullBatch(self, self.free_at, self.pool[first : first + len(prompts)])

    @property
    def seconds(self) -> float:
        return self.ended - (self.began or 0.0)


class NullBatch(NamedTuple):
    device: NullDevice
    done_at: float
    pixels: NDArray[np.uint8]

    @property
    def is_ready(self) -> bool:
        return time.perf_counter() >= self.done_at

    def wait(self) -> Drawn:
        time.sleep(max(0.0, self.done_at - time.perf_counter()))
        self.device.ended = time.perf_counter()
        return Drawn(self.pixels, np.ones(len(self.pixels), bool))


class Measured(NamedTuple):
    """Rates in images per second."""

    bare: float
    whole: float
    steady: float
    cpu_milliseconds: float


def bare_rate(device: NullDevice, recipe: Recipe, batches: int) -> float:
    """Of a loop that starts a batch before it waits for the last one."""
    under_way = deque([device.start([""] * BATCH, range(BATCH), recipe)])
    for _ in range(batches - 1):
        under_way.append(device.start([""] * BATCH, range(BATCH), recipe))
        under_way.popleft().wait()
    under_way.popleft().wait()
    return batches * BATCH / device.seconds


def add_dataset(settings: Settings, images: int, seed: int) -> tuple[str, Recipe]:
    """Of 10 classes; a new seed is a new recipe, so nothing is reused."""
    request = DatasetRequest.model_validate(
        {"classes": "digits", "prompt": "description", "seed": seed, "width": SIDE, "height": SIDE}
        | {"images_per_class": images // 10}
    )
    plan = plan_dataset(request, settings, load_lexicon(settings.lexicon_path))
    database = Database(settings.sqlalchemy_url)
    with database.write() as session:
        job = insert_dataset(session, plan, DEFAULT_TEAM)
    tick(database, open_store(settings), settings, absent={})
    database.engine.dispose()
    return job.id, plan.spec.recipe


def measure(settings: Settings, case: Case, pool: NDArray[np.uint8], *, seed: int) -> Measured:
    job_id, recipe = add_dataset(settings, case.images, seed)
    bare = bare_rate(NullDevice(case, pool), recipe, case.bare_batches) if case.bare_batches else case.rate
    device = NullDevice(case, pool)
    worker = ShardWorker(settings, make_generator=device.make)
    started, cpu = time.perf_counter(), time.process_time()
    assert worker.work(threading.Event())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    worker.close()
    with worker.database.read() as session:
        assert session.scalar(select(Job.drawn_images).where(Job.id == job_id)) == case.images
    worker.database.engine.dispose()
    return Measured(bare, case.images / seconds, case.images / device.seconds, 1000 * cpu / case.images)


@contextmanager
def place() -> Iterator[Settings]:
    """A database and a bucket of their own."""
    with tempfile.TemporaryDirectory() as folder, temporary_database() as url, s3_server(Path(folder)) as address:
        settings = s3_settings(address, database_url=url, data_dir=Path(folder) / "data", batch_size=BATCH)
        migrate(settings)
        yield settings


def s3_server(folder: Path) -> AbstractContextManager[str]:
    return radosgw(folder) if has_radosgw() else moto()


def main() -> None:
    pool = photos(POOL)
    kilobytes = statistics.mean(len(encode_jpeg(Image.fromarray(image), JPEG_QUALITY)) for image in pool) / 1000
    with place() as settings:
        measure(settings, WARM_UP, pool, seed=0)
        rows = [(case, measure(settings, case, pool, seed=seed)) for seed, case in enumerate(CASES, start=1)]
    print(f"batches of {BATCH}, {SIDE} x {SIDE} images of {kilobytes:.0f} KB as JPEG")
    print(f"{'ahead':>6}{'bare':>8}{'whole':>9}{'steady':>9}  whole/bare  steady/bare  CPU ms an image")
    for case, found in rows:
        print(
            f"{case.ahead:6.2f}{found.bare:8.2f}{found.whole:9.2f}{found.steady:9.2f}{found.whole / found.bare:12.3f}"
            f"{found.steady / found.bare:13.3f}{found.cpu_milliseconds:17.2f}   (at least {case.least})"
        )
    facts = {
        "batch": BATCH,
        "side": SIDE,
        "jpeg_kilobytes": round(kilobytes),
        "s3_server": "radosgw" if has_radosgw() else "moto",
        "cases": [
            {
                "rate": case.rate,
                "images": case.images,
                "ahead": case.ahead,
                **{name: round(value, 3) for name, value in found._asdict().items()},
                "efficiency": round(found.whole / found.bare, 4),
                "steady_efficiency": round(found.steady / found.bare, 4),
                "least": case.least,
            }
            for case, found in rows
        ],
    }
    write_result("worker", facts, PACKAGES)
    if any(found.whole / found.bare < case.least for case, found in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
