"""Whether a dataset and a real set can be compared, as far as that is known before either is read."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.errors import Rejected
from shared.realsets import RealSet, compared_set
from shared.specs import DistanceRequest
from shared.tables import TERMINAL, DatasetClass, Job


def check_distances(session: Session, asked: Sequence[DistanceRequest], datasets: Sequence[Job]) -> None:
    """datasets are those asked for, in their order. Raises Rejected with a pointer to the value at fault."""
    for position, (each, dataset) in enumerate(zip(asked, datasets, strict=True)):
        pointer = f"/distances/{position}"
        known = compared_set(session, each.real, pointer=f"{pointer}/real")
        drawn = images_by_class(session, dataset)
        common = drawn.keys() & set(known.class_ids)
        if not common:
            raise Rejected(
                f"dataset {dataset.id} has no class of {known.name}; name a set with some of its classes",
                pointer=f"{pointer}/real",
            )
        refuse_too_few(each, known, sum(drawn[class_id] for class_id in common), pointer=f"{pointer}/images")


def images_by_class(session: Session, dataset: Job) -> dict[str, int]:
    """What it has; before its end what it may come to have."""
    images = DatasetClass.done if dataset.state in TERMINAL else DatasetClass.total
    query = select(DatasetClass.class_id, images).where(DatasetClass.job_id == dataset.id)
    return dict(session.execute(query).all())


def refuse_too_few(asked: DistanceRequest, known: RealSet, drawn: int, *, pointer: str) -> None:
    """Of the real set only the whole is known here: where it has other classes too, the evaluator counts again."""
    for name, count in ((f"dataset {asked.dataset}", drawn), (known.name, known.images)):
        if count < asked.images:
            raise Rejected(
                f"{name} has {count:,} images to compare, fewer than the {asked.images:,} asked for; ask for fewer, or "
                "name a larger set",
                pointer=pointer,
            )
