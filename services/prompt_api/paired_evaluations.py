"""Which evaluations can be compared with a new one, image by image."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from shared.errors import Rejected
from shared.realsets import benchmark
from shared.specs import TRAINED_SPEC, EvaluationRequest, EvaluationSpec
from shared.tables import Job


def check_compared(
    session: Session, request: EvaluationRequest, class_ids: Sequence[str], others: Sequence[Job]
) -> None:
    """Each has a test set of the request's, cut to the same classes; `class_ids` are those of the network to test."""
    for position, other in enumerate(others):
        theirs = EvaluationSpec.model_validate(other.spec).request
        pointer = f"/compare_with/{position}"
        both = [name for name in request.benchmarks if name in theirs.benchmarks]
        if not both:
            raise Rejected(
                f"{other.id} is on {', '.join(theirs.benchmarks) or 'no test set'}, this one on "
                f"{', '.join(request.benchmarks)}; only evaluations on a common test set can be compared",
                pointer=pointer,
            )
        learnt = TRAINED_SPEC.validate_python(session.get_one(Job, theirs.training).spec).class_ids
        for name in both:
            tested = set(benchmark(session, name).class_ids)
            if tested & set(learnt) != tested & set(class_ids):
                raise Rejected(
                    f"{other.id} is on {len(tested & set(learnt))} classes of {name}, this one on "
                    f"{len(tested & set(class_ids))}, not the same; compare networks that know the same classes",
                    pointer=pointer,
                )
