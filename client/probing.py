"""`synthclone probe`: is the rest of a dataset worth drawing?"""

from typing import Annotated

import typer

from shared.probes import ProbeRequest

from .asking import Key, given, show_submitted
from .console import Options, options, usage_errors
from .models import ProbeReport
from .session import Client


def probe(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Id of a dataset, which need not be finished.")],
    on: Annotated[str, typer.Option(help="A registered test set, such as digits.")],
    share: Annotated[
        list[float] | None,
        typer.Option(help="Of each class's images; given three times or more. Default: 0.01 0.05 0.1"),
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Networks for each share; default: 3.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    priority: Annotated[int, typer.Option(help="9 is worked on first within a team.")] = 0,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the job ends.")] = False,
    idempotency_key: Key = None,
) -> None:
    """Train a small network on a dataset's first images and predict its accuracy on all of them."""
    chosen = options(context)
    shares = tuple(share) if share else None
    fields = given({"dataset": dataset, "benchmark": on, "shares": shares, "repeats": repeats})
    with usage_errors():
        request = ProbeRequest.model_validate({**fields, "seed": seed, "priority": priority})
    with chosen.client() as client:
        job = client.probes.submit(request, idempotency_key=idempotency_key)
        show_submitted(chosen, client, job, follow=follow)
        if follow:
            tell_prediction(chosen, client, job.id)


def tell_prediction(chosen: Options, client: Client, probe_id: str) -> None:
    report = client.probes.report(probe_id)
    for images, top1 in means(report):
        chosen.say(f"{images:,} images: {100 * top1:.1f} % top-1")
    predicted, (low, high) = report.prediction, report.prediction.interval
    chosen.say(
        f"predicted for {predicted.images:,} images: {100 * predicted.top1:.1f} % top-1, "
        f"95 % of networks between {100 * low:.1f} and {100 * high:.1f} %"
    )
    for note in report.notes:
        chosen.say(f"note: {note}")


def means(report: ProbeReport) -> list[tuple[int, float]]:
    """Images and mean top-1 of each share."""
    found: dict[int, list[float]] = {}
    for point in report.points:
        found.setdefault(point.images, []).append(point.top1)
    return [(images, sum(values) / len(values)) for images, values in sorted(found.items())]
