"""Images per second of the engine beside diffusers' pipeline untouched: same weights, prompts, seeds and steps.

`python -m bench.generation` measures on the GPU where there is one (on_gpu.py), else on the CPU (on_cpu.py).
`python -m bench.generation --tiny` takes the GPU's path on the CPU with a small network: it shows that every stage
runs, not how fast.
"""

import argparse
import sys

import torch

from . import on_cpu, on_gpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="every stage of the GPU's benchmark, small, on the CPU")
    if parser.parse_args().tiny:
        missed = on_gpu.main(is_tiny=True)
    elif torch.cuda.is_available():
        missed = on_gpu.main()
    else:
        missed = on_cpu.main()
    for limit in missed:
        print(f"missed: {limit}", file=sys.stderr)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
