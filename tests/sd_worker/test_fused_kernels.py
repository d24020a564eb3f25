"""Triton's kernels against float64, run by Triton's interpreter, which computes a program's tiles with NumPy.

Not in bfloat16, which the interpreter cuts off instead of rounding, and multiplies by its bits.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import pytest
import torch
from torch import Tensor

from services.sd_worker.engine import geglu, group_norm, self_attention
from services.sd_worker.engine.choices import Compute, Operation, distance
from services.sd_worker.engine.upsample import folded, in_phases, transposed
from shared.settings import PROJECT_ROOT

# Of torch's own error in the same type.
MOST_ERROR = 1.5


def errors(operation: Operation, compute: Compute, *args: Tensor | float) -> tuple[float, float]:
    """This way's and torch's, beside torch's in float64."""
    exact = operation.plain(*(arg.double() if isinstance(arg, Tensor) else arg for arg in args))
    return distance(compute(*args).double(), exact), distance(operation.plain(*args).double(), exact)


@pytest.mark.parametrize("has_silu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 320, 16, 24), 32), ((3, 96, 5, 7), 8), ((1, 64, 1, 1), 32), ((2, 512, 4, 4), 32)]
)
def test_group_norm_is_as_exact_as_torchs(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, has_silu: bool
) -> None:
    torch.manual_seed(0)
    images = (3 * torch.randn(shape) + torch.randn(shape[1])[:, None, None]).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, shape[1]).to(dtype)
    found, torchs = errors(group_norm.OPERATION, group_norm.fused, images, weight, bias, groups, 1e-5, has_silu)
    assert found <= MOST_ERROR * torchs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_convolution_and_its_group_norm_are_as_exact_as_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 32, 9, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    kernel, offset = (torch.randn(96, 32, 3, 3) / 17).to(dtype), (2 * torch.randn(96)).to(dtype)
    weight, bias = torch.randn(2, 96).to(dtype)
    tried = group_norm.AFTER_CONVOLUTION
    found, torchs = errors(tried, group_norm.fused_convolved, images, kernel, offset, weight, bias, 32, 1e-5)
    assert found <= MOST_ERROR * torchs


def test_group_norm_keeps_its_digits_beside_a_mean_a_thousand_times_the_deviation() -> None:
    torch.manual_seed(0)
    images = (1000 + torch.randn(2, 64, 20, 20)).contiguous(memory_format=torch.channels_last)
    found, torchs = errors(group_norm.OPERATION, group_norm.fused, images, *torch.randn(2, 64), 32, 1e-6, False)
    assert found <= MOST_ERROR * torchs


def test_group_norm_of_one_value_everywhere_is_its_bias() -> None:
    images = torch.full((2, 64, 6, 6), 7.0, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 64).half()
    found = group_norm.fused(images, weight, bias, 32, 1e-6, False)
    torch.testing.assert_close(found, bias[None, :, None, None].expand_as(found), rtol=0, atol=2e-3)


@pytest.mark.parametrize("tile", range(len(geglu.TILES)))
@pytest.mark.parametrize(("rows", "taken", "width"), [((2, 150), 64, 200), ((1, 1), 192, 8), ((1290,), 64, 64)])
def test_the_gated_layer_is_as_exact_as_torchs(rows: tuple[int, ...], taken: int, width: int, tile: int) -> None:
    torch.manual_seed(0)
    tokens, weight = torch.randn(*rows, taken).half(), (torch.randn(2 * width, taken) / taken**0.5).half()
    bias = torch.randn(2 * width).half()
    compute = list(geglu.OTHERS.values())[tile]
    found, torchs = errors(geglu.OPERATION, compute, tokens, weight, bias)
    assert found <= MOST_ERROR * torchs
    assert compute(tokens, weight, bias).shape == (*rows, width)


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("tile", range(len(self_attention.TILES)))
def test_attention_of_narrow_heads_is_as_exact_as_torchs(tile: int, size: int) -> None:
    """`size` 8: scores of hundreds, whose exponentials would overflow if the largest were not taken off."""
    torch.manual_seed(0)
    packed = (size * torch.randn(2, 384, 3 * 2 * self_attention.WIDTH)).half()
    compute = list(self_attention.OTHERS.values())[tile]
    found, torchs = errors(self_attention.OPERATION, compute, packed, 2)
    assert found <= MOST_ERROR * torchs


@pytest.mark.parametrize("height", [1, 5])
def test_doubling_in_phases_is_the_transposed_convolution(height: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 6, height, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight, bias = folded(torch.randn(3, 6, 3, 3, dtype=torch.float64)), torch.randn(3, dtype=torch.float64)
    found, expected = in_phases(hidden, weight, bias), transposed(hidden, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["group_norm", "geglu", "narrow_attention"])
def test_the_compiler_is_told_the_truth_about_each_kernel(name: str) -> None:
    """Shapes, places and types of results, without the kernel's run."""
    images = torch.randn(2, 64, 4, 4).half().contiguous(memory_format=torch.channels_last)
    args: dict[str, tuple[object, ...]] = {
        "group_norm": (images, *torch.randn(2, 64).half(), 32, 1e-5, True, torch.randn(64).half()),
        "geglu": (torch.randn(3, 64).half(), torch.randn(32, 64).half(), torch.randn(32).half(), 0),
        "narrow_attention": (torch.randn(1, 128, 120).half(), 1, 0),
    }
    tests = ("test_schema", "test_faketensor")
    assert set(
        torch.library.opcheck(getattr(torch.ops.synthclone, name).default, args[name], test_utils=tests).values()
    ) == {"SUCCESS"}


@pytest.mark.parametrize(("argument", "code"), [((), 0), (("--beyond",), -signal.SIGSEGV)])
def test_no_kernel_reads_behind_its_inputs(argument: tuple[str, ...], code: int) -> None:
    command = [sys.executable, "-m", "tests.sd_worker.guarded", *argument]
    assert subprocess.run(command, cwd=PROJECT_ROOT, check=False, timeout=300).returncode == code


def test_each_kernel_fits_a_gpu_and_multiplies_on_its_matrix_units(tmp_path: Path) -> None:
    """Of NVIDIA's A100 and H200: shared memory of a program 163 and 227 KiB, 255 registers of a thread."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "tests.sd_worker.built_programs"]
    told = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, capture_output=True, text=True)
    builds = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(builds) == 2 * 8
    for build in builds:
        is_new, multiplies = build["architecture"] == 90, build["program"] in ("gated_product", "narrow_attention")
        assert build["shared"] <= (227 if is_new else 163) * 1024, build
        assert build["spilled"] <= (0 if is_new else 128), build
        assert (build["products"] > 0) == multiplies, build
        assert build["wide_loads"] > 0 or build["program"] == "channel_scales", build
