"""`python -m tests.sd_worker.built_programs`: Triton's kernels as they would be built on a GPU, which needs none.

Prints one JSON object a line: a program's tile, and the registers, spilled bytes, shared memory and matrix
instructions of its machine code. Run without TRITON_INTERPRET.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from services.sd_worker.engine import geglu, group_norm, programs, self_attention

ARCHITECTURES = (80, 90)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
HALF, SINGLE = "*fp16", "*fp32"
TYPES = {"images": HALF, "weights": HALF, "biases": HALF, "outputs": HALF, "inputs": HALF, "queries": HALF}
TYPES |= {"offsets": HALF, "keys": HALF, "values": HALF, "epsilon": "fp32", "scale": "fp32"}
TYPES |= dict.fromkeys(("means", "squares", "scales", "shifts"), SINGLE)


def builds() -> Iterator[tuple[Any, dict[str, object], dict[str, int]]]:
    """Each program with its constants at Stable Diffusion 1.4's first level, and its options."""
    usual = {"num_warps": group_norm.WARPS}
    tile = {"PIXELS": group_norm.TILE // 64, "CHANNELS": 64}
    yield programs.channel_moments, {"STRIPE": group_norm.STRIPE, **tile}, usual
    lanes = {"HAS_OFFSETS": True, "STRIPE": group_norm.STRIPE, "STRIPES": group_norm.STRIPES, "WIDTH": 10, "LANES": 16}
    yield programs.channel_scales, lanes, usual
    yield programs.scaled, {"HAS_SILU": True, **tile}, usual
    for rows, columns, depth, warps, stages in geglu.TILES:
        constants = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "BAND": geglu.BAND}
        yield programs.gated_product, constants, {"num_warps": warps, "num_stages": stages}
    width = {"WIDTH": self_attention.WIDTH, "FRONT": self_attention.FRONT, "BACK": self_attention.BACK}
    for queries, keys, warps, stages in self_attention.TILES:
        options = {"num_warps": warps, "num_stages": stages}
        yield programs.narrow_attention, {"QUERIES": queries, "KEYS": keys, **width}, options


def built(program: Any, constants: dict[str, object], options: dict[str, int], architecture: int) -> dict[str, object]:
    names = program.arg_names
    types = {name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in names}
    # As Triton itself finds it for whole tensors and for numbers that are multiples of 16.
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in types.items() if kind[0] in "*i"}
    source = ASTSource(fn=program, signature=types, constexprs=constants, attrs=aligned)
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = told(TOOLS / "cuobjdump", "--dump-resource-usage", file.name)
        code = told(TOOLS / "nvdisasm", file.name)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    return {
        "program": program.__name__,
        "architecture": architecture,
        "constants": constants,
        "options": options,
        "registers": registers,
        "spilled": stack,
        "shared": kernel.metadata.shared,
        "products": len(re.findall(r"\bH(?:G)?MMA\b", code)),
        "wide_loads": len(re.findall(r"\bLD(?:G|GSTS)\.E\.(?:\w+\.)*128\b", code)),
    }


def told(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    for architecture in ARCHITECTURES:
        for program, constants, options in builds():
            sys.stdout.write(json.dumps(built(program, constants, options, architecture)) + "\n")


if __name__ == "__main__":
    main()
