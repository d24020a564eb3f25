"""Compilation, by a backend that counts graphs and by Inductor, and the folder of its kernels."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from services.sd_worker.engine.compiled import Compiled
from services.sd_worker.engine.kernels import code_digest, keep_kernels, kernels_key
from services.sd_worker.generators import Engine
from services.sd_worker.machine import Machine
from services.sd_worker.pipeline import Generator, load_pipeline
from shared.errors import ConfigurationError
from shared.settings import PROJECT_ROOT
from shared.specs import Recipe
from tests.rows import RECIPE

FOLDER = PROJECT_ROOT / "models" / "digits-sd"
CPU = torch.device("cpu")
KEPT_IN = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
PROMPTS = ["zero", "seven, digit", "four", "nine"]


class Counter:
    """A backend that compiles nothing and keeps every graph."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
        self.graphs.append(graph)
        return graph


def engine_of(counter: Counter | str | None, *, batch: int = 3) -> Engine:
    machine = Machine(CPU, batch=batch, kernels_dir=Path("unused"), backend=counter)
    return Engine(load_pipeline(FOLDER, CPU), pytest.fail, machine)


def draw(engine: Engine, count: int, recipe: Recipe) -> np.ndarray:
    return engine.start(PROMPTS[:count], range(count), recipe).wait().pixels.astype(int)


def recipe_of(**changes: object) -> Recipe:
    return RECIPE.model_copy(update={"steps": 3} | changes)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def test_a_guided_step_is_one_graph_for_every_timestep_guidance_and_batch_and_an_unguided_one_another() -> None:
    counter = Counter()
    engine = engine_of(counter)
    draw(engine, 3, recipe_of(guidance=7.5))
    assert len(counter.graphs) == 2  # a step and the decoder
    for changes in ({"guidance": 2.0}, {"steps": 5}, {"scheduler": "euler"}):
        draw(engine, 3, recipe_of(**changes))
        draw(engine, 1, recipe_of(**changes))
    assert len(counter.graphs) == 2
    for count in (3, 2):
        draw(engine, count, recipe_of(guidance=1.0))
    assert len(counter.graphs) == 3


def test_a_loaded_model_of_the_same_shape_finds_the_graphs_of_the_one_before() -> None:
    counter = Counter()
    for _ in range(2):
        draw(engine_of(counter), 2, recipe_of())
    assert len(counter.graphs) == 2


def test_more_shapes_than_torch_allows_by_itself_are_each_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()
    compiled = Compiled(doubled, counter)
    sizes = range(2, 2 + torch._dynamo.config.recompile_limit + 2)
    with caplog.at_level(logging.INFO):
        for size in [*sizes, *sizes]:
            assert torch.equal(compiled(torch.ones(size), 1), torch.full((size,), 2.0))
    assert len(counter.graphs) == len(sizes) == len(caplog.records)
    assert "'function': 'doubled'" in str(vars(caplog.records[0]))


def test_a_compilation_that_nobody_meant_is_an_error_that_names_its_cause() -> None:
    compiled = Compiled(doubled, Counter())
    compiled(torch.ones(2), 1)
    with pytest.raises(RuntimeError, match=r"recompile(?s:.)*'doubled'(?s:.)*number == 1"):
        compiled(torch.ones(2), 2)


def doubled(tensor: Tensor, number: int) -> Tensor:
    return tensor + number


def test_more_images_than_were_compiled_for_are_refused() -> None:
    with pytest.raises(ValueError, match="4 images asked of an engine compiled for batches of 3"):
        draw(engine_of(Counter()), 4, recipe_of())


def test_a_batch_is_filled_only_where_it_was_compiled_for() -> None:
    assert engine_of(Counter()).filled(["zero", "one"]) == ["zero", "one", "one"]
    assert engine_of(None).filled(["zero", "one"]) == ["zero", "one"]


def test_a_compiled_batch_gives_the_reference_s_images_full_and_filled() -> None:
    """By torch's tracing and Inductor's decompositions, without the minutes that its C++ compiler takes."""
    recipe = recipe_of(steps=5, guidance=7.5)
    engine = engine_of("aot_eager_decomp_partition")
    expected = Generator(load_pipeline(FOLDER, CPU)).start(PROMPTS[:3], range(3), recipe).wait().pixels.astype(int)
    for count in (3, 2, 1):
        assert np.abs(draw(engine, count, recipe) - expected[:count]).max() <= 1


def test_inductor_takes_the_options_and_keeps_its_kernels_in_the_folder(tmp_path: Path, kernels: None) -> None:
    folder = keep_kernels(tmp_path, CPU, 3)
    compiled = Compiled(doubled, "inductor")
    assert torch.equal(compiled(torch.ones(64), 1), torch.full((64,), 2.0))
    assert any(file.suffix == ".so" for file in folder.rglob("*"))


@pytest.fixture
def kernels() -> Iterator[None]:
    """Puts back where torch keeps its kernels."""
    before = {name: os.environ.get(name) for name in KEPT_IN}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def test_another_gpu_version_batch_or_engine_has_a_folder_of_its_own() -> None:
    usual = {"device": "NVIDIA H200", "found": {"torch": "2.13.0+cu130", "cudnn": "91501"}, "batch": 33, "digest": "a"}
    others = [
        {"device": "NVIDIA H100 80GB HBM3"},
        {"found": {"torch": "2.13.1+cu130", "cudnn": "91501"}},
        {"batch": 32},
        {"digest": "b"},
    ]
    assert kernels_key(**usual) == "NVIDIA-H200_torch-2.13.0+cu130_cudnn-91501_batch-33_a"
    assert len({kernels_key(**usual | other) for other in [{}, *others]}) == 5


def test_the_digest_of_the_engine_changes_with_its_text(tmp_path: Path) -> None:
    module = tmp_path / "unet.py"
    module.write_text("one = 1\n")
    first = code_digest(tmp_path)
    module.write_text("one = 2\n")
    assert code_digest(tmp_path) != first
    module.write_text("one = 1\n")
    assert code_digest(tmp_path) == first


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path, kernels: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"Not a directory.*mount a volume.*SYNTHCLONE_COMPILE=off"):
        keep_kernels(tmp_path / "file", CPU, 3)
