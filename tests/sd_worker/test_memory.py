"""What a batch needs of a GPU's memory, and how many images are drawn at once."""

from pathlib import Path
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from services.sd_worker.engine.memory import TOKENS, Load, Needs, decoded_at_once, needs_of
from services.sd_worker.engine.trajectory import decoded_part, evaluated, take_over
from services.sd_worker.engine.unet import EngineUNet
from services.sd_worker.generators import Engine
from services.sd_worker.machine import (
    USUAL_NEEDS,
    USUAL_PIXELS,
    USUAL_WEIGHTS,
    Machine,
    batch_for,
    batch_within,
    machine_of,
)
from services.sd_worker.pipeline import Generator, load_pipeline
from shared.errors import ConfigurationError
from shared.settings import PROJECT_ROOT, Settings
from tests.rows import RECIPE

FOLDER = PROJECT_ROOT / "models" / "digits-sd"
CPU = torch.device("cpu")
GIB = 2**30


class Live(NamedTuple):
    storage: StorageWeakRef
    size_bytes: int


class LivePeak(TorchDispatchMode):
    """The most bytes that tensors made inside it hold at one time, also on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.live: dict[int, Live] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        inputs = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if torch.is_tensor(each)}
        result = func(*args, **(kwargs or {}))
        self.live = {key: each for key, each in self.live.items() if not each.storage.expired()}
        for each in filter(torch.is_tensor, tree_leaves(result)):
            storage = each.untyped_storage()
            if storage._cdata not in inputs | self.live.keys():
                self.live[storage._cdata] = Live(StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(each.size_bytes for each in self.live.values()))
        return result


def stable_diffusion(*, narrow: bool) -> tuple[EngineUNet, AutoencoderKL]:
    """On the meta device, in half precision."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(64, 96, 128, 128) if narrow else (320, 640, 1280, 1280),
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 64, 64, 64) if narrow else (128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    take_over(vae.decoder)
    return EngineUNet(unet).half(), vae.half()


@pytest.mark.parametrize(("narrow", "side"), [(False, 512), (False, 256), (True, 512)])
def test_a_batch_is_said_to_need_what_its_live_tensors_hold_or_a_little_more(narrow: bool, side: int) -> None:
    unet, vae = stable_diffusion(narrow=narrow)
    needs = needs_of(unet, vae, height=side, width=side, is_guided=True)
    latents = torch.empty(2, 4, side // 8, side // 8, device="meta", dtype=torch.float16)
    with torch.inference_mode():
        (biases,) = unet.time_biases(torch.empty(1, device="meta"))
        with LivePeak() as step:
            known = unet.keys_and_values(torch.empty(4, TOKENS, 768, device="meta", dtype=torch.float16))
            evaluated(unet, latents, biases, known, torch.ones((), device="meta"))
        with LivePeak() as decoding:
            decoded_part(vae, latents)
    assert 0.999 < needs.step * 2 / step.peak < 1.3
    assert 0.999 < needs.decode * 2 / decoding.peak < 1.3


def test_the_batch_is_chosen_by_what_stable_diffusion_1_4_needs() -> None:
    unet, vae = stable_diffusion(narrow=False)
    assert needs_of(unet, vae, height=512, width=512, is_guided=True) == USUAL_NEEDS
    assert USUAL_NEEDS.of(33, 11) == 33 * USUAL_NEEDS.step
    assert USUAL_NEEDS.of(4, 4) == 4 * USUAL_NEEDS.decode


@pytest.mark.parametrize(
    ("multiprocessors", "batch"), [(132, 33), (108, 27), (142, 32), (84, 42), (114, 32), (128, 32), (40, 30)]
)
def test_a_batch_fills_the_multiprocessors(multiprocessors: int, batch: int) -> None:
    assert batch_for(multiprocessors) == batch


@pytest.mark.parametrize(("gib", "batch"), [(80, 33), (7, 28), (4, 5), (1, 1)])
def test_a_batch_that_nobody_set_fits_into_a_gpu_of_this_size(gib: int, batch: int) -> None:
    assert batch_within(gib * GIB, most=33) == batch
    if batch > 1:
        assert USUAL_WEIGHTS + USUAL_NEEDS.of(batch, decoded_at_once(batch, USUAL_PIXELS)) <= gib * GIB


@pytest.mark.parametrize(
    ("batch", "side", "at_once"),
    [(33, 512, 11), (32, 512, 8), (32, 128, 8), (33, 1024, 1), (32, 1024, 2), (29, 512, 1)],
)
def test_the_decoder_takes_equal_parts_of_a_batch_and_stays_below_its_largest_tensor(
    batch: int, side: int, at_once: int
) -> None:
    assert decoded_at_once(batch, side * side) == at_once
    assert at_once * 256 * side * side < 2**31


def test_the_reference_decodes_one_image_at_a_time() -> None:
    pipeline, seen = load_pipeline(FOLDER, CPU), []
    pipeline.vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    Generator(pipeline).start(["zero"] * 3, [1, 2, 3], RECIPE.model_copy(update={"steps": 1}))
    assert seen == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "batch", "backend"),
    [({}, 32, None), ({"batch_size": 5}, 5, None), ({"compile": "on"}, 32, "inductor"), ({"compile": "off"}, 32, None)],
)
def test_a_cpu_draws_32_at_once_uncompiled_unless_told_otherwise(
    settings: dict[str, object], batch: int, backend: str | None
) -> None:
    machine = machine_of(Settings.model_validate({"device": "cpu"} | settings))
    assert (machine.batch, machine.backend) == (batch, backend)


LOAD = Load("sd14", 33, 512, 768, Needs(step=GIB, decode=GIB))


def test_a_batch_that_does_not_fit_is_refused_with_the_one_that_does() -> None:
    LOAD.refuse_beyond(33 * GIB)
    with pytest.raises(ConfigurationError) as refused:
        LOAD.refuse_beyond(33 * GIB - 1)
    assert refused.value.detail == (
        "model 'sd14' at 768 x 512 in batches of 33 needs about 33.0 GiB of GPU memory beside its weights, of which "
        "33.0 are free; set SYNTHCLONE_BATCH_SIZE=32"
    )


def test_where_no_image_fits_no_batch_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no batch fits: use a GPU with more memory, or a smaller width"):
        LOAD.refuse_beyond(GIB - 1)


def test_memory_that_runs_out_while_drawing_names_half_the_batch() -> None:
    engine = Engine(load_pipeline(FOLDER, CPU), pytest.fail, Machine(CPU, batch=6, kernels_dir=Path("unused")))
    engine.step = full
    with pytest.raises(ConfigurationError) as refused:
        engine.start(["zero"], [1], RECIPE)
    assert "GPU memory beside its weights, which ran out (CUDA out of memory. Tried to allocate" in refused.value.detail
    assert refused.value.detail.endswith("1.00 GiB is free); set SYNTHCLONE_BATCH_SIZE=3")


def full(*_: object) -> Tensor:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is "
        "free. Process 7 has 7.00 GiB memory in use. See documentation for Memory Management"
    )
