"""`python -m shared.build_lexicon`: fetch WordNet and write the lexicon, where no command line is installed."""

import logging

from .entry import run
from .lexicon import build_lexicon
from .settings import Settings
from .wordnet import fetch_wordnet

logger = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    lexicon = build_lexicon(fetch_wordnet(settings.data_dir / "wordnet"), settings.lexicon_path)
    logger.info("lexicon written", extra={"path": str(settings.lexicon_path), "nouns": len(lexicon)})


if __name__ == "__main__":
    run(main)
