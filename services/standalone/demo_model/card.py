"""What a reader of the folder must know: card.json for programs, README.md for people."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

STEPS = 15
GUIDANCE = 2.0
LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers", "scikit-learn")


class ModelCard(BaseModel):
    """The only classes the model can draw, how to sample it and where it comes from."""

    model_config = ConfigDict(frozen=True)

    name: str = "digits-sd"
    classes: dict[str, str]
    image_size: int
    scheduler: str = "dpm++"
    steps: int = STEPS
    guidance: float = GUIDANCE
    training_images: int
    licence: str = "Apache-2.0"
    versions: dict[str, str]
    train_seconds: float


def installed_versions() -> dict[str, str]:
    """The libraries whose versions decide which weights the same seeds give."""
    return {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES}


def write_card(card: ModelCard, folder: Path) -> None:
    (folder / "card.json").write_text(json.dumps(card.model_dump(), indent=2) + "\n", encoding="utf-8")
