"""The GPU's benchmark of generation: every stage, small, on the CPU, and its parts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from bench.generation import on_cpu
from bench.generation.counts import Counts
from bench.generation.kernels import Profile, Span, kind_of
from bench.generation.on_gpu import measure
from bench.generation.plan import FULL, TINY, Batch, batch
from bench.generation.report import markdown
from bench.generation.result import Errors, ImageError, Result, WorkerResult, missed
from bench.generation.rounds import Rounds
from bench.generation.stages import Stages
from bench.generation.weights import SD14, make_sampler, make_unet, make_vae
from services.sd_worker.engine.choices import Trial
from services.sd_worker.flops import image_flop
from tests.tables import Report


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    kept: list[Result] = []
    found = measure(TINY, tmp_path_factory.mktemp("tiny"), keep=kept.append)
    # After the rounds and after each later stage, so that what fails there loses nothing before it.
    assert [each.errors is not None for each in kept] == [False, True, True, True, True]
    assert kept[-1] == found
    return found


@pytest.mark.slow
def test_every_stage_runs_without_a_gpu_and_nothing_is_left_out(result: Result) -> None:
    assert list(result.arms) == ["A", "A'", "B", "A, one by one"]
    assert all(len(arm.rounds) == TINY.rounds and min(arm.rounds) > 0 for arm in result.arms.values())
    assert result.left_out == ()
    assert result.warm_start_seconds is not None
    assert result.whole is not None
    assert result.whole.images == TINY.whole_batches * result.arms["B"].batch
    assert result.whole.ratio == pytest.approx(result.whole.worker / result.whole.engine, abs=1e-3)
    assert Result.model_validate(result.model_dump(mode="json")) == result


@pytest.mark.slow
@pytest.mark.parametrize("case", on_cpu.CASES, ids=lambda case: case.name)
def test_the_engine_beside_the_pipeline_on_this_cpu(case: on_cpu.Case, report: Report) -> None:
    """The numbers are printed and not judged: other tests share the cores. `python -m bench.generation` judges."""
    smaller = case._replace(batch=case.batch // 2, recipe=case.recipe.model_copy(update={"steps": 4}))
    found = on_cpu.compare(smaller, rounds=1)
    speeds = found.facts["images_per_second"]
    assert isinstance(speeds, dict)
    line = (case.name, smaller.batch, f"{speeds['A']:.2f}", f"{speeds['B']:.2f}", f"{found.ratio:.2f}")
    report("one round of engine and pipeline", ("model", "batch", "A img/s", "B img/s", "B/A"), [line])
    assert found.grey_levels <= on_cpu.MOST_GREY_LEVELS


@pytest.mark.slow
def test_all_ways_of_drawing_give_the_images_of_higher_precision(result: Result) -> None:
    assert result.errors is not None
    assert result.errors.contrast > 10
    assert all(image.most <= 1 for image in result.errors.images.values())
    assert all(0 < rms < 1e-5 for rms in result.errors.evaluations_rms.values())


@pytest.mark.slow
def test_the_profile_sees_each_kind_of_work(result: Result) -> None:
    assert result.profile is not None
    kinds = ("conv", "gemm", "attention", "norm", "pointwise")
    # Milliseconds are a difference of two runs, which beside other tests may have any sign.
    assert all(kernels[kind] for kernels in result.profile.kernels.values() for kind in kinds)
    assert all(result.profile.ideal_milliseconds[kind] > 0 for kind in (*kinds, "decoder"))
    assert result.profile.milliseconds["decoder"] > 0
    assert all("attention" in kernels["attention"][0] for kernels in result.profile.kernels.values())


@pytest.mark.slow
def test_what_was_not_measured_is_neither_reached_nor_shown(result: Result) -> None:
    without = result.model_copy(update={"errors": None, "whole": None, "profile": None, "ratios": {"A": 2.0}})
    assert [limit for limit in missed(without) if limit.endswith("not measured")] == [
        "B/A' at least 1.25: not measured",
        "the whole worker at least 0.99 of its engine: not measured",
        "B's error of an evaluation at most 1.5 of A's: not measured",
        "B's error of an image at most 1.5 of A's: not measured",
    ]
    assert "PSNR" in markdown(result)
    assert "PSNR" not in markdown(without)
    assert "the engine alone" in markdown(result)
    assert "the engine alone" not in markdown(without)


@pytest.mark.slow
def test_the_choice_between_kernels_is_shown_with_its_times(result: Result) -> None:
    assert "us of B's operation" not in markdown(result)
    times = {"torch": 90.4, "triton": 71.6, "other": 80.0}
    tried = Trial(taken="triton", microseconds=times, apart={"triton": 1e-4}, failures={})
    alone = Trial(taken="torch", microseconds={"torch": 5.0}, apart={}, failures={"triton": "Unfit: shared memory"})
    shown = markdown(result.model_copy(update={"choices": {"norm 2x320": tried, "geglu 1": alone}}))
    assert "| norm 2x320 | 90 | 72 | triton |" in shown
    assert "| geglu 1 | 5 | none ran | torch |" in shown


def changed(model: BaseModel, **fields: object) -> BaseModel:
    return model.model_copy(update=fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("A", 1.64, "B/A at least 1.65: 1.640"), ("A'", float("nan"), "B/A' at least 1.25: nan"), ("A", 1.65, None)],
)
def test_a_limit_is_missed_below_it_and_by_no_number(result: Result, name: str, value: float, limit: str) -> None:
    good = {"A": 1.65, "A'": 1.25}
    ours = changed(result.arms["B"], utilisation=0.64)
    errors = Errors(
        timesteps=(1,),
        evaluations={},
        evaluations_rms={"A": 1.0, "B": 1.5},
        images={arm: ImageError(rms=rms, psnr_db=40, most=1) for arm, rms in (("A", 0.1), ("B", 0.2))},
        contrast=50,
    )
    whole = WorkerResult(images=4, engine=1.0, worker=0.99, ratio=0.99)
    found = changed(result, ratios=good | {name: value}, arms={"B": ours}, errors=errors, whole=whole)
    assert missed(found) == ([] if limit is None else [limit])


def test_an_image_of_stable_diffusion_1_4_has_the_operations_that_the_worker_counts(tmp_path: Path) -> None:
    with torch.device("meta"):
        make_unet(SD14).save_config(tmp_path / "unet")
        make_vae(SD14).save_config(tmp_path / "vae")
    make_sampler().save_config(tmp_path / "scheduler")
    counts = Counts(tmp_path, FULL.recipe, torch.float16)
    assert counts.total == image_flop(tmp_path, FULL.recipe)
    assert counts.total / 1e12 == pytest.approx(84.45, abs=0.01)
    # 102 evaluations of 443.95, 233.28 and 126.05 GFLOP; GroupNorm reads twice and writes once, LayerNorm half of both.
    found = [counts.network[kind] / 102e9 for kind in ("conv", "gemm", "attention")]
    assert found == pytest.approx([443.95, 233.28, 126.05], rel=1e-3)
    assert counts.bytes["norm"] / 102e6 == pytest.approx(270 + 139, rel=0.01)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1", "conv"),
        ("sm80_xmma_dgrad_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x256x32", "conv"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "gemm"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_relu_f16_128x256_32x3_tn_align8>", "gemm"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_6_64x64x64_4x1x1", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64>>", "attention"),
        ("triton_red_fused__to_copy_add_convolution_native_group_norm_silu_4", "norm"),
        ("triton_per_fused_add_native_layer_norm_7", "norm"),
        ("scaled", "norm"),
        ("gated_product", "gemm"),
        ("narrow_attention", "attention"),
        ("triton_poi_fused_add_convolution_div_11", "pointwise"),
        ("triton_poi_fused_clone_3", "copy"),
        ("void cudnn::ops::nchwToNhwcKernel<__half, __half, float>", "copy"),
        ("void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::Half>", "norm"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>", "pointwise"),
        ("Memcpy DtoH (Device -> Pinned)", "copy"),
        ("aten::addmm", "gemm"),
        ("something else", "other"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_idle_is_what_no_kernel_covers() -> None:
    found = Profile([Span("gemm", 5, 9, 4), Span("gemm", 0, 4, 4), Span("memcpy", 2, 3, 1), Span("gemm", 12, 14, 2)])
    assert found.idle == pytest.approx(0.004)
    assert found.milliseconds["gemm"] == pytest.approx(0.010)


def test_a_stage_without_time_is_left_out_and_said() -> None:
    now = 0.0
    stages = Stages(100, clock=lambda: now)
    with stages.stage("first"):
        now = 70.0
    assert stages.seconds == {"first": 70.0}
    assert stages.has_time("second", 30)
    assert not stages.has_time("third", 31)
    assert stages.left_out == ["third: 30 s were left, 31 s wanted"]


def test_an_image_has_the_same_prompt_and_seed_in_batches_of_any_size() -> None:
    whole, second = batch(20), batch(8, first=12)
    assert (whole.prompts[12:], whole.seeds[12:]) == (second.prompts, second.seeds)


class Counting:
    """Draws nothing, in ten seconds an image by a clock that is turned by hand."""

    name, batch = "counting", 2

    def __init__(self) -> None:
        self.now = 0.0

    def draw(self, batches: Sequence[Batch]) -> list[NDArray[np.uint8]]:
        self.now += 10 * sum(len(each.seeds) for each in batches)
        return []

    def outputs(self, noise: Tensor, timestep: Tensor, texts: Tensor, empty: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("limit", "batches", "turns"),
    [(130, 2, 3), (129, 1, 3), (70, 1, 3), (69, 1, 2), (20, 1, 1)],
)
def test_rounds_shrink_to_the_time_that_is_there(limit: float, batches: int, turns: int) -> None:
    arm = Counting()
    rounds = Rounds(TINY._replace(rounds=3, batches=2), [arm])
    rounds.draw(Stages(limit, clock=lambda: arm.now), seconds_per_image=10, reserved_seconds=10)
    assert len(rounds.turns["counting"]) == turns
    assert arm.now == 10 * 2 * batches * turns
