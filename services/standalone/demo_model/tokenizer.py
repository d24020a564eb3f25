"""A CLIP tokenizer with a vocabulary of its own, small because every word costs a row of the text encoder."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
TOKEN_LIMIT = 77  # as Stable Diffusion 1.4
MAX_VOCABULARY = 2000


def train_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """Learn the merges from the texts; every byte keeps a token, so no text is unreadable."""
    merges = learn_merges(texts)
    tokens = [*byte_symbols(), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKEN_LIMIT)


def byte_symbols() -> list[str]:
    """All 256 bytes in CLIP's spelling, inside a word and at its end."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    return symbols + [symbol + END_OF_WORD for symbol in symbols]


def learn_merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs that byte-pair encoding joins, in the order in which it joins them."""
    clip = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.normalizer = clip.normalizer
    tokenizer.pre_tokenizer = clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=2,
        # Pairs of equal count are joined in the order of their ids, which only special tokens have from the start.
        special_tokens=byte_symbols(),
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return [(left, right) for left, right in model["merges"]]


def save_classic_files(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, which transformers 5 leaves out and transformers 4 reads."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
