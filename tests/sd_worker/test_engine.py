"""The engine's algebra, part by part, against diffusers' modules."""

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from services.sd_worker.engine.schedule import NotLinear, make_schedule
from services.sd_worker.engine.unet import EngineUNet, Unsupported, refuse_other
from services.sd_worker.engine.upsample import FoldedUpsample
from services.sd_worker.generators import Engine, load_generator
from services.sd_worker.machine import Machine
from services.sd_worker.pipeline import SCHEDULERS, Generator, load_pipeline
from shared.settings import PROJECT_ROOT
from shared.specs import Recipe
from tests.rows import RECIPE
from tests.sd_worker.narrow import CPU, FOLDER, NARROW, SAMPLER_CONFIG, narrow_network, narrow_pipeline

MACHINE = Machine(CPU, batch=32, kernels_dir=Path("unused"))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("is_guided", [False, True])
def test_the_network_gives_what_diffusers_network_gives(is_guided: bool, linear: bool) -> None:
    reference = narrow_network(use_linear_projection=linear).double()
    engine = EngineUNet(narrow_network(use_linear_projection=linear).double())
    latents = torch.randn(3, 4, 16, 16, dtype=torch.float64)
    texts = torch.randn(6 if is_guided else 3, 77, 24, dtype=torch.float64)
    with torch.inference_mode():
        (biases,) = engine.time_biases(torch.tensor([421]))
        found = engine(latents, biases, engine.keys_and_values(texts))
        expected = reference(latents.repeat(len(texts) // 3, 1, 1, 1), 421, texts, return_dict=False)[0]
    # diffusers computes the sines of a timestep in float32 whatever the network's type; both do here.
    assert float((found - expected).abs().max()) < 1e-12 * float(expected.abs().max()) + 1e-13


def test_a_guided_step_of_stable_diffusion_1_4_takes_as_many_operations_as_counted() -> None:
    """2 x 762.57 - 41.71 GFLOP: upsampling folded, keys and values known, the halves one until the first text."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        engine = EngineUNet(unet)
        (biases,) = engine.time_biases(torch.empty(1))
        known = engine.keys_and_values(torch.empty(2, 77, 768))
        with FlopCounterMode(display=False) as counted:
            engine(torch.empty(1, 4, 64, 64), biases, known)
    assert counted.get_total_flops() / 1e9 == pytest.approx(2 * 762.57 - 41.71, rel=1e-3)


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_folded_upsampling_is_the_doubling_and_its_convolution(has_bias: bool) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 3, padding=1, bias=has_bias).double()
    hidden = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    expected = convolution(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
    assert torch.allclose(FoldedUpsample(convolution)(hidden), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 3, 12, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_table_takes_the_steps_of_diffusers_sampler(name: str, steps: int) -> None:
    """With a network whose output depends on everything it is given."""
    sampler = SCHEDULERS[name].from_config(SAMPLER_CONFIG)
    table = make_schedule(SCHEDULERS[name].from_config(SAMPLER_CONFIG), steps)
    noise = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def network(latents: Tensor, timestep: Tensor) -> Tensor:
        return torch.sin(latents * 3 + timestep.double() / 100) + 0.1 * latents.roll(1, -1)

    sampler.set_timesteps(steps)
    expected = noise * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        output = network(sampler.scale_model_input(expected, timestep), timestep)
        expected = sampler.step(output, timestep, expected, return_dict=False)[0].double()

    history, latents = [noise], noise * table.noise_scale
    for number, timestep in enumerate(table.timesteps):
        history.append(network(latents * table.input_scales[number], timestep))
        row = torch.from_numpy(table.steps[number, : number + 2])
        latents = torch.tensordot(row, torch.stack(history), dims=1)
    # diffusers' samplers compute in float32 in places, and the network above makes much of small differences.
    assert float((latents - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ddim", {"clip_sample": True}),
        ("dpm++", {"thresholding": True}),
        ("dpm++", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_a_sampler_that_clips_or_adds_noise_has_no_table(name: str, setting: dict[str, object]) -> None:
    with pytest.raises(NotLinear, match=r"Scheduler (clips latents|is set to thresholding or to fresh noise)"):
        make_schedule(SCHEDULERS[name].from_config(SAMPLER_CONFIG | setting), 10)


READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)  # the second in inference mode


class HostReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func in READS
        return func(*args, **(kwargs or {}))


def test_a_batch_never_asks_the_device_for_a_number(narrow_engine: Engine) -> None:
    draw(narrow_engine, ["zero", "one"], [1, 2], NARROW)  # texts and tables are made once
    with HostReads() as reads:
        draw(narrow_engine, ["one", "zero"], [3, 4], NARROW)
    assert reads.count == 0
    with torch.inference_mode(), HostReads() as reads:
        torch.ones(1).item()
    assert reads.count == 1


def test_every_tensor_stays_on_the_device_in_the_networks_type() -> None:
    """In a process of its own: PyTorch is told of a device once and for all."""
    command = [sys.executable, "-m", "tests.sd_worker.far_device"]
    ended = subprocess.run(command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


class Layouts(TorchDispatchMode):
    """Shapes of the images that a convolution is given in another order than channels last."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.count, self.others = 0, []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "conv" in str(func):
            self.count += 1
            if not args[0].is_contiguous(memory_format=torch.channels_last):
                self.others.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_images_lie_channels_last_at_every_convolution_but_the_first_of_each_network(narrow_engine: Engine) -> None:
    """From diffusers' order into this one and back costs a pass over memory each time."""
    with Layouts() as layouts:
        draw(narrow_engine, ["zero", "one"], [1, 2], NARROW.model_copy(update={"steps": 2, "guidance": 7.5}))
    latents = (2, 4, 8, 8)
    assert layouts.others == [latents] * 3  # two steps and the decoder
    assert layouts.count > 2 * 60


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_class_embeds": 3}, "num_class_embeds is 3"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"down_block_types": ("AttnDownBlock2D",) + ("DownBlock2D",) * 3}, "block AttnDownBlock2D"),
    ],
)
def test_a_network_with_other_parts_is_refused_by_their_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        refuse_other(narrow_network(**changes))


