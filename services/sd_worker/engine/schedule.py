"""A sampler as a table of numbers, so that a trajectory asks the GPU nothing."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PROBES = (1.0, 1000.0)  # a clipped sample would show at the second


class Sampler(Protocol):
    """What diffusers' schedulers have in common."""

    config: Mapping[str, object]
    timesteps: Tensor
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int) -> None: ...
    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...
    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool) -> tuple[Tensor]: ...


class Schedule(NamedTuple):
    """For S evaluations of the network, one after another.

    Samplers without fresh noise are linear: the latents after evaluation k are `steps[k]` (S + 1,) times the unit noise
    and the outputs 1 to k of the network. That evaluation sees `timesteps[k]` and latents times `input_scales[k]`.
    """

    timesteps: Tensor
    noise_scale: float
    input_scales: tuple[float, ...]
    steps: NDArray[np.float64]


class NotLinear(Exception):
    """This sampler clips latents or adds fresh noise, so no table stands for it."""


def make_schedule(sampler: Sampler, steps: int) -> Schedule:
    """From diffusers' own sampler, by sending it the unit vectors of (noise, output 1, output 2, ...).

    Raises NotLinear.
    """
    if sampler.config.get("thresholding") or str(sampler.config.get("algorithm_type", "")).startswith("sde"):
        raise NotLinear(f"{type(sampler).__name__} is set to thresholding or to fresh noise")
    first, second = (probe(sampler, steps, size) for size in PROBES)
    if not np.allclose(first.steps, second.steps, rtol=1e-4, atol=1e-6):
        raise NotLinear(f"{type(sampler).__name__} clips latents")
    return first


def probe(sampler: Sampler, steps: int, size: float) -> Schedule:
    sampler.set_timesteps(steps)
    timesteps = sampler.timesteps
    basis = size * torch.eye(len(timesteps) + 1, dtype=torch.float64)
    sample = float(sampler.init_noise_sigma) * basis[0]
    scales, rows = [], []
    for number, timestep in enumerate(timesteps, 1):
        seen = sampler.scale_model_input(sample, timestep)
        scales.append(float((seen @ sample) / (sample @ sample)))
        # Each sampler rounds as it likes, which must not add up over the table.
        sample = sampler.step(basis[number], timestep, sample, return_dict=False)[0].double()
        rows.append((sample / size).numpy())
    return Schedule(timesteps, float(sampler.init_noise_sigma), tuple(scales), np.stack(rows))
