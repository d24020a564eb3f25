"""A folder whose weights are not whole is refused by name; the loaders would only warn, and draw."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from services.sd_worker.checkpoint import load_part, load_parts, refuse_unreadable
from services.sd_worker.pipeline import load_pipeline
from shared.errors import ConfigurationError
from shared.settings import PROJECT_ROOT

DIGITS = PROJECT_ROOT / "models" / "digits-sd"
Weights = dict[str, torch.Tensor]
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
CONVOLUTION = {"unet": "conv_in.weight", "vae": "decoder.conv_in.weight"}
SHAPES = {
    "unet": ("[1, 4, 3, 3]", "[64, 4, 3, 3]"),
    "vae": ("[1, 4, 3, 3]", "[32, 4, 3, 3]"),
    "text_encoder": ("(1, 64)", "(256, 64)"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "model"))


def change(folder: Path, part: str, edit: Callable[[Weights, str], object]) -> str:
    """Returns the name of the weight that was changed, as its loader says it."""
    weights = load_file(folder / FILES[part])
    name = CONVOLUTION.get(part) or next(name for name in sorted(weights) if name.endswith("fc1.weight"))
    edit(weights, name)
    save_file(weights, folder / FILES[part], metadata={"format": "pt"})
    return name.removeprefix("text_model.")


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_pipeline(folder, torch.device("cpu"))
    return refused.value.detail


@pytest.mark.parametrize("part", FILES)
def test_a_missing_weight_is_named(folder: Path, part: str) -> None:
    name = change(folder, part, lambda weights, name: weights.pop(name))
    assert f"lack {name}" in refusal(folder)


@pytest.mark.parametrize("part", FILES)
def test_a_weight_that_nothing_knows_is_named(folder: Path, part: str) -> None:
    change(folder, part, lambda weights, name: weights.update({"lora.down": torch.zeros(2)}))
    assert "do not know lora.down" in refusal(folder)


@pytest.mark.parametrize("part", FILES)
def test_a_weight_of_another_shape_is_named_with_both_shapes(folder: Path, part: str) -> None:
    name = change(folder, part, lambda weights, name: weights.update({name: weights[name][:1].clone()}))
    detail = refusal(folder)
    assert name in detail
    assert all(shape in detail for shape in SHAPES[part])
    assert f"fetch {part} again" in detail


def test_of_many_missing_weights_the_first_are_named_and_the_rest_counted(folder: Path) -> None:
    count = len(load_file(folder / FILES["unet"]))
    save_file({"other": torch.zeros(1)}, folder / FILES["unet"], metadata={"format": "pt"})
    assert f"and {count - 5} more" in refusal(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / FILES["unet"]).unlink()
    torch.save({"conv_in.weight": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.bin")
    detail = refusal(folder)
    assert "a pickle (diffusion_pytorch_model.bin)" in detail
    assert "save_pretrained" in detail


def test_a_pickle_that_is_called_safetensors_is_never_read(folder: Path) -> None:
    torch.save({"conv_in.weight": torch.zeros(1)}, folder / FILES["vae"])
    assert f"{FILES['vae']} is no whole safetensors file" in refusal(folder)


def test_a_cut_off_file_is_named(folder: Path) -> None:
    file = folder / FILES["text_encoder"]
    file.write_bytes(file.read_bytes()[:-10])
    assert f"{FILES['text_encoder']} is no whole safetensors file" in refusal(folder)


def test_a_part_without_weights_is_named(folder: Path) -> None:
    (folder / FILES["vae"]).unlink()
    assert f"{folder / 'vae'} has no weights" in refusal(folder)


@pytest.mark.parametrize("part", FILES)
def test_half_precision_files_alone_are_named_and_drawn_with_once_renamed(folder: Path, part: str) -> None:
    whole = folder / FILES[part]
    half = whole.rename(whole.with_suffix(".fp16.safetensors"))
    assert f"variant {half.name} the name must be without '.fp16'" in refusal(folder)
    half.rename(whole)
    assert set(load_parts(folder, torch.float32)) == set(FILES)


@pytest.mark.parametrize("part", FILES)
def test_weights_under_a_name_that_no_loader_knows_are_refused(folder: Path, part: str) -> None:
    whole = folder / FILES[part]
    whole.rename(whole.with_name("other.safetensors"))
    detail = refusal(folder)
    assert f"the weights in {folder / part} cannot be loaded" in detail
    assert f"fetch {part} again" in detail


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "config.json cannot be read"),
        (b'{"act_fn":', "config.json cannot be read"),
        (b"\xff\xfe\x00", "config.json cannot be read"),
        (b"[]", "config.json is a JSON list and no object"),
    ],
)
def test_a_config_that_is_missing_or_broken_is_named(folder: Path, part: str, content: bytes | None, said: str) -> None:
    config = folder / part / "config.json"
    config.unlink()
    if content is not None:
        config.write_bytes(content)
    assert f"{part}/{said}" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("unet", {"cross_attention_dim": "64"}, "TypeError"),
        ("unet", {"attention_head_dim": 0}, "ZeroDivisionError"),
        ("vae", {"block_out_channels": "abc"}, "TypeError"),
        ("text_encoder", {"hidden_size": "64"}, "expected int, got str"),
        ("text_encoder", {"hidden_act": "other"}, "KeyError: 'other'"),
    ],
)
def test_a_config_with_a_value_that_makes_no_network_is_named(
    folder: Path, part: str, changed: dict[str, object], said: str
) -> None:
    config = folder / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    detail = refusal(folder)
    assert f"{part}/config.json describes no network" in detail
    assert said in detail
    assert f"fetch {part} again" in detail


def test_a_link_to_weights_that_are_gone_is_named(folder: Path) -> None:
    file = folder / FILES["unet"]
    file.unlink()
    file.symlink_to(folder / "gone")
    assert f"{FILES['unet']} is no whole safetensors file" in refusal(folder)


def test_a_network_of_another_kind_is_named(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderTiny"]}))
    assert "has AutoencoderTiny as vae; only Stable Diffusion with AutoencoderKL" in refusal(folder)


def test_the_position_ids_of_old_text_encoders_are_taken(folder: Path) -> None:
    """Stable Diffusion 1.4's own file has them."""
    ids = torch.arange(77)[None]
    change(folder, "text_encoder", lambda weights, _: weights.update({"text_model.embeddings.position_ids": ids}))
    assert set(load_parts(folder, torch.float32)) == {"unet", "vae", "text_encoder"}


