"""Every random choice is a hash of what it is for, so an image never depends on who drew it, when, or beside what."""

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue


def canonical_json(value: Mapping[str, JsonValue]) -> bytes:
    """One byte string per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest(value: Mapping[str, JsonValue]) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def class_key(class_id: str, used_text: Mapping[str, JsonValue]) -> str:
    """The class's id and the text the prompts read of it: the same text shares images, another text never does."""
    return f"{class_id}-{digest(used_text)[:12]}"


def slot_seed(recipe_digest: str, key: str, slot: int, attempt: int, purpose: str) -> int:
    """63-bit seed; `purpose` keeps the noise and the background of one slot independent."""
    name = f"{recipe_digest}/{key}/{slot}/{attempt}/{purpose}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1
