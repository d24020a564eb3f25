from itertools import product

import pytest
from sqlalchemy import event, select

from shared import lifecycle
from shared.database import Database
from shared.errors import Conflict
from shared.tables import JOB_STATES, TERMINAL, Event, Job, JobParent
from tests.rows import add_job, end, state_of


@pytest.mark.parametrize(("source", "target"), list(product(JOB_STATES, JOB_STATES)))
def test_only_allowed_transitions_happen(database: Database, source: str, target: str) -> None:
    with database.write() as session:
        job = add_job(session, "training", state=source)
        moved = lifecycle.transition(session, job.id, target)
    assert moved == (target in lifecycle.ALLOWED[source])
    assert state_of(database, job.id) == (target if moved else source)


def test_terminal_states_have_no_way_out() -> None:
    assert all(lifecycle.ALLOWED[state] == () for state in TERMINAL)


def test_each_transition_leaves_an_event_and_a_new_version(database: Database) -> None:
    with database.write() as session:
        job = add_job(session, "training")
        lifecycle.transition(session, job.id, "running")
    with database.read() as session:
        assert session.scalars(select(Event.payload)).all() == [{"state": "running"}]
        assert session.get_one(Job, job.id).version == 2


def test_cancelling_a_finished_job_is_a_conflict_that_names_its_state(database: Database) -> None:
    with database.write() as session:
        job = add_job(session, "training", state="failed")
        with pytest.raises(Conflict, match="already failed"):
            lifecycle.request_cancel(session, job)


def test_a_running_job_is_asked_to_stop_and_a_queued_one_stops(database: Database) -> None:
    with database.write() as session:
        running, queued = add_job(session, "training", state="running"), add_job(session, "training")
        for job in (running, queued):
            lifecycle.request_cancel(session, job)
    assert state_of(database, running.id) == "running"
    assert state_of(database, queued.id) == "cancelled"


def child_of(database: Database, *parent_states: str, kind: str = "training") -> str:
    with database.write() as session:
        parents = [add_job(session, "dataset", state=state) for state in parent_states]
        child = add_job(session, kind, state="waiting")
        session.add_all(JobParent(job_id=child.id, parent_id=parent.id) for parent in parents)
        return child.id


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        (("succeeded", "partial"), "queued"),
        (("succeeded", "running"), "waiting"),
        (("running", "failed"), "failed"),
        (("cancelled",), "failed"),
    ],
)
def test_a_child_follows_its_parents(database: Database, parents: tuple[str, ...], expected: str) -> None:
    child = child_of(database, *parents)
    with database.write() as session:
        lifecycle.release_children(session)
    assert state_of(database, child) == expected


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        (("succeeded", "failed"), "queued"),
        (("cancelled", "failed"), "queued"),
        (("failed", "running"), "waiting"),
        (("failed", "waiting"), "waiting"),
    ],
)
def test_an_experiment_waits_for_every_parent_however_it_ends(
    database: Database, parents: tuple[str, ...], expected: str
) -> None:
    child = child_of(database, *parents, kind="experiment")
    with database.write() as session:
        lifecycle.release_children(session)
    assert state_of(database, child) == expected


def test_however_many_jobs_wait_they_are_read_at_once_and_without_their_specs(database: Database) -> None:
    for _ in range(3):
        child_of(database, "running", "running")
    alone = child_of(database)
    read: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: read.append(given[2]))
    with database.write() as session:
        assert lifecycle.release_children(session) == 1
    of_jobs = [statement for statement in read if statement.startswith("SELECT") and "FROM jobs" in statement]
    assert len(of_jobs) == 1
    assert "spec" not in of_jobs[0]
    assert state_of(database, alone) == "queued"


def test_a_child_of_a_failed_parent_says_which(database: Database) -> None:
    child = child_of(database, "failed")
    with database.write() as session:
        lifecycle.release_children(session)
    with database.read() as session:
        error = session.get_one(Job, child).error
    assert error is not None
    assert "ended failed" in str(error["detail"])


def test_moving_a_job_twice_moves_it_once(database: Database) -> None:
    with database.write() as session:
        job = add_job(session, "training", state="running")
    end(database, job.id, "succeeded")
    with database.write() as session:
        assert not lifecycle.transition(session, job.id, "failed")
