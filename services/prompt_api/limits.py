"""A team's limits, checked in the transaction that makes its job, so that two requests at once cannot pass them."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.errors import AppError
from shared.models import registered
from shared.settings import Settings
from shared.specs import Recipe
from shared.tables import Job, Team

from .accept import Plan, bytes_per_image
from .teams import LIVE, count_live_jobs, sum_stored_bytes

RAISE = "an operator can raise it with `synthclone teams set"


class LimitReached(AppError):
    status, code, title, exit_code = 403, "limit-reached", "Your team's limit does not allow this", 3


class TooManyLiveJobs(LimitReached):
    """Passes by itself: 429 with Retry-After."""

    status = 429


class Wanted(NamedTuple):
    """What is asked room for: `images` in the largest dataset, and so many `jobs` at once."""

    images: int = 0
    stored_bytes: int = 0
    jobs: int = 1


def wanted_by(plan: Plan) -> Wanted:
    images, budget = plan.spec.total_images, plan.spec.request.budget
    drawn = within(images, budget.images if budget else None)
    return Wanted(images, drawn * plan.bytes_per_image)


def wanted_again(old: Job, settings: Settings) -> Wanted:
    """By a retry, for which what the old job has is there already."""
    if old.kind != "dataset":
        return Wanted()
    drawn = within(old.total - old.done, old.budget_images)
    return Wanted(old.total, drawn * bytes_of(old.spec["model"], old.spec["recipe"], settings))


def within(images: int, budget: int | None) -> int:
    return images if budget is None else max(0, min(images, budget))


def bytes_of(model: object, recipe: object, settings: Settings) -> int:
    """Of one image, roughly; 0 of a model that is registered no more, of which nothing can be drawn."""
    entry = registered(settings).get(str(model))
    return bytes_per_image(Recipe.model_validate(recipe), entry) if entry else 0


def lock_team(session: Session, team: str) -> Team:
    """Until the transaction ends one team's jobs are made one after the other."""
    # Not FOR UPDATE: that would also make every row wait which only refers to the team.
    return session.scalars(select(Team).where(Team.id == team).with_for_update(key_share=True)).one()


def refuse_beyond(session: Session, team: Team, wanted: Wanted, settings: Settings) -> None:
    """Raises LimitReached; call it with the team's row locked where a job follows."""
    if team.max_images is not None and wanted.images > team.max_images:
        raise LimitReached(
            f"the dataset has {wanted.images:,} images, team {team.name!r} may ask for {team.max_images:,} in one; "
            f"ask for fewer, or {RAISE} {team.name} --max-images`"
        )
    if team.max_live_jobs is not None:
        refuse_jobs(session, team, team.max_live_jobs, wanted.jobs)
    if team.max_stored_bytes is not None and wanted.stored_bytes:
        refuse_bytes(session, team, team.max_stored_bytes, wanted.stored_bytes, settings)


def refuse_jobs(session: Session, team: Team, most: int, wanted: int) -> None:
    live = count_live_jobs(session, team.id)
    if wanted > max(most, 1):
        # Waiting would not help, so it is no 429.
        raise LimitReached(
            f"the experiment has {wanted:,} jobs, team {team.name!r} may have {most:,} that have not ended; "
            f"ask for fewer, or {RAISE} {team.name} --max-live-jobs`"
        )
    if live + wanted > most:
        more = "" if wanted == 1 else f", and the experiment has {wanted:,} more"
        raise TooManyLiveJobs(
            f"team {team.name!r} has {live:,} jobs that have not ended, of {most:,} it may have{more}; wait "
            f"for one to end or cancel one, or {RAISE} {team.name} --max-live-jobs`"
        )


def refuse_bytes(session: Session, team: Team, most: int, wanted: int, settings: Settings) -> None:
    stored, promised = sum_stored_bytes(session, team.id), promised_bytes(session, team.id, settings)
    if stored + promised + wanted > most:
        raise LimitReached(
            f"the images would take about {wanted:,} bytes; team {team.name!r} has {stored:,} stored and about "
            f"{promised:,} under way, of {most:,} it may have; ask for less, or {RAISE} {team.name} --max-stored-bytes`"
        )


def promised_bytes(session: Session, team: str, settings: Settings) -> int:
    """Roughly what the datasets that have not ended will add."""
    drawn_by = (Job.spec["model"].as_string(), Job.spec["recipe"].as_json())
    live = (Job.team_id == team, Job.kind == "dataset", Job.state.in_(LIVE))
    left = Job.total - Job.done - Job.failed
    rows = session.execute(select(*drawn_by, left, Job.budget_images - Job.drawn_images).where(*live))
    return sum(within(images, budget) * bytes_of(name, recipe, settings) for name, recipe, images, budget in rows)
