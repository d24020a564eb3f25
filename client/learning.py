"""`synthclone train`, `eval` and `results`."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from shared.recipes import Optimizer
from shared.specs import DistanceRequest, EvaluationRequest, TrainingRequest

from .asking import Key, show_submitted
from .console import options, usage_errors, write_json, write_line
from .models import Page, Result
from .session import Client

COLUMNS = ("evaluation", "training", "trained on", "architecture", "benchmark", "images", "top-1 %", "95 % interval")


def train(
    context: typer.Context,
    datasets: Annotated[list[str] | None, typer.Argument(help="Ids of datasets of one class list.")] = None,
    real: Annotated[str | None, typer.Option(help="A registered real training set, such as digits-train.")] = None,
    architecture: Annotated[str, typer.Option("--arch", help="Any timm architecture by name.")] = "resnet50",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of --steps.")] = None,
    recipe: Annotated[str, typer.Option(help="plain or imagenet-sd; the options below change it.")] = "plain",
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="As it is, whatever the batch.")] = None,
    label_smoothing: Annotated[float | None, typer.Option()] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images; not for digits.")
    ] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts that each batch is computed in.")] = None,
    compile_network: Annotated[bool, typer.Option("--compile", help="Let torch.compile fuse the network.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the job ends.")] = False,
    idempotency_key: Key = None,
) -> None:
    """Train a network on datasets, or on real images."""
    fields = {
        "datasets": tuple(datasets or ()),
        "real": real,
        "architecture": architecture,
        "recipe": recipe,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "label_smoothing": label_smoothing,
        "flip": flip,
        "accumulate": accumulate,
        "compile": compile_network or None,
        "seed": seed,
    }
    with usage_errors():
        request = TrainingRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    chosen = options(context)
    with chosen.client() as client:
        job = client.trainings.submit(request, idempotency_key=idempotency_key)
        show_submitted(chosen, client, job, follow=follow)


def evaluate(
    context: typer.Context,
    training: Annotated[str, typer.Argument(help="Id of the training whose encoder is tested.")],
    on: Annotated[list[str] | None, typer.Option(help="A registered test set; may be given again.")] = None,
    transfer: Annotated[
        list[str] | None, typer.Option(help="A registered transfer set for linear classifiers; may be given again.")
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(help="Classify the transfer sets by so many nearest training images too.")
    ] = None,
    distance: Annotated[
        list[str] | None, typer.Option(metavar="DATASET=REAL", help="Sets to compare; may be given again.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Drawn of each compared set; default: 5,000.")] = None,
    compare_with: Annotated[
        list[str] | None, typer.Option(help="Another evaluation on the same test set; may be given again.")
    ] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the job ends.")] = False,
    idempotency_key: Key = None,
) -> None:
    """Test a trained network on real images."""
    if images is not None and not distance:
        raise typer.BadParameter("--images are drawn of compared sets; give --distance too")
    chosen = options(context)
    with usage_errors():
        fields = {
            "training": training,
            "benchmarks": tuple(on or ()),
            "transfer": tuple(transfer or ()),
            "neighbours": neighbours,
            "distances": tuple(read_pair(pair, images) for pair in distance or ()),
            "compare_with": tuple(compare_with or ()),
        }
        request = EvaluationRequest.model_validate(fields)
    with chosen.client() as client:
        job = client.evaluations.submit(request, idempotency_key=idempotency_key)
        show_submitted(chosen, client, job, follow=follow)


def read_pair(pair: str, images: int | None) -> DistanceRequest:
    dataset, equals, real = pair.partition("=")
    if not equals:
        raise typer.BadParameter(f"{pair!r} is not DATASET=REAL, such as ds-1=digits")
    if images is None:
        return DistanceRequest(dataset=dataset, real=real)
    return DistanceRequest(dataset=dataset, real=real, images=images)


def results(
    context: typer.Context,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Evaluations, newest first.")] = 50,
) -> None:
    """The table of evaluations that succeeded."""
    chosen = options(context)
    with chosen.client() as client:
        found = list(find_results(client, limit))
    if chosen.as_json:
        write_json(Page[Result](items=found))
    elif as_csv:
        write_line(comma_separated(found))
    else:
        chosen.show(COLUMNS, [cells(result) for result in found])


def find_results(client: Client, limit: int) -> Iterator[Result]:
    for job in islice(client.jobs.list(state="succeeded", kind="evaluation"), limit):
        report = client.evaluations.report(job.id)
        training = client.trainings.get(report.training)
        for benchmark in report.benchmarks:
            yield Result(
                evaluation=job.id,
                training=report.training,
                trained_on=training.trained_on,
                architecture=training.architecture,
                benchmark=benchmark.name,
                images=benchmark.images,
                top1=benchmark.top1,
                interval=benchmark.interval,
            )


def cells(result: Result) -> tuple[str, ...]:
    low, high = result.interval
    return (
        result.evaluation,
        result.training,
        result.trained_on,
        result.architecture,
        result.benchmark,
        str(result.images),
        f"{100 * result.top1:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
    )


def comma_separated(found: list[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(cells(result) for result in found)
    return text.getvalue().rstrip("\n")
