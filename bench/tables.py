"""The tables of docs/performance.md, from bench/results.

`python -m bench.tables` writes them anew between their marks: `<!-- table NAME -->` and `<!-- end -->`.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from shared.settings import PROJECT_ROOT

from .generation.report import markdown, table
from .generation.result import Result

DOCUMENT = PROJECT_ROOT / "docs" / "performance.md"
RESULTS = PROJECT_ROOT / "bench" / "results"
BLOCK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# What a benchmark wrote: its shape is that benchmark's own.
Facts = dict[str, Any]


class Section(NamedTuple):
    command: str
    table: Callable[[Facts], str]
    where: str = ""


def generation(facts: Facts) -> str:
    header = ("model", "batch", "steps", "guidance", "A img/s", "B img/s", "B/A", "most grey levels apart")
    rows = []
    for case in facts["cases"]:
        speeds, recipe = case["images_per_second"], case["recipe"]
        given = (str(case["batch"]), str(recipe["steps"]), f"{recipe['guidance']:g}")
        measured = (f"{speeds['A']:.2f}", f"{speeds['B']:.2f}", f"{case['ratio']:.2f}", f"{case['grey_levels']:.0f}")
        rows.append((case["case"], *given, *measured))
    return table(header, rows)


def generate(facts: Facts) -> str:
    names = {"diffusers_loop": "diffusers' pipeline in a loop", "sd_worker": "the worker"}
    medians = {name: statistics.median(facts["seconds"][name]) for name in names}
    rows = [(names[name], f"{facts['images'] / seconds:.1f}", f"{seconds:.2f}") for name, seconds in medians.items()]
    header = (f"{facts['images']} images of digits-sd, batch {facts['batch']}", "img/s", "seconds, median")
    return table(header, [*rows, ("the worker's time over the loop's", "", f"{facts['ratio']:.3f}")])


def worker(facts: Facts) -> str:
    given = f"batches of {facts['batch']}, JPEGs of {facts['jpeg_kilobytes']} KB, {facts['s3_server']}"
    header = (given, "device img/s", "worker img/s", "of it", "between first and last batch", "CPU ms an image")
    rows = []
    for case in facts["cases"]:
        shares = (f"{case['efficiency']:.3f}", f"{case['steady_efficiency']:.3f}")
        speeds = (f"{case['bare']:.2f}", f"{case['whole']:.2f}")
        held_up = "" if case["ahead"] >= 1 else f", host held up until {case['ahead']:.0%} of a batch are left"
        rows.append((f"{case['images']} images{held_up}", *speeds, *shares, f"{case['cpu_milliseconds']:.2f}"))
    return table(header, rows)


def approximations(facts: Facts) -> str:
    header = ("digits-sd", "speed beside exact", "mean grey levels apart", "operations of Stable Diffusion 1.4's UNet")
    rows = []
    for row in facts["rows"]:
        given = ", ".join(f"{name} {value}" for name, value in row["approximation"].items() if value)
        rows.append((given, f"{row['ratio']:.2f}", f"{row['grey_levels']:.2f}", f"{row['sd14_operations']:.3f}"))
    return table(header, rows)


def generation_gpu(facts: Facts) -> str:
    fields = {name: value for name, value in facts.items() if name in Result.model_fields}
    return markdown(Result.model_validate(fields))


def claims(facts: Facts) -> str:
    header = (f"{facts['shards']:,} shards, {facts['workers']} workers", "shards/s, median", "rounds")
    rows = []
    for name, words in {"ours": "claim and commit", "bare": "a bare two-statement queue"}.items():
        rounds = ", ".join(f"{turn[name]:.0f}" for turn in facts["shards_per_second"])
        rows.append((words, f"{facts['median'][name]:.0f}", rounds))
    return table(header, [*rows, ("ratio", f"{facts['median']['ratio']:.3f}", "")])


def input_path(facts: Facts) -> str:
    rows = []
    for name, speed in facts["images_per_second"].items():
        ratio = f"{facts['ratios'][name]:.2f}" if name in facts["ratios"] else ""
        rows.append((name, f"{speed:.0f}", ratio))
    return table(("readying 512 x 512 JPEGs for 1 + 8 crops", "img/s", "ours beside it"), rows)


def train_step(facts: Facts) -> str:
    header = (f"{facts['model']}, {facts['batch']} images of {facts['side']} x {facts['side']}", "ms a step")
    rows = [("ours", f"{facts['ours_ms']:.1f}"), ("timm's training step", f"{facts['timm_ms']:.1f}")]
    return table(header, [*rows, ("ratio, and its deviation", f"{facts['ratio']:.3f}, {facts['deviation']:.3f}")])


def logistic(facts: Facts) -> str:
    header = (
        f"{facts['images']:,} x {facts['width']:,}, {facts['classes']} classes",
        "ours s",
        "scikit-learn s",
        "ratio",
    )
    single, sweep = facts["single"], facts["sweep"]
    taken = [statistics.median(turn["seconds"][name] for turn in single["rounds"]) for name in ("ours", "scikit-learn")]
    one = ("one strength, medians", *(f"{seconds:.2f}" for seconds in taken), f"{single['median_ratio']:.2f}")
    both = (f"{sweep['seconds'][name]:.2f}" for name in ("ours", "scikit-learn"))
    return table(header, [one, (f"{len(sweep['strengths'])} strengths", *both, f"{sweep['ratio']:.2f}")])


def accept(facts: Facts) -> str:
    rows = [(name, f"{found['median']:.2f}", f"{found['p99']:.2f}") for name, found in facts["milliseconds"].items()]
    rows += [(name, f"{value:.1f}", "") for name, value in facts["first_milliseconds"].items()]
    return table(("ms", "median", "99th percentile"), rows)


def manifest(facts: Facts) -> str:
    rows = [
        (words, f"{facts[name]['seconds']:.2f}", f"{facts[name]['mib']:.1f}")
        for name, words in {"manifest": "the manifest", "select": "a plain select of its rows"}.items()
    ]
    return table((f"{facts['shards']:,} shards", "seconds", "peak MiB"), rows)


def demo(facts: Facts) -> str:
    return table(("the demo, set up", "seconds"), [("whole", f"{facts['seconds']:.0f}")])


SECTIONS = {
    "generation": Section("bench.generation", generation, "on a machine without a GPU"),
    "generate": Section("bench.generate", generate),
    "generation_gpu": Section("bench.generation", generation_gpu, "on a machine with a GPU"),
    "worker": Section("bench.worker", worker),
    "approximations": Section("bench.approximations", approximations),
    "claims": Section("bench.claims", claims),
    "accept_in1k": Section("bench.accept_in1k", accept),
    "manifest": Section("bench.manifest", manifest),
    "input_path": Section("bench.input_path", input_path),
    "train_step": Section("bench.train_step", train_step),
    "logistic": Section("bench.logistic", logistic),
    "demo": Section("bench.demo", demo),
}


def block(name: str, results: Path = RESULTS) -> str:
    """What stands between the marks of this name."""
    section = SECTIONS[name]
    command = f"`python -m {section.command}`" + (f" {section.where}" if section.where else "")
    file = results / f"{name}.json"
    if not file.exists():
        return f"Not measured yet: {command}\n"
    facts = json.loads(file.read_text())
    machine, versions = facts["machine"], ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{command}; {machine['system']} {machine['processor']}, {machine['cores']} cores; {versions}\n\n"
        f"{section.table(facts)}\n"
    )


def written(document: str, results: Path = RESULTS) -> str:
    """The document with every table as the results have it."""
    return BLOCK.sub(lambda found: found[1] + block(found[2], results) + found[3], document)


def main() -> None:
    DOCUMENT.write_text(written(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
