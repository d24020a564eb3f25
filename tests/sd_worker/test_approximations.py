"""Approximated trajectories against exact ones: what they leave out, and what they must not change."""

from collections.abc import Sequence

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from services.sd_worker.engine.approximations import (
    ApproximatedStep,
    Evaluation,
    Evaluations,
    kept,
    plan_evaluations,
    reused,
)
from services.sd_worker.engine.schedule import make_schedule
from services.sd_worker.engine.trajectory import Step, evaluated, make_table, trajectory
from services.sd_worker.engine.unet import EngineUNet, KeysAndValues
from services.sd_worker.generators import Engine
from services.sd_worker.pipeline import SCHEDULERS, Generator, load_pipeline
from shared.approximations import Approximation
from shared.errors import Rejected
from shared.specs import Recipe
from tests.rows import RECIPE
from tests.sd_worker.narrow import CPU, FOLDER, SAMPLER_CONFIG, narrow_network, narrow_pipeline
from tests.sd_worker.test_compiled import Counter
from tests.sd_worker.test_engine import MACHINE, HostReads, clipping_pipeline

PROMPTS, SEEDS = ["zero", "seven, digit", "four"], [1, 2, 3]
BOTH = Approximation(guidance_interval=(0.2, 0.8), reuse_every=3)
PLAIN_OUTSIDE: dict[str, object] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}


