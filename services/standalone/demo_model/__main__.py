"""`python -m services.standalone.demo_model`: train, save, measure and describe `digits-sd`."""

import argparse
import logging
import time
from pathlib import Path
from random import Random

from shared.vision.digits import DIGIT_WNIDS, IMAGE_SIZE, DigitsSplit, train_digits

import torch

from shared.lexicon import load_lexicon
from shared.logs import configure_logs
from shared.models import folder_digest
from shared.settings import PROJECT_ROOT, Settings

from .autoencoder import train_autoencoder
from .card import ModelCard, installed_versions, write_card
from .check import measure
from .corpus import DigitText, digit_texts, training_places, vocabulary_texts
from .diffusion import PromptSource, encode_copies, train_diffusion
from .export import load_pipeline, save_pipeline
from .networks import build_pipeline
from .readme import write_readme
from .tokenizer import train_tokenizer

logger = logging.getLogger(__name__)

SEED = 0


def main() -> None:
    """Train with the options of the command line."""
    options = _parse_options()
    configure_logs("console")
    texts = digit_texts(load_lexicon(options.lexicon))
    digits = train_digits()
    started = time.monotonic()
    train(digits, texts, options)
    card = ModelCard(
        classes={wnid: text.names[0] for wnid, text in zip(DIGIT_WNIDS, texts, strict=True)},
        image_size=IMAGE_SIZE,
        training_images=len(digits.labels),
        versions=installed_versions(),
        train_seconds=round(time.monotonic() - started, 1),
    )
    write_card(card, options.out)
    figures = measure(load_pipeline(options.out), texts)
    logger.info("measured", extra=figures._asdict())
    write_readme(card, figures, options.out)
    logger.info("register these weights in shared/data/models.json", extra={"digest": folder_digest(options.out)})


def train(digits: DigitsSplit, texts: tuple[DigitText, ...], options: argparse.Namespace) -> None:
    """Train both stages and save the pipeline in `options.out`."""
    # Denormal numbers, common in freshly initialised networks, slow CPU arithmetic down several times.
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)  # the networks' first weights
    generator = torch.Generator().manual_seed(SEED)
    images = torch.from_numpy(digits.images).permute(0, 3, 1, 2) / 127.5 - 1
    labels = torch.from_numpy(digits.labels)
    autoencoder = train_autoencoder(images, steps=options.autoencoder_steps, generator=generator)
    bank = encode_copies(autoencoder, images, labels, generator=generator)
    places = training_places()
    tokenizer = train_tokenizer(vocabulary_texts(texts, places))
    prompts = PromptSource(texts, places, tokenizer, Random(SEED))
    network = train_diffusion(bank, prompts, steps=options.diffusion_steps, generator=generator)
    save_pipeline(build_pipeline(autoencoder, network.unet, network.text_encoder, tokenizer), options.out)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.standalone.demo_model", description=__doc__)
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "models/digits-sd", help="folder to write")
    parser.add_argument("--lexicon", type=Path, default=Settings().lexicon_path, help="class texts (JSON)")
    parser.add_argument("--autoencoder-steps", type=int, default=700)
    parser.add_argument("--diffusion-steps", type=int, default=1700)
    return parser.parse_args()


if __name__ == "__main__":
    main()
