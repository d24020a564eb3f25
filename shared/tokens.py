"""How many of CLIP's 77 tokens a prompt takes: words beyond them are cut off without a trace in the image."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import instant_clip_tokenizer
from tokenizers import Tokenizer

from .errors import ConfigurationError

CLIP_TOKEN_LIMIT = 77
START_AND_END = 2


def count_tokens(texts: Sequence[str], tokenizer_file: Path | None) -> list[int]:
    """Tokens of each text with the start and end token, uncut.

    `tokenizer_file` is a model's tokenizer.json; None means OpenAI CLIP's vocabulary, which Stable Diffusion 1 uses.
    """
    if tokenizer_file is None:
        clip = clip_tokenizer()
        return [len(clip.encode(text)) + START_AND_END for text in texts]
    tokenizer = read_tokenizer(tokenizer_file.resolve())
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


@lru_cache
def clip_tokenizer() -> instant_clip_tokenizer.Tokenizer:
    return instant_clip_tokenizer.Tokenizer()


@lru_cache
def read_tokenizer(path: Path) -> Tokenizer:
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"no tokenizer at {path}: {error}; the model's folder is incomplete") from error
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
