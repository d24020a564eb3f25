"""The server-side register of generators: a request names an entry, never a path or a hub id."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import ConfigurationError, Rejected
from .settings import Settings
from .specs import SchedulerName, Side

DType = Literal["float16", "bfloat16", "float32"]
BUILT_IN = Path(__file__).parent / "data" / "models.json"


def hub_cache() -> Path:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")  # the hub client's own variable
    return Path(home).expanduser() / "hub"


class ModelEntry(BaseModel):
    """A Stable Diffusion model: its folder below models_dir, or a hub repository at one revision.

    Only a `sha256:` digest is compared with the files; of a `hub:` one the operator vouches for a mounted folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")
    folder: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder name below models_dir.")
    hub_id: str | None = None
    revision: str | None = None
    digest: str = Field(description="sha256: of the folder's weights and configs, or hub:<id>@<revision>.")
    licence: str
    image_size: Side
    scheduler: SchedulerName
    steps: int
    seconds_per_image: float = Field(description="Rough worker time per image, for estimates only.")
    bytes_per_image: int = Field(description="Rough size of one stored image, for estimates only.")
    classes: tuple[str, ...] | None = Field(None, description="The only classes it can draw; null: any text.")
    clip_tokenizer: bool = Field(True, description="Uses OpenAI CLIP's vocabulary.")
    # Like the device it rounds differently and is no part of a recipe: images drawn before it was changed stay valid.
    dtype: DType | None = Field(None, description="Computed in; null: float16 on a GPU, float32 on a CPU.")
    distilled: bool = Field(False, description="Distilled to few steps of its sampler: its datasets say so.")

    def path(self, settings: Settings) -> Path:
        """The folder below models_dir, or else the hub cache's snapshot of exactly the registered revision."""
        own = settings.models_dir / self.folder
        if own.exists() or self.hub_id is None or self.revision is None:
            return own
        cached = hub_cache() / f"models--{self.hub_id.replace('/', '--')}" / "snapshots" / self.revision
        return cached if cached.exists() else own

    def missing(self, settings: Settings) -> str | None:
        """Why this machine cannot draw with it, and the remedy; None when the weights are here."""
        folder = self.path(settings)
        if (folder / "model_index.json").is_file():
            return None
        source = (
            f"`hf download {self.hub_id} --revision {self.revision} --local-dir {folder}`" if self.hub_id else "git"
        )
        return (
            f"the weights of model {self.name!r} are missing: no diffusers folder at {folder}; "
            f"fetch them with {source}, or set SYNTHCLONE_MODELS_DIR to the folder that holds them"
        )


@lru_cache
def load_entries(path: Path) -> dict[str, ModelEntry]:
    try:
        entries = TypeAdapter(list[ModelEntry]).validate_json(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError) as error:  # Docker makes a folder of a file that it should mount
        raise ConfigurationError(f"SYNTHCLONE_MODELS_FILE names {path}, which is no file") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path} is not a list of models: {error}") from error
    return {entry.name: entry for entry in entries}


def registered(settings: Settings) -> dict[str, ModelEntry]:
    own = load_entries(settings.models_file) if settings.models_file else {}
    return load_entries(BUILT_IN) | own


def find_model(settings: Settings, name: str) -> ModelEntry:
    entries = registered(settings)
    if name not in entries:
        raise Rejected(f"unknown model {name!r}; registered: {', '.join(sorted(entries))}", pointer="/model")
    return entries[name]


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of every weight, config and vocabulary file, in name order."""
    total = hashlib.sha256()
    for file in sorted(
        p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt") and p.name != "card.json"
    ):
        total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{total.hexdigest()}"


def verify_weights(settings: Settings, entry: ModelEntry) -> None:
    """Refuse weights that are absent or are not the ones the register names."""
    problem = entry.missing(settings)
    if problem:
        raise ConfigurationError(problem)
    if entry.digest.startswith("sha256:"):
        found = folder_digest(entry.path(settings))
        if found != entry.digest:
            raise ConfigurationError(
                f"the weights of model {entry.name!r} at {entry.path(settings)} have digest {found}, "
                f"registered is {entry.digest}; restore the folder or register it under another name"
            )


def model_of_digest(settings: Settings, name: str, digest: str) -> ModelEntry:
    """The entry a frozen recipe was made with; a changed register must not draw other images under its name."""
    entry = find_model(settings, name)
    if entry.digest != digest:
        raise ConfigurationError(f"model {name!r} is registered as {entry.digest} but the job was made with {digest}")
    return entry
