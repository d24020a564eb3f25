"""`/datasets/{id}/verify`: have every stored object of a dataset read and compared with what was committed."""

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import Conflict
from shared.tables import DatasetShard, Job, Shard

from .dependencies import ServerDatabase, TeamId
from .job_view import view_job
from .jobs import find_job
from .problems import documented
from .schemas import JobView

router = APIRouter(tags=["datasets"])


@router.post("/datasets/{dataset_id}/verify", status_code=202, responses=documented(404, 409))
def verify_dataset(dataset_id: str, database: ServerDatabase, team: TeamId) -> JobView:
    """Read every stored object again; damaged ones are drawn again.

    The job's event `verified` tells how many were read and how many were damaged. Asking while a verification runs
    changes nothing.
    """
    with database.write() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
        session.refresh(job, with_for_update=True)
        if not has_objects(session, job):
            raise Conflict(f"dataset {job.id} is {job.state} and has no finished shard yet; ask once it has images")
        if job.verify_asked_at is None:
            job.verify_asked_at = database_now(session)
            session.flush()
        return view_job(session, job)


def has_objects(session: Session, job: Job) -> bool:
    finished = (
        select(DatasetShard.shard_id)
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .where(DatasetShard.job_id == job.id, Shard.state == "done")
        .limit(1)
    )
    return session.scalar(finished) is not None
