"""Shares between teams, simulated: workers take turns as their shards end, on real rows with the real statements."""

import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from sqlalchemy import func, insert, select, update

from shared import leases
from shared.database import Database
from shared.ids import job_id
from shared.job_leases import claim_job
from shared.tables import DatasetClass, DatasetShard, Job, Recipe, Shard, Team
from tests.rows import RECIPE, add_dataset, add_job, add_team, claim, commit, planned_dataset, stored
from tests.tables import Line, Report

WEIGHTS = {"one": 1, "two": 2, "five": 5}
HEAD = ("team", "weight", "due", "got", "longest wait", "of claims")


def add_queue(database: Database, team: str, *, shards: int, slots: int = 128, priority: int = 0) -> str:
    """A dataset of one class whose shards all wait, written in bulk."""
    class_id = job_id("dataset")
    with database.write() as session:
        job = add_dataset(session, images={class_id: shards * slots}, team=team, priority=priority)
        rows = [
            Shard(
                recipe_digest=RECIPE.digest,
                class_key=class_id,
                start_slot=number * slots,
                stop_slot=(number + 1) * slots,
                state="pending",
            )
            for number in range(shards)
        ]
        session.add_all(rows)
        session.flush()
        links = [{"job_id": job.id, "shard_id": row.id, "position": 0, "take": slots} for row in rows]
        session.execute(insert(DatasetShard), links)
        session.execute(update(DatasetClass).where(DatasetClass.job_id == job.id).values(planned=DatasetClass.total))
    return job.id


class Simulation:
    """Workers with random shard durations; `served` lists the team and slots of each claim in order."""

    def __init__(self, database: Database, *, workers: int, seed: int = 1) -> None:
        self.database = database
        self.random = random.Random(seed)
        self.free_at = [(self.random.random(), worker) for worker in range(workers)]
        self.served: list[tuple[str, int]] = []
        heapq.heapify(self.free_at)
        with database.read() as session:
            self.teams = dict(session.execute(select(Job.id, Job.team_id)).all())

    def run(self, claims: int) -> None:
        for _ in range(claims):
            now, worker = heapq.heappop(self.free_at)
            with self.database.write() as session:
                claimed = leases.claim_shards(
                    session, worker=str(worker), models=["digits-sd"], limit=self.random.randint(1, 2), lease_seconds=60
                )
                for lease in claimed:
                    leases.commit(session, lease, stored(lease))
                if claimed:
                    team = session.scalars(
                        select(Job.team_id)
                        .join(DatasetShard, DatasetShard.job_id == Job.id)
                        .where(DatasetShard.shard_id == claimed[0].shard_id)
                    ).one()
                    self.served.append((team, sum(lease.stop_slot - lease.start_slot for lease in claimed)))
            heapq.heappush(self.free_at, (now + self.random.expovariate(1) * max(len(claimed), 1), worker))


def shares(served: Iterable[tuple[str, int]]) -> dict[str, float]:
    slots: Counter[str] = Counter()
    for team, number in served:
        slots[team] += number
    return {team: number / slots.total() for team, number in slots.items()}


def longest_wait(served: Sequence[tuple[str, int]], team: str) -> int:
    """Most claims in a row that went to others."""
    turns = [-1, *(index for index, (name, _) in enumerate(served) if name == team), len(served)]
    return max(after - before - 1 for before, after in pairwise(turns))


def title(what: str, database: Database) -> str:
    return f"shares on {database.engine.name}: {what}"


def shown(served: Sequence[tuple[str, int]], weights: dict[str, int]) -> list[Line]:
    found, total = shares(served), sum(weights.values())
    return [
        (team, weight, f"{weight / total:.1%}", f"{found.get(team, 0):.1%}", longest_wait(served, team), len(served))
        for team, weight in weights.items()
    ]


def assert_fair(served: Sequence[tuple[str, int]], weights: dict[str, int]) -> None:
    found, total = shares(served), sum(weights.values())
    assert found == {team: pytest.approx(weight / total, rel=0.05) for team, weight in weights.items()}


@pytest.fixture
def weighted(database: Database) -> Database:
    with database.write() as session:
        for team, weight in WEIGHTS.items():
            add_team(session, team, weight=weight)
    return database


