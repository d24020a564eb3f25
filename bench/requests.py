"""What the benchmark of the API asks for: ImageNet-1K with descriptions, at two sizes."""

from pydantic import JsonValue

MODEL = "sd14"
ONCE: dict[str, JsonValue] = {
    "classes": "in1k",
    "prompt": "description",
    "scale": 2,
    "size": "1x",
    "model": MODEL,
}
FIFTY_TIMES: dict[str, JsonValue] = ONCE | {"size": "50x"}