@pytest.mark.parametrize("changes", [{}, PLAIN_OUTSIDE])
@pytest.mark.parametrize("is_guided", [False, True])
def test_a_shallow_evaluation_with_its_own_deep_features_is_the_whole_one(
    is_guided: bool, changes: dict[str, object]
) -> None:
    engine = EngineUNet(narrow_network(**changes).double())
    latents = torch.randn(3, 4, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        texts = engine.keys_and_values(torch.randn(6 if is_guided else 3, 77, 24, dtype=torch.float64))
        first, second = engine.time_biases(torch.tensor([421, 400]))
        output, features = engine.with_features(latents, first, texts)
        again = engine.shallow(latents, features, first, texts)
        later = engine.shallow(latents, features, second, texts)
    assert torch.equal(again, output)
    assert not torch.equal(later, output)


@pytest.mark.parametrize(("texts", "share"), [(2, 0.2145), (1, 0.2359)])
def test_a_shallow_evaluation_of_stable_diffusion_1_4_takes_this_share_of_the_operations(
    texts: int, share: float
) -> None:
    with torch.device("meta"):
        engine = EngineUNet(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
        (biases,) = engine.time_biases(torch.empty(1))
        known = engine.keys_and_values(torch.empty(texts, 77, 768))
        latents = torch.empty(1, 4, 64, 64)
        with FlopCounterMode(display=False) as whole:
            _, features = engine.with_features(latents, biases, known)
        with FlopCounterMode(display=False) as shallow:
            engine.shallow(latents, features, biases, known)
    assert shallow.get_total_flops() / whole.get_total_flops() == pytest.approx(share, abs=5e-5)


def narrow_latents(step: Step) -> Tensor:
    """Of two images, by a trajectory of 10 guided evaluations."""
    unet = EngineUNet(narrow_network())
    table = make_table(unet, make_schedule(SCHEDULERS["dpm++"].from_config(SAMPLER_CONFIG), 10), CPU)
    drawn = torch.Generator().manual_seed(1)
    noise, text = torch.randn(2, 4, 16, 16, generator=drawn), torch.randn(3, 77, 24, generator=drawn)
    with HostReads() as reads:
        latents = trajectory(unet, table, noise, text[:2], text[2], guidance=2.0, step=step)
    assert reads.count == 0
    return latents


def approximated(plan: Sequence[Evaluation]) -> ApproximatedStep:
    return ApproximatedStep(plan, Evaluations(evaluated, kept, reused))


def test_a_trajectory_whose_every_evaluation_is_whole_is_exact_bit_for_bit() -> None:
    plan = [Evaluation(is_guided=True, is_whole=True)] * 10
    never_reached = Evaluation(is_guided=True, is_whole=False)
    exact = narrow_latents(evaluated)
    assert torch.equal(narrow_latents(approximated(plan)), exact)
    assert torch.equal(narrow_latents(approximated([*plan, never_reached])), exact)


def test_where_guidance_ends_the_features_of_the_prompted_images_are_reused() -> None:
    unet = EngineUNet(narrow_network())
    latents, weight = torch.randn(2, 4, 16, 16), torch.tensor(2.0)
    step = approximated([Evaluation(is_guided=True, is_whole=True), Evaluation(is_guided=False, is_whole=False)])
    with torch.inference_mode():
        first, second = unet.time_biases(torch.tensor([421, 400]))
        texts = unet.keys_and_values(torch.randn(4, 77, 24))
        step(unet, latents, first, texts, weight)
        found = step(unet, latents, second, texts, weight)
        features = unet.with_features(latents, first, texts)[1][2:]
        expected = unet.shallow(
            latents, features, second, [KeysAndValues(*(part[2:] for part in each)) for each in texts]
        )
    assert torch.equal(found, expected)


def test_an_approximated_trajectory_is_another_and_asks_the_device_for_no_number() -> None:
    exact = narrow_latents(evaluated)
    plan = plan_evaluations(10, BOTH, has_guidance=True)
    assert {tuple(each) for each in plan} == {(True, True), (True, False), (False, True), (False, False)}
    assert not torch.equal(narrow_latents(approximated(plan)), exact)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_pipeline(FOLDER, CPU), pytest.fail, MACHINE)


def recipe_of(approximation: Approximation | None, **changes: object) -> Recipe:
    usual: dict[str, object] = {"steps": 12, "guidance": 2.0, "engine": approximation or "exact"}
    return RECIPE.model_copy(update=usual | changes)


def draw(generator: Engine | Generator, recipe: Recipe, count: int = 3) -> np.ndarray:
    return generator.start(PROMPTS[:count], SEEDS[:count], recipe).wait().pixels.astype(int)


def test_guidance_in_all_evaluations_is_exact_and_in_none_is_guidance_1(engine: Engine) -> None:
    in_all, in_none = (Approximation(guidance_interval=interval) for interval in ((0.0, 0.99), (0.0, 0.01)))
    assert np.array_equal(draw(engine, recipe_of(in_all)), draw(engine, recipe_of(None)))
    unguided = draw(engine, recipe_of(None, guidance=1.0))
    assert np.abs(draw(engine, recipe_of(in_none)) - unguided).max() <= 1
    assert np.abs(draw(engine, recipe_of(None)) - unguided).max() > 10


@pytest.mark.parametrize(
    "approximation",
    [
        Approximation(guidance_interval=(0.2, 0.8)),
        Approximation(reuse_every=2),
        Approximation(reuse_every=3),
        BOTH,
    ],
)
@pytest.mark.parametrize("name", ["dpm++", "pndm"])
def test_approximated_images_are_others_and_much_like_the_exact_ones(
    engine: Engine, approximation: Approximation, name: str
) -> None:
    apart = np.abs(
        draw(engine, recipe_of(approximation, scheduler=name)) - draw(engine, recipe_of(None, scheduler=name))
    )
    assert apart.max() > 1
    assert apart.mean() < 6  # without guidance 9.8, with features of the first evaluation alone 16


@pytest.mark.parametrize("approximation", [Approximation(reuse_every=3), BOTH])
def test_an_approximated_image_is_the_same_alone_and_beside_others(
    engine: Engine, approximation: Approximation
) -> None:
    recipe = recipe_of(approximation)
    together, alone = draw(engine, recipe), draw(engine, recipe, count=1)
    assert np.abs(together[:1] - alone).max() <= 1


def test_each_kind_of_evaluation_is_compiled_once_and_an_interval_alone_takes_those_of_exact_recipes(
    engine: Engine,
) -> None:
    torch._dynamo.reset()
    counter = Counter()
    machine = MACHINE._replace(batch=2, backend=counter)
    compiled = Engine(load_pipeline(FOLDER, CPU), pytest.fail, machine)
    for approximation, guidance in ((None, 1.0), (None, 2.0), (Approximation(guidance_interval=(0.2, 0.8)), 2.0)):
        draw(compiled, recipe_of(approximation, steps=4, guidance=guidance), count=2)
    assert len(counter.graphs) == 3  # guided or not, and the decoder
    found = draw(compiled, recipe_of(BOTH, steps=4), count=2)
    assert len(counter.graphs) == 7  # guided or not, whole or not
    assert np.abs(found - draw(engine, recipe_of(BOTH, steps=4), count=2)).max() <= 1
    for changes in ({"steps": 6}, {"steps": 4, "guidance": 7.5}):
        draw(compiled, recipe_of(BOTH, **changes), count=1)
    assert len(counter.graphs) == 7


def test_what_only_the_reference_could_draw_is_refused_with_the_reason_and_no_exact_image() -> None:
    narrow = Engine(narrow_pipeline(), pytest.fail, MACHINE)
    with pytest.raises(Rejected, match=r"deep features of one in 3 .*72 x 64 are not multiples of 64.*without one"):
        draw(narrow, recipe_of(Approximation(reuse_every=3), width=72, height=64))
    clipping = Engine(clipping_pipeline(), pytest.fail, MACHINE)
    with pytest.raises(Rejected, match=r"DDIMScheduler clips latents"):
        draw(clipping, recipe_of(BOTH, scheduler="ddim"))


def test_the_reference_draws_models_that_are_distilled_and_no_approximated_trajectories(engine: Engine) -> None:
    reference = Generator(load_pipeline(FOLDER, CPU))
    with pytest.raises(Rejected, match="the engine does not know the model's parts"):
        draw(reference, recipe_of(Approximation(reuse_every=3, distilled=True)))
    exact, distilled = recipe_of(None, steps=3), recipe_of(Approximation(distilled=True), steps=3)
    for generator in (reference, engine):
        assert np.array_equal(draw(generator, distilled), draw(generator, exact))
