"""The report of a probe."""

from collections.abc import Sequence

from shared.vision.networks import library_versions

from pydantic import JsonValue

from shared.frozen import Frozen
from shared.probes import ProbeSpec
from shared.recipes import TrainingRecipe
from shared.seeds import digest

from .power_law import PowerLaw, fit_power_law, lack_of_fit, predict_error, smoothed_error

# The usual level of significance.
UNFIT = 0.05


class Point(Frozen):
    """One network: trained on the first `images` images, it got `wrong` of the `tested` test images wrong."""

    share: float
    images: int
    seed: int
    wrong: int
    tested: int
    top1: float


class Fit(Frozen):
    """log(error) = intercept + slope * log(images); `deviation` is that of its residuals, with `dof` degrees of
    freedom. A small `lack_of_fit`, a probability, says that the sizes do not lie on such a line; null with one network
    of each size."""

    intercept: float
    slope: float
    deviation: float
    dof: int
    lack_of_fit: float | None


class Prediction(Frozen):
    """Of one network trained on all images; `interval` holds at least 95 % of such networks if the law holds, `times`
    says how far beyond the largest size it reaches."""

    images: int
    times: float
    top1: float
    interval: tuple[float, float]


class ProbeNetwork(Frozen):
    """`digest` is that of all that stands here: only probes of the same network compare."""

    architecture: str
    image_size: int
    steps: int
    recipe: TrainingRecipe
    digest: str


class ProbeReport(Frozen):
    """`classes` of the `of_classes` that the dataset has are in the test set, and are tested."""

    probe: str
    dataset: str
    benchmark: str
    classes: int
    of_classes: int
    points: tuple[Point, ...]
    fit: Fit
    prediction: Prediction
    network: ProbeNetwork
    notes: tuple[str, ...]
    versions: dict[str, str]

    def summary(self) -> dict[str, JsonValue]:
        low, high = self.prediction.interval
        return {"top1": self.prediction.top1, "interval": [low, high], "images": self.prediction.images}


def make_report(probe: str, spec: ProbeSpec, points: Sequence[Point], *, classes: int) -> ProbeReport:
    images = [point.images for point in points]
    errors = [smoothed_error(point.wrong, point.tested) for point in points]
    law, misfit = fit_power_law(images, errors), lack_of_fit(images, errors)
    fit = Fit(intercept=law.intercept, slope=law.slope, deviation=law.deviation, dof=law.points - 2, lack_of_fit=misfit)
    predicted = predict(law, spec.images, largest=max(images), tested=points[0].tested)
    return ProbeReport(
        probe=probe,
        dataset=spec.request.dataset,
        benchmark=spec.request.benchmark,
        classes=classes,
        of_classes=len(spec.class_ids),
        points=tuple(points),
        fit=fit,
        prediction=predicted,
        network=network_of(spec),
        notes=tuple(notes_of(spec, fit, predicted)),
        versions={"synthclone": spec.version, **library_versions()},
    )


def predict(law: PowerLaw, images: int, *, largest: int, tested: int) -> Prediction:
    error = predict_error(law, images, tested=tested)
    return Prediction(
        images=images,
        times=float(f"{images / largest:.3g}"),
        top1=1 - error.expected,
        interval=(1 - error.high, 1 - error.low),
    )


def network_of(spec: ProbeSpec) -> ProbeNetwork:
    fields: dict[str, JsonValue] = spec.model_dump(
        mode="json", include={"architecture", "image_size", "steps", "recipe"}
    )
    return ProbeNetwork.model_validate({**fields, "digest": digest(fields)})


def notes_of(spec: ProbeSpec, fit: Fit, predicted: Prediction) -> list[str]:
    """What a reader must know before spending GPU hours on it."""
    notes = [
        f"this predicts the accuracy of a {spec.architecture} trained for {spec.steps:,} steps on images of "
        f"{spec.image_size} pixels, not that of a larger network",
        f"the prediction reaches {predicted.times:g} times beyond the most images that were trained on, and holds only "
        "as far as the error goes on falling as a power of their number",
    ]
    if fit.lack_of_fit is not None and fit.lack_of_fit < UNFIT:
        notes.append(
            "the sizes lie further from the law than networks of one size differ, so it does not hold here and the "
            "interval is too narrow; leave out the smallest share, or add larger ones"
        )
    if fit.slope >= 0:
        notes.append("more images did not lower the error, so the law predicts nothing gained by drawing the rest")
    return notes
