"""The GPU's result as Markdown tables."""

from collections.abc import Iterable, Sequence

from services.sd_worker.engine.choices import PLAIN, Trial

from .result import ArmResult, Result

SECONDS = {"load": "loading", "first_batch": "first batch", "process": "whole process"}


def markdown(result: Result) -> str:
    parts = [speeds(result), errors(result), whole(result), profile(result), choices(result), starts(result)]
    return "\n\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is words, the others are figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def speeds(result: Result) -> str:
    header = ("", "batch", "images/s", "spread", "B beside it", "utilisation", "peak GiB beside weights")
    found = table(header, (speed_row(name, arm, result) for name, arm in result.arms.items()))
    return (
        f"{result.device}, {result.weights}; {result.teraflop_per_image:.2f} TFLOP an image; measured in the same run: "
        f"matrix product {result.matmul_teraflop_per_second:.1f} TFLOP/s, copy {result.copy_terabyte_per_second:.2f} "
        f"TB/s\n\n{found}"
    )


def speed_row(name: str, arm: ArmResult, result: Result) -> tuple[str, ...]:
    beside = f"{result.ratios[name]:.2f}" if name in result.ratios else ""
    peak = "" if arm.peak_gib is None else f"{arm.peak_gib:.1f}"
    return (
        name,
        str(arm.batch),
        f"{arm.images_per_second:.2f}",
        f"{arm.spread:.1%}",
        beside,
        f"{arm.utilisation:.1%}",
        peak,
    )


def errors(result: Result) -> str | None:
    found = result.errors
    if found is None:
        return None
    header = ("beside higher precision", "one evaluation", "of A's", "images, rms", "of A's", "PSNR dB", "most levels")
    rows = []
    for name, image in found.images.items():
        evaluation, whole = found.ratios(name)
        shown = (f"{found.evaluations_rms[name]:.2e}", f"{evaluation:.2f}", f"{image.rms:.2f}", f"{whole:.2f}")
        rows.append((name, *shown, f"{image.psnr_db:.1f}", f"{image.most:.0f}"))
    return table(header, rows)


def whole(result: Result) -> str | None:
    found = result.whole
    if found is None:
        return None
    rows = [
        ("the engine alone", f"{found.engine:.3f}", ""),
        ("the whole worker, on SQLite and a folder", f"{found.worker:.3f}", f"{found.ratio:.3f}"),
    ]
    return table((f"{found.images} images", "images/s", "of the engine"), rows)


def profile(result: Result) -> str | None:
    """Idle is time in which no kernel ran."""
    found = result.profile
    if found is None:
        return None
    rows = [
        (kind, f"{value:.2f}", f"{found.ideal_milliseconds[kind]:.2f}" if kind in found.ideal_milliseconds else "")
        for kind, value in found.milliseconds.items()
    ]
    used = "; ".join(f"{name}: {', '.join(kinds['attention'])}" for name, kinds in found.kernels.items())
    return f"{table(('B, ms an image', 'measured', 'ideal'), rows)}\n\nAttention kernels: {used}"


def choices(result: Result) -> str | None:
    """What each operation takes in torch's way, compiled, and in the fastest of the others."""
    if not result.choices:
        return None
    rows = [choice_row(operation, trial) for operation, trial in result.choices.items()]
    return table(("us of B's operation", "torch", "fastest other", "taken"), rows)


def choice_row(operation: str, trial: Trial) -> tuple[str, ...]:
    others = [value for name, value in trial.microseconds.items() if name != PLAIN]
    return (operation, f"{trial.microseconds[PLAIN]:.0f}", f"{min(others):.0f}" if others else "none ran", trial.taken)


def starts(result: Result) -> str:
    both = {"cold": result.cold_start_seconds, "warm": result.warm_start_seconds}
    rows = [
        (name, *(f"{seconds[key]:.0f}" if key in seconds else "" for key in SECONDS))
        for name, seconds in both.items()
        if seconds is not None
    ]
    return table(("start of a worker, s", *SECONDS.values()), rows)
