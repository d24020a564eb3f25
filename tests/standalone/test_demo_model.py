import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from shared.vision.digits import DIGIT_WNIDS, train_digits

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from services.standalone.demo_model.autoencoder import standardize_latents, train_autoencoder
from services.standalone.demo_model.card import ModelCard
from services.standalone.demo_model.check import draw, fit_classifier, pixels
from services.standalone.demo_model.corpus import (
    DigitText,
    held_out_places,
    random_prompt,
    training_places,
    vocabulary_texts,
)
from services.standalone.demo_model.diffusion import (
    BATCH,
    LatentBank,
    NoiseLevels,
    PromptSource,
    draw_batch,
    train_diffusion,
)
from services.standalone.demo_model.distortion import distort
from services.standalone.demo_model.export import load_pipeline, save_pipeline
from services.standalone.demo_model.networks import build_autoencoder, build_pipeline
from services.standalone.demo_model.tokenizer import byte_symbols, learn_merges, train_tokenizer
from shared.prompts import places
from shared.settings import PROJECT_ROOT

MODEL = PROJECT_ROOT / "models/digits-sd"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEXTS = tuple(
    DigitText((name, str(digit)), "digit, figure", f"follows {digit - 1}") for digit, name in enumerate(DIGITS)
)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(MODEL)


@pytest.fixture
def library_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:  # neither passes its records on to the root
        logger.addHandler(caplog.handler)
    yield caplog
    for logger in loggers:
        logger.removeHandler(caplog.handler)


@pytest.fixture
def generator() -> torch.Generator:
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


@pytest.fixture
def prompts() -> PromptSource:
    tokenizer = train_tokenizer([prompt for text in TEXTS for prompt in (*text.names, text.description)] * 2)
    return PromptSource(TEXTS, ("bakery",), tokenizer, Random(0))


def random_bank(generator: torch.Generator) -> LatentBank:
    means = torch.randn(50, 4, 8, 8, generator=generator)
    return LatentBank(means, torch.full_like(means, 0.1), torch.arange(50) % 10)


def has_older_key_names(folder: Path) -> bool:
    return all(key.startswith("text_model.") for key in load_file(folder / "text_encoder/model.safetensors"))


def test_committed_pipeline_draws_digits_that_a_classifier_of_real_digits_recognises(pipeline) -> None:
    images = draw(pipeline, DIGITS * 2, guidance=2.0)
    recognised = fit_classifier(train_digits()).predict(pixels(images))
    assert np.mean(recognised == np.tile(np.arange(10), 2)) >= 0.9


def test_same_seed_draws_the_same_image_and_another_seed_another(pipeline) -> None:
    first, second = (draw(pipeline, ["seven", "seven"], guidance=2.0) for _ in range(2))
    assert (first == second).all()
    assert (first[0] != first[1]).mean() > 0.1


def test_committed_pipeline_loads_without_a_warning(library_log: pytest.LogCaptureFixture) -> None:
    load_pipeline(MODEL)
    assert [record.message for record in library_log.records if record.levelno >= logging.WARNING] == []


def test_committed_card_names_the_ten_digits_and_how_to_draw_them() -> None:
    card = ModelCard.model_validate_json((MODEL / "card.json").read_text())
    assert card.classes == dict(zip(DIGIT_WNIDS, DIGITS, strict=True))
    assert (card.image_size, card.scheduler, card.steps, card.guidance) == (32, "dpm++", 15, 2.0)
    assert card.training_images == 1257


