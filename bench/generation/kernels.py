"""Where a batch's time on the device goes, by kind of kernel."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first that matches. The engine's own programs have plain names. Inductor names a fused kernel after all operations
# in it, so its own kinds come first.
KINDS = (
    ("norm", r"^(channel_moments|channel_scales|scaled)$"),
    ("gemm", r"^gated_product$"),
    ("copy", r"^triton_poi_fused_(clone_|_to_copy_|convert_element_type_)*\d+$"),
    ("norm", r"^triton_(red|per)_"),
    ("pointwise", r"^triton_poi_"),
    ("gemm", r"^triton_(tem|mm)_"),
    ("attention", r"flash|fmha|sdpa|attention|softmax"),
    ("copy", r"memcpy|memset|nchwToNhwc|nhwcToNchw|direct_copy|CatArray|transpose|::copy_|::clone|::cat"),
    ("conv", r"conv|fprop|dgrad|implicit"),
    ("gemm", r"gemm|nvjet|cublas|cutlass|splitk|::(addmm|mm|bmm|linear|matmul)"),
    ("norm", r"norm|welford|moments"),
    ("pointwise", r"elementwise|vectorized|upsample|reduce|fused|::(add|mul|div|silu|gelu|exp|sin|cos|lerp|sub)_?$"),
)
NAMED = ("conv", "gemm", "attention", "norm", "pointwise", "copy", "other")
LONGEST_NAMES = 4


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


class Span(NamedTuple):
    """A kernel's run, in microseconds; `own` is its time without that of those it called."""

    name: str
    start: float
    end: float
    own: float


def record(work: Callable[[], object], device: torch.device) -> list[Span]:
    """Every kernel of a GPU; on a CPU every operation."""
    is_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as recorded:
        work()
        if is_gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if is_gpu else DeviceType.CPU
    return [
        Span(event.name, times.start, times.end, times.elapsed_us() if is_gpu else event.self_cpu_time_total)
        for event in recorded.events() or []
        if event.device_type == wanted and not event.is_user_annotation and (times := event.time_range)
    ]


class Profile:
    """Milliseconds by kind, of which no kernel ran at all, and the longest kernels of each kind."""

    def __init__(self, spans: Iterable[Span]) -> None:
        ordered = sorted(spans, key=lambda span: span.start)
        taken: dict[str, dict[str, float]] = {kind: defaultdict(float) for kind in NAMED}
        for span in ordered:
            taken[kind_of(span.name)][span.name] += span.own
        self.milliseconds = {kind: sum(names.values()) / 1000 for kind, names in taken.items()}
        self.names = {kind: longest(names) for kind, names in taken.items()}
        self.idle = idle(ordered) / 1000


def longest(taken: dict[str, float]) -> tuple[str, ...]:
    return tuple(sorted(taken, key=taken.__getitem__, reverse=True)[:LONGEST_NAMES])


def idle(ordered: list[Span]) -> float:
    """Microseconds between the first start and the last end in which nothing ran."""
    gaps, until = 0.0, ordered[0].start
    for span in ordered:
        gaps += max(0.0, span.start - until)
        until = max(until, span.end)
    return gaps
