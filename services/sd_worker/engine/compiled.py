"""A function compiled once for each shape of its arguments, and never behind the caller's back."""

import logging
import time
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

logger = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# For Inductor. A 1 x 1 convolution of channels-last images is a matrix product without a copy. No CUDA graphs: a
# batch's step keeps a GPU busy for longer than the host needs to launch it, and a graph's outputs are overwritten by
# its next run while the sampler still needs them.
OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"conv_1x1_as_mm": True, "triton.cudagraphs": False}


class Compiled(Generic[Arguments, Result]):
    """`function` as one graph for each combination of its arguments' shapes and types.

    The first call with a combination compiles it. Later ones must find it: where they do not, they raise a RuntimeError
    that names the guard that failed. So numbers that change, such as a timestep, come as tensors.
    """

    def __init__(self, function: Callable[Arguments, Result], backend: str | Callable[..., object]) -> None:
        self._name = getattr(function, "__name__", str(function))
        options = OPTIONS if backend == "inductor" else None
        self._function = torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)
        self._known: set[object] = set()

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        signature = signature_of((*args, *kwargs.values()))
        if signature in self._known:
            with torch.compiler.set_stance("fail_on_recompile"):
                return self._function(*args, **kwargs)
        # torch's usual 8 entries of one function are meant to stop what is already impossible here.
        with dynamo.patch(recompile_limit=dynamo.accumulated_recompile_limit):
            began, before = time.monotonic(), cache_misses()
            result = self._function(*args, **kwargs)
        self._known.add(signature)
        logger.info(
            "compiled",
            extra={
                "function": self._name,
                "shapes": [tuple(each.shape) for each in args if isinstance(each, Tensor)],
                "seconds": round(time.monotonic() - began, 1),  # with the first run of it
                "cache": "cold" if cache_misses() > before else "warm",
            },
        )
        return result


def signature_of(value: object) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, tuple | list):
        return tuple(signature_of(each) for each in value)
    return type(value)


def cache_misses() -> int:
    return int(counters["inductor"]["fxgraph_cache_miss"])