def test_busy_teams_share_by_weight_and_none_waits_long(weighted: Database, report: Report) -> None:
    for team in WEIGHTS:
        add_queue(weighted, team, shards=600, slots=128 if team == "five" else 32 * len(team) // 3)
    simulation = Simulation(weighted, workers=7)
    simulation.run(400)
    report(title("three busy teams", weighted), HEAD, shown(simulation.served, WEIGHTS))
    assert_fair(simulation.served, WEIGHTS)
    assert max(longest_wait(simulation.served, team) for team in WEIGHTS) <= 10


def test_a_team_that_comes_late_gets_its_share_from_then_on_and_nothing_for_before(
    weighted: Database, report: Report
) -> None:
    for team in ("one", "five"):
        add_queue(weighted, team, shards=500)
    simulation = Simulation(weighted, workers=5)
    simulation.run(150)
    add_queue(weighted, "two", shards=500)
    simulation.run(250)
    late = simulation.served[150:]
    report(title("after 'two' came", weighted), HEAD, shown(late, WEIGHTS))
    assert_fair(late, WEIGHTS)
    assert longest_wait(late[:20], "five") <= 3


def test_a_team_that_idled_comes_back_without_a_burst(weighted: Database, report: Report) -> None:
    for team, shards in (("one", 20), ("two", 500), ("five", 500)):
        add_queue(weighted, team, shards=shards)
    simulation = Simulation(weighted, workers=5)
    simulation.run(250)
    add_queue(weighted, "one", shards=500)
    simulation.run(250)
    back = simulation.served[250:]
    report(title("after 'one' came back", weighted), HEAD, shown(back, WEIGHTS))
    assert_fair(back, WEIGHTS)
    assert shares(back[:40])["one"] < 0.25


def test_priorities_order_a_teams_own_jobs_and_take_nothing_from_others(weighted: Database, report: Report) -> None:
    for team in WEIGHTS:
        add_queue(weighted, team, shards=400)
    urgent = add_queue(weighted, "one", shards=20, priority=9)
    simulation = Simulation(weighted, workers=5)
    simulation.run(250)
    report(title("with an urgent job of 'one'", weighted), HEAD, shown(simulation.served, WEIGHTS))
    assert_fair(simulation.served, WEIGHTS)
    with weighted.read() as session:
        done = dict(session.execute(select(Job.id, Job.done).where(Job.team_id == "one")).all())
    assert done[urgent] == 20 * 128


def test_many_jobs_of_one_team_get_no_more_than_one_job_of_another(weighted: Database) -> None:
    for _ in range(12):
        add_queue(weighted, "two", shards=60)
    add_queue(weighted, "five", shards=400)
    simulation = Simulation(weighted, workers=4)
    simulation.run(200)
    assert_fair(simulation.served, {"two": 2, "five": 5})


def test_a_shared_shard_is_charged_to_the_team_it_was_claimed_for(weighted: Database) -> None:
    for team in ("one", "two"):
        planned_dataset(weighted, {"a": 100}, team=team)
    claim(weighted)
    with weighted.read() as session:
        tags = dict(session.execute(select(Team.id, Team.served_until)).all())
        drawn_for = session.scalars(select(Job.team_id).join(Shard, Shard.drawn_for == Job.id)).one()
    assert (drawn_for, tags["one"], tags["two"]) == ("one", 100.0, 0.0)


def test_a_team_at_its_limit_is_passed_over_until_a_shard_ends(weighted: Database) -> None:
    with weighted.write() as session:
        add_team(session, "a-small", max_leased_shards=2)
    add_queue(weighted, "a-small", shards=10)
    add_queue(weighted, "two", shards=3)
    first = claim(weighted, limit=3)
    assert len(first) == 2
    assert [len(claim(weighted, limit=3)) for _ in range(2)] == [3, 0]
    commit(weighted, first[0])
    assert len(claim(weighted, limit=3)) == 1


def test_claims_at_the_same_moment_keep_a_team_within_its_limit(weighted: Database) -> None:
    with weighted.write() as session:
        add_team(session, "small", max_leased_shards=3)
    add_queue(weighted, "small", shards=40)
    threads = [threading.Thread(target=claim, args=(weighted,), kwargs={"limit": 2}) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with weighted.read() as session:
        assert session.scalar(select(func.count()).where(Shard.state == "leased")) == 3


def test_rows_that_another_claim_holds_lead_to_the_next_job(weighted: Database) -> None:
    if weighted.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    add_queue(weighted, "one", shards=1)
    add_queue(weighted, "two", shards=1)
    with weighted.write() as session:
        first = leases.claim_shards(session, worker="a", models=["digits-sd"], limit=1, lease_seconds=60)
        second = claim(weighted)
    assert first[0].shard_id != second[0].shard_id


def test_trainings_go_to_the_team_with_the_least_running_for_its_weight(weighted: Database) -> None:
    with weighted.write() as session:
        for team in WEIGHTS:
            for _ in range(6):
                add_job(session, "training", team=team)
        claimed = [claim_job(session, "training", worker="w", lease_seconds=60) for _ in range(8)]
        teams = dict(session.execute(select(Job.id, Job.team_id)).all())
    assert Counter(teams[lease.job_id] for lease in claimed if lease) == {"one": 1, "two": 2, "five": 5}


def test_trainings_of_one_team_go_by_priority_then_age(database: Database) -> None:
    with database.write() as session:
        old, urgent = add_job(session, "training"), add_job(session, "training", priority=5)
        claimed = [claim_job(session, "training", worker="w", lease_seconds=60) for _ in range(2)]
    assert [lease.job_id for lease in claimed if lease] == [urgent.id, old.id]


def test_kinds_that_one_worker_takes_go_by_age_together(database: Database) -> None:
    """Ids begin with the kind: by them every evaluation would come before every experiment."""
    with database.write() as session:
        experiment = add_job(session, "experiment")
        time.sleep(0.002)  # ids of one millisecond are in no order
        evaluation = add_job(session, "evaluation")
        claimed = [claim_job(session, "evaluation", "experiment", worker="w", lease_seconds=60) for _ in range(2)]
    assert [lease.job_id for lease in claimed if lease] == [experiment.id, evaluation.id]


def test_a_model_that_only_others_have_hides_no_job(weighted: Database) -> None:
    with weighted.write() as session:
        recipe = RECIPE.model_copy(update={"seed": 9})
        other = add_dataset(session, images={"a": 10}, recipe=recipe, model="sd14", team="one")
        assert session.get(Recipe, recipe.digest) is not None
    planned_dataset(weighted, {"b": 10}, team="two")
    assert [lease.class_id for lease in claim(weighted)] == ["b"]
    assert other.team_id == "one"
