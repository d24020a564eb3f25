from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from shared.classes import ClassText
from shared.errors import ConfigurationError
from shared.prompts import places, render
from shared.tokens import CLIP_TOKEN_LIMIT, count_tokens
from tests.rows import parse_prompt


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "?": 2, "cat": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_counts_include_start_and_end() -> None:
    # "A person riding a motorcycle" is five tokens in OpenAI's vocabulary, one for each word.
    assert count_tokens(["A person riding a motorcycle", ""], None) == [7, 2]


def test_counts_of_a_models_own_tokenizer_are_neither_cut_nor_padded(tokenizer_file: Path) -> None:
    assert count_tokens(["cat", "cat cat dog cat cat"], tokenizer_file) == [3, 7]


def test_longest_description_of_in1k_has_65_tokens(in1k: tuple[ClassText, ...]) -> None:
    spec = parse_prompt("description")
    texts = [render(spec, text, slot=0, background_seed=0).text for text in in1k]

    counts = count_tokens(texts, None)

    assert max(counts) == 65
    assert texts[counts.index(65)].startswith("platypus, duckbill")


def test_no_class_of_in1k_inside_any_place_is_cut(in1k: tuple[ClassText, ...]) -> None:
    lengths = count_tokens(places(), None)
    longest = lengths.index(max(lengths))
    texts = [render(parse_prompt("background"), text, slot=0, background_seed=longest).text for text in in1k]

    assert max(count_tokens(texts, None)) <= CLIP_TOKEN_LIMIT


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no tokenizer at .*tokenizer\.json"):
        count_tokens(["cat"], tmp_path / "tokenizer.json")