def test_committed_folder_is_small_and_names_no_path_of_the_machine_it_was_made_on() -> None:
    files = [file for file in MODEL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 5_000_000
    for config in MODEL.rglob("*config.json"):
        assert "_name_or_path" not in json.loads(config.read_text())


def test_committed_text_encoder_has_the_key_names_of_older_transformers() -> None:
    assert has_older_key_names(MODEL)


def test_saved_pipeline_loads_with_rounded_weights_the_same_tokenizer_and_unclipped_latents(
    tmp_path: Path, generator: torch.Generator, prompts: PromptSource
) -> None:
    network = train_diffusion(random_bank(generator), prompts, steps=1, generator=generator)
    fresh = build_pipeline(build_autoencoder().eval(), network.unet, network.text_encoder, prompts.tokenizer)
    weights = fresh.unet.conv_in.weight.clone()
    save_pipeline(fresh, tmp_path)
    assert has_older_key_names(tmp_path)
    loaded = load_pipeline(tmp_path)
    torch.testing.assert_close(loaded.unet.conv_in.weight, weights, rtol=1e-3, atol=1e-3)
    assert loaded.tokenizer("seven, 7").input_ids == prompts.tokenizer("seven, 7").input_ids
    # Read from the file: on loading, diffusers corrects true to false with a warning.
    assert json.loads((tmp_path / "scheduler/scheduler_config.json").read_text())["clip_sample"] is False


def test_merges_are_the_same_each_time() -> None:
    assert len({tuple(learn_merges(vocabulary_texts(TEXTS, places()))) for _ in range(5)}) == 1


def test_most_frequent_pair_is_joined_first() -> None:
    assert learn_merges(["aab aab aab", "xy"])[:2] == [("a", "a"), ("aa", "b</w>")]


def test_tokenizer_reads_every_byte_and_returns_the_text(prompts: PromptSource) -> None:
    text = "zèbre ≠ 42 q"
    ids = prompts.tokenizer(text).input_ids
    assert prompts.tokenizer.unk_token_id not in ids[1:-1]
    assert len(set(byte_symbols())) == 512
    assert len(ids) > len(text)


def test_every_seventh_place_is_held_out() -> None:
    assert len(held_out_places()) == 53
    assert sorted([*held_out_places(), *training_places()]) == sorted(places())
    assert not set(held_out_places()) & set(training_places())


def test_prompts_use_all_forms_and_only_words_of_their_digit() -> None:
    random = Random(0)
    drawn = Counter(random_prompt(TEXTS[7], ("bakery",), random) for _ in range(2000))
    assert {"seven", "7", "seven, 7", "seven, digit, figure", "seven, follows 6"} <= drawn.keys()
    assert "seven, 7, digit, figure inside bakery" in drawn
    assert all("seven" in prompt or "7" in prompt for prompt in drawn)


def test_standardizing_latents_changes_no_decoded_image(generator: torch.Generator) -> None:
    autoencoder = build_autoencoder(channels=(8, 8, 8)).eval()
    images = torch.rand(16, 3, 32, 32, generator=generator) * 2 - 1
    before = autoencoder.encode(images).latent_dist
    decoded = autoencoder.decode(before.mean).sample
    standardize_latents(autoencoder, images)
    after = autoencoder.encode(images).latent_dist
    torch.testing.assert_close(autoencoder.decode(after.mean).sample, decoded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4), rtol=1e-4, atol=0)
    scaled = after.mean.std((0, 2, 3)) / before.mean.std((0, 2, 3))
    torch.testing.assert_close(after.std, before.std * scaled.view(1, -1, 1, 1), rtol=1e-3, atol=0)


def test_distorted_digit_stays_in_range_and_near_its_place(generator: torch.Generator) -> None:
    square = torch.full((64, 1, 32, 32), -1.0)
    square[:, :, 12:20, 12:20] = 1.0
    moved = distort(square, generator)
    assert moved.min() >= -1
    assert moved.max() <= 1
    assert (moved[:, :, 14:18, 14:18].mean((1, 2, 3)) > 0.5).all()
    assert (moved[:, :, :4] == -1).all()
    assert len({image.numpy().tobytes() for image in moved}) == 64


def test_a_few_steps_bring_the_autoencoder_closer_to_its_images(generator: torch.Generator) -> None:
    images = torch.from_numpy(train_digits().images[:64]).permute(0, 3, 1, 2) / 127.5 - 1
    errors = []
    for steps in (1, 12):
        torch.manual_seed(0)
        autoencoder = train_autoencoder(images, steps=steps, generator=generator)
        with torch.no_grad():
            decoded = autoencoder.decode(autoencoder.encode(images).latent_dist.mean).sample
        errors.append((decoded - images).abs().mean().item())
    assert errors[1] < errors[0] * 0.9


def test_each_latent_meets_a_prompt_of_its_own_digit_or_the_empty_one(
    generator: torch.Generator, prompts: PromptSource
) -> None:
    bank = LatentBank(
        torch.arange(10.0).view(10, 1, 1, 1).expand(10, 4, 8, 8), torch.zeros(10, 4, 8, 8), torch.arange(10)
    )
    batch = draw_batch(bank, prompts, generator)
    digits = batch.latents[:, 0, 0, 0].long()
    guided = batch.rows > 0
    assert ((batch.rows - 1) // 3 == digits)[guided].all()
    assert 0 < (~guided).sum() < BATCH / 4
    assert prompts.tokenizer.decode(batch.tokens[0], skip_special_tokens=True) == ""


def test_loss_weight_is_one_where_noise_prevails_and_falls_where_it_is_faint() -> None:
    levels = NoiseLevels()
    assert levels.weight[-1] == 1
    signal = levels.signal[0].item()
    assert levels.weight[0].item() == pytest.approx(5 * (1 - signal) / signal, rel=1e-4)


def test_training_brings_the_noise_prediction_closer(generator: torch.Generator, prompts: PromptSource) -> None:
    bank = random_bank(generator)
    losses = []
    for steps in (1, 6):
        torch.manual_seed(0)
        network = train_diffusion(bank, prompts, steps=steps, generator=generator)
        with torch.no_grad():
            batch = draw_batch(bank, prompts, torch.Generator().manual_seed(1))
            losses.append(NoiseLevels().loss(network, batch, torch.Generator().manual_seed(2)).item())
    assert losses[1] < losses[0]
