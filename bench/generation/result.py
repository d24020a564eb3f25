"""What the GPU's benchmark found, as in bench/results/generation_gpu.json, and which limits it missed."""

import math

from pydantic import BaseModel, ConfigDict

from services.sd_worker.engine.choices import Trial

LEAST_BESIDE_A = 1.65
LEAST_BESIDE_COMPILED = 1.25
LEAST_UTILISATION = 0.64
LEAST_OF_ENGINE = 0.99
MOST_ERROR_RATIO = 1.5
LEAST_ERROR = 1 / math.sqrt(12)  # grey levels: what rounding a pixel to a whole one costs, root mean square


class Measured(BaseModel):
    """A NaN is something to report, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ArmResult(Measured):
    """`spread` is that of the rounds over their median, `utilisation` of the measured matrix product's rate."""

    batch: int
    images_per_second: float
    rounds: tuple[float, ...]
    spread: float
    utilisation: float
    peak_gib: float | None


class ImageError(Measured):
    """In grey levels."""

    rms: float
    psnr_db: float
    most: float


class Errors(Measured):
    """Beside the same weights in higher precision. `contrast` is the deviation of those images' own grey levels."""

    timesteps: tuple[int, ...]
    evaluations: dict[str, tuple[float, ...]]
    evaluations_rms: dict[str, float]
    images: dict[str, ImageError]
    contrast: float

    def ratios(self, name: str) -> tuple[float, float]:
        """An arm's errors over A's: of evaluations, and of whole images."""
        images = [max(self.images[arm].rms, LEAST_ERROR) for arm in (name, "A")]
        return self.evaluations_rms[name] / self.evaluations_rms["A"], images[0] / images[1]


class WorkerResult(Measured):
    """Images per second of the whole worker and of its engine alone, and the first over the second."""

    images: int
    engine: float
    worker: float
    ratio: float


class ProfileResult(Measured):
    """Of B, for an image; `ideal_milliseconds` is what diffusers' operations take at this device's measured rates.

    A matrix product's rate for convolutions, products and attention, a copy's for passes over memory.
    """

    milliseconds: dict[str, float]
    ideal_milliseconds: dict[str, float]
    kernels: dict[str, dict[str, tuple[str, ...]]]


class Result(Measured):
    weights: str
    device: str
    libraries: dict[str, str]
    recipe: dict[str, str | int | float]
    teraflop_per_image: float
    matmul_teraflop_per_second: float
    copy_terabyte_per_second: float
    sweep_steps: int
    sweep: dict[int, float]
    arms: dict[str, ArmResult]
    ratios: dict[str, float]
    errors: Errors | None
    whole: WorkerResult | None
    profile: ProfileResult | None
    choices: dict[str, Trial]  # of B's kernels, by operation and shapes
    cold_start_seconds: dict[str, float]
    warm_start_seconds: dict[str, float] | None
    watched: dict[str, dict[str, str] | None]  # just before and after the rounds
    stage_seconds: dict[str, float]
    left_out: tuple[str, ...]


def missed(result: Result) -> list[str]:
    """What was not measured was not reached."""
    found = {
        f"B/A at least {LEAST_BESIDE_A}": at_least(result.ratios.get("A"), LEAST_BESIDE_A),
        f"B/A' at least {LEAST_BESIDE_COMPILED}": at_least(result.ratios.get("A'"), LEAST_BESIDE_COMPILED),
        f"utilisation at least {LEAST_UTILISATION}": at_least(result.arms["B"].utilisation, LEAST_UTILISATION),
    }
    whole = None if result.whole is None else result.whole.ratio
    found[f"the whole worker at least {LEAST_OF_ENGINE} of its engine"] = at_least(whole, LEAST_OF_ENGINE)
    evaluations, images = (None, None) if result.errors is None else result.errors.ratios("B")
    found[f"B's error of an evaluation at most {MOST_ERROR_RATIO} of A's"] = at_most(evaluations, MOST_ERROR_RATIO)
    found[f"B's error of an image at most {MOST_ERROR_RATIO} of A's"] = at_most(images, MOST_ERROR_RATIO)
    return [f"{limit}: {problem}" for limit, problem in found.items() if problem is not None]


def at_least(value: float | None, limit: float) -> str | None:
    if value is None:
        return "not measured"
    # Written so that a NaN is a miss.
    return None if value >= limit else f"{value:.3f}"


def at_most(value: float | None, limit: float) -> str | None:
    if value is None:
        return "not measured"
    return None if value <= limit else f"{value:.3f}"
