"""`python -m tests.faults`: every fault once, then one table; exit code 0 only if every promise was shown to hold."""

import argparse
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count, takewhile
from pathlib import Path

from .catalogue import ALONE, LENIENT, STRICT, Trial
from .cluster import MOST_ATTEMPTS, Cluster, cluster
from .run import Row, sweep, table

# More than random faults use up of one shard.
MANY_ATTEMPTS = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults whose name matches this pattern")
    parser.add_argument("--minutes", type=float, default=0, help="instead: random faults for so long")
    options = parser.parse_args()
    # Told to stop, it must leave nothing running: every block that started something ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    rows, problems = soak(options.seed, options.minutes) if options.minutes else each_once(options.seed, options.only)
    sys.stdout.write(f"{table(rows)}\nseed {options.seed}, {time.monotonic() - started:.0f} s\n")
    problems += [f"{row.fault}: {problem}" for row in rows for problem in row.problems]
    sys.stdout.writelines(f"BROKEN {problem}\n" for problem in problems)
    return 1 if problems or any(row.not_shown for row in rows) else 0


def each_once(seed: int, only: str) -> tuple[list[Row], list[str]]:
    """What this machine cannot show is said first and in the table, and is no success."""
    rows, problems = [], []
    reasons = {each.name: each.missing for each in (*STRICT, *LENIENT)}
    reasons |= {each.name: each.missing for each in ALONE}
    why = {name: missing() for name, missing in reasons.items() if re.search(only, name)}
    missing = [tell(empty(name, not_shown=reason)) for name, reason in why.items() if reason]
    chosen = {name for name, reason in why.items() if not reason}
    for trials, ceph, max_attempts in ((STRICT, None, MOST_ATTEMPTS), (LENIENT, False, MANY_ATTEMPTS)):
        if wanted := [trial for trial in trials if trial.name in chosen]:
            found, left = run_on(partial(new_cluster, ceph, max_attempts), wanted, seed)
            rows += found
            problems += left
    rows += [tell(attempt(alone.name, partial(alone.run, seed))) for alone in ALONE if alone.name in chosen]
    return rows + missing, problems


def soak(seed: int, minutes: float) -> tuple[list[Row], list[str]]:
    until = time.monotonic() + 60 * minutes
    (trial,) = (trial for trial in LENIENT if trial.name == "random faults")
    seeds = takewhile(lambda _: time.monotonic() < until, count(seed))
    return run_on(partial(new_cluster, None, MANY_ATTEMPTS), (trial for _ in seeds), seed)


def run_on(
    start: Callable[[], AbstractContextManager[Cluster]], trials: Iterable[Trial], seed: int
) -> tuple[list[Row], list[str]]:
    """The rows so far even if the cluster itself comes to nothing."""
    rows = list[Row]()
    try:
        with start() as parts:
            for number, trial in enumerate(trials):
                rows.append(tell(attempt(trial.name, partial(trial.run, parts, 1000 * seed + number))))
                if rows[-1].problems:
                    keep_logs(parts.orchestrator.logs(), trial.name)
                    parts.heal()
            return rows, sweep(parts)
    except Exception as error:  # noqa: BLE001 - the harness's edge: what was found is worth a table
        return rows, [f"the cluster, after {len(rows)} faults: {text_of(error)}"]


def attempt(name: str, run: Callable[[], Row]) -> Row:
    """Whatever goes wrong, the next one may still say something."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - the harness's edge
        return empty(name, text_of(error))


def empty(name: str, *problems: str, not_shown: str = "") -> Row:
    return Row(name, 0, 0, 0, 0, 0, None, problems, not_shown)


def text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


@contextmanager
def new_cluster(with_radosgw: bool | None, max_attempts: int) -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="synthclone-faults-") as folder,
        cluster(Path(folder), with_radosgw=with_radosgw, max_attempts=max_attempts) as parts,
    ):
        yield parts


def tell(row: Row) -> Row:
    verdict = "; ".join(row.problems) or (f"not shown: {row.not_shown}" if row.not_shown else "holds")
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {row.fault}: {verdict}\n")
    sys.stdout.flush()
    return row


def keep_logs(logs: str, fault: str) -> None:
    place = Path(tempfile.gettempdir()) / f"synthclone-fault-{re.sub(r'[^a-z0-9+]+', '-', fault.lower())}.log"
    place.write_text(logs)
    sys.stdout.write(f"  logs: {place}\n")


if __name__ == "__main__":
    sys.exit(main())
