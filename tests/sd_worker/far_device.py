"""`python -m tests.sd_worker.far_device`: draws on a device that has no arithmetic, in half precision.

PyTorch follows the device and the type of every tensor, not its numbers, and refuses what a GPU would: operands that
lie in two places or have two types, and numbers that the host asks for.
"""

from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register_device

from services.sd_worker.engine.schedule import make_schedule
from services.sd_worker.engine.trajectory import Table, make_table
from services.sd_worker.generators import Engine
from services.sd_worker.machine import Machine
from services.sd_worker.pipeline import SCHEDULERS, Generator
from shared.approximations import Approximation
from tests.sd_worker.narrow import NARROW, SAMPLER_CONFIG, narrow_pipeline

CPU = torch.device("cpu")
CASES: tuple[dict[str, object], ...] = (
    *({"scheduler": name, "guidance": 7.5} for name in SCHEDULERS),
    {"guidance": 1.0},
    {"guidance": 7.5, "engine": Approximation(guidance_interval=(0.2, 0.8), reuse_every=2)},
)


def no_reference() -> Generator:
    raise AssertionError("the engine draws this itself")


def away(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def send_away(network: nn.Module, device: torch.device) -> None:
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(away(weight, device), requires_grad=False)
        for name, values in module._buffers.items():
            if values is not None:
                module._buffers[name] = away(values, device)


def main() -> None:
    register_device("faraway")
    device = torch.device("faraway", 0)
    pipeline = narrow_pipeline().to(torch.float16)
    engine = Engine(pipeline, no_reference, Machine(device, batch=3, kernels_dir=Path("unused")))
    samplers = {name: kind.from_config(SAMPLER_CONFIG) for name, kind in SCHEDULERS.items()}
    tables = {name: make_table(engine.unet, make_schedule(each, NARROW.steps), CPU) for name, each in samplers.items()}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for network in (engine.unet, engine.vae, pipeline.text_encoder):
            send_away(network, device)
        for changes in CASES:
            recipe = NARROW.model_copy(update=changes)
            near = tables[recipe.scheduler]
            table = Table(near.noise_scale, near.input_scales, *(away(each, device) for each in near[2:]))
            shape = engine.latent_shape(recipe)
            pixels, is_finite = engine.draw(["zero", "one", "zero"], [1, 2, 3], recipe, shape, table)
            assert pixels.shape == (3, NARROW.height, NARROW.width, 3)
            assert (pixels.device, pixels.dtype) == (device, torch.uint8)
            assert (is_finite.device, is_finite.shape) == (device, (3,))


if __name__ == "__main__":
    main()
