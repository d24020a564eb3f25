"""How long the demo takes on this machine, as a share of the six minutes it is meant to take once set up.

`python -m bench.demo`. The demo runs in an empty folder with everything it normally does.
"""

import tempfile
import time
from pathlib import Path

from rich.console import Console

from services.standalone.demo.plan import DemoPlan
from services.standalone.demo.run import run_demo

from .machine import write_result

LIMIT_SECONDS = 360.0


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_demo(DemoPlan(), Path(folder), Console(stderr=True))
    seconds = time.perf_counter() - started
    print(f"demo {seconds:.0f} s, {seconds / LIMIT_SECONDS:.2f} of the {LIMIT_SECONDS:.0f} s it may take")
    facts = {"seconds": round(seconds, 1), "ratio": round(seconds / LIMIT_SECONDS, 3)}
    write_result("demo", facts, ("torch", "diffusers", "timm"))


if __name__ == "__main__":
    main()