def test_what_the_engine_cannot_draw_is_drawn_by_the_reference_and_said(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("other")
    pipeline = load_pipeline(FOLDER, CPU)
    other = UNet2DConditionModel.from_config(dict(pipeline.unet.config) | {"mid_block_scale_factor": 2})
    other.load_state_dict(pipeline.unet.state_dict())
    pipeline.unet = other
    pipeline.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        generator = load_generator(folder, MACHINE)
    assert isinstance(generator, Generator)
    assert "mid_block_scale_factor is 2" in str(vars(caplog.records[-1]))
    assert isinstance(load_generator(FOLDER, MACHINE), Engine)


def draw(generator: Engine | Generator, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> np.ndarray:
    return generator.start(prompts, seeds, recipe).wait().pixels.astype(int)


def clipping_pipeline() -> StableDiffusionPipeline:
    pipeline = load_pipeline(FOLDER, CPU)
    pipeline.scheduler = SCHEDULERS["pndm"].from_config(dict(pipeline.scheduler.config) | {"clip_sample": True})
    return pipeline


@pytest.mark.parametrize(
    ("load", "changes", "reason"),
    [
        (lambda: narrow_pipeline(), {"width": 72, "height": 64}, "72 x 64 are not multiples of 64"),
        (clipping_pipeline, {"scheduler": "ddim"}, "DDIMScheduler clips latents"),
    ],
)
def test_a_recipe_beyond_the_engine_is_drawn_by_the_reference_and_said_once(
    load: Callable[[], StableDiffusionPipeline],
    changes: dict[str, object],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = RECIPE.model_copy(update={"steps": 3} | changes)
    engine = Engine(load(), lambda: Generator(load()), MACHINE)
    expected = draw(Generator(load()), ["zero"], [1], recipe)
    found = [draw(engine, ["zero"], [1], recipe) for _ in range(2)]
    assert all(np.array_equal(each, expected) for each in found)
    said = [str(vars(record)) for record in caplog.records if "which is slower" in record.message]
    assert len(said) == 1
    assert reason in said[0]


@pytest.fixture(scope="module")
def narrow_reference() -> StableDiffusionPipeline:
    return narrow_pipeline()


@pytest.fixture(scope="module")
def narrow_engine() -> Engine:
    return Engine(narrow_pipeline(), pytest.fail, MACHINE)


def plain(pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], recipe: Recipe) -> np.ndarray:
    """By diffusers alone, from the text on."""
    pipeline.scheduler = SCHEDULERS[recipe.scheduler].from_config(pipeline.scheduler.config)
    result = pipeline(
        prompts,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        guidance_scale=recipe.guidance,
        num_inference_steps=recipe.steps,
        height=recipe.height,
        width=recipe.width,
        output_type="np",
    )
    return (np.asarray(result.images) * 255).round().astype(int)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance", [1.0, 2.0, 7.5])
def test_images_of_a_narrow_stable_diffusion_equal_diffusers_within_one_grey_level(
    narrow_engine: Engine, narrow_reference: StableDiffusionPipeline, name: str, guidance: float
) -> None:
    recipe = NARROW.model_copy(update={"scheduler": name, "guidance": guidance})
    prompts, seeds = ["zero", "seven, digit"], [1, 2]
    expected = plain(narrow_reference, prompts, seeds, recipe)
    found = draw(narrow_engine, prompts, seeds, recipe)
    assert np.abs(found - expected).max() <= 1
    assert expected.std() > 10


@pytest.mark.parametrize("model", ["demo", "narrow"])
def test_images_of_prompts_of_every_length_equal_diffusers_within_one_grey_level(
    narrow_engine: Engine, narrow_reference: StableDiffusionPipeline, model: str
) -> None:
    """77 tokens are read, the first and the last of which mark the ends."""
    words = [0, 1, 2, 7, 40, 74, 75, 100]
    if model == "demo":
        engine, reference = Engine(load_pipeline(FOLDER, CPU), pytest.fail, MACHINE), load_pipeline(FOLDER, CPU)
    else:
        engine, reference = narrow_engine, narrow_reference
    recipe = NARROW.model_copy(update={"guidance": 7.5, "steps": 3})
    prompts = [" ".join(["zero", *["seven"] * (count - 1)]) if count else "" for count in words]
    assert [len(reference.tokenizer(prompt).input_ids) for prompt in prompts] == [count + 2 for count in words]
    expected = plain(reference, prompts, words, recipe)
    assert np.abs(draw(engine, prompts, words, recipe) - expected).max() <= 1


def test_an_image_is_the_same_alone_and_at_every_place_of_any_batch(narrow_engine: Engine) -> None:
    alone = draw(narrow_engine, ["four"], [9], NARROW)
    for place, company in enumerate((["one", "two"], ["four", "four", "zero"], ["six", "zero"])):
        prompts = [*company[:place], "four", *company[place:]]
        seeds = [9 if each == place else 20 + each for each in range(len(prompts))]
        assert np.abs(draw(narrow_engine, prompts, seeds, NARROW)[place] - alone[0]).max() <= 1