def test_the_deprecated_names_of_a_decoders_attention_are_taken(tmp_path: Path) -> None:
    """Stable Diffusion 1.4's own file has them."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    AutoencoderKL(**blocks, block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "vae")
    weights = load_file(tmp_path / FILES["vae"])
    renamed = {deprecated(name): tensor for name, tensor in weights.items()}
    assert len(set(renamed) - set(weights)) == 16  # weight and bias of four layers, in encoder and decoder
    save_file(renamed, tmp_path / FILES["vae"], metadata={"format": "pt"})
    refuse_unreadable(tmp_path / "vae")
    loaded = load_part(tmp_path / "vae", torch.float32).state_dict()
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def deprecated(name: str) -> str:
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
    return name


def test_whole_weights_are_loaded_as_they_are_in_the_dtype_of_the_card(folder: Path) -> None:
    expected = load_file(folder / FILES["unet"])
    for name in ("float16", "bfloat16", "float32"):
        pipeline = load_pipeline(folder, torch.device("cpu"), name)
        wanted = {key: tensor.to(getattr(torch, name)) for key, tensor in expected.items()}
        found = pipeline.unet.state_dict()
        assert set(found) == set(wanted)
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
        assert {pipeline.vae.dtype, pipeline.text_encoder.dtype} == {getattr(torch, name)}
