"""Networks that were trained elsewhere: their weights become the encoder of a training that succeeded."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from sqlalchemy import select
from sqlalchemy.orm import Session
from timm.data import ImageNetInfo
from torch import Tensor

from shared.database import database_now
from shared.errors import Rejected
from shared.ids import job_id
from shared.lifecycle import record, transition
from shared.objects import ObjectStore
from shared.specs import ImportedSpec
from shared.tables import Job, JsonObject, Team

from .images import MEAN, STD
from .networks import EncoderCard, create_network, library_versions

CONVERT = (
    "torch.load(FILE, map_location='cpu', weights_only=True) reads a .pth, "
    "safetensors.torch.save_file(weights, 'NAME.safetensors') writes its tensors"
)


class NewEncoder(NamedTuple):
    """What an operator says of a file of weights; `class_ids` are those of the outputs, in their order."""

    name: str
    file: Path
    architecture: str
    class_ids: tuple[str, ...]
    image_size: int = 224
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


class Read(NamedTuple):
    card: EncoderCard
    spec: ImportedSpec
    weights: bytes


def read_encoder(new: NewEncoder) -> Read:
    """Raises Rejected unless the file holds exactly the weights of the architecture with so many outputs."""
    if len(set(new.class_ids)) != len(new.class_ids) or not new.class_ids:
        raise Rejected("the class ids of an encoder must be at least one, each named once")
    if len(new.mean) != 3 or len(new.std) != 3 or min(new.std) <= 0:
        raise Rejected(f"mean {new.mean} and deviation {new.std} are not three numbers each, the latter above 0")
    try:
        weights = new.file.read_bytes()
    except OSError as error:
        raise Rejected(f"cannot read {new.file}: {error.strerror}") from error
    check_weights(tensors_of(weights, new.file), new)
    names = class_names(new.class_ids)
    spec = ImportedSpec(
        imported=new.name,
        architecture=new.architecture,
        image_size=new.image_size,
        class_ids=new.class_ids,
        class_names=names,
        sha256=hashlib.sha256(weights).hexdigest(),
        version=version("synthclone"),
    )
    card = EncoderCard(
        training=job_id("training"),
        architecture=new.architecture,
        class_ids=new.class_ids,
        class_names=names,
        image_size=new.image_size,
        mean=new.mean,
        std=new.std,
        spec=spec,
        recipe_digests=(),
        images=0,
        seconds=0,
        versions={"synthclone": spec.version, **library_versions()},
    )
    return Read(card, spec, weights)


def tensors_of(weights: bytes, file: Path) -> dict[str, Tensor]:
    try:
        return dict(load(weights))
    except SafetensorError as error:
        raise Rejected(f"{file} is no safetensors file ({error}), the only form that is read: {CONVERT}") from error


def check_weights(found: Mapping[str, Tensor], new: NewEncoder) -> None:
    network = create_network(new.architecture, classes=len(new.class_ids), image_size=new.image_size)
    expected = network.state_dict()
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise Rejected(f"{new.file} has no tensor {name}, which {new.architecture} needs")
        if name not in expected:
            raise Rejected(f"{new.file} has a tensor {name}, which {new.architecture} has not; give another --arch")
        if found[name].shape != expected[name].shape:
            raise Rejected(
                f"{name} of {new.file} is {shape(found[name])}, and {shape(expected[name])} in {new.architecture} with "
                f"{len(new.class_ids)} classes at {new.image_size} pixels; check --arch, --classes and --image-size"
            )
        if found[name].is_floating_point() and not bool(torch.isfinite(found[name].float()).all()):
            raise Rejected(f"{name} of {new.file} has values that are not finite; its network can tell nothing")


def shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def class_names(class_ids: Sequence[str]) -> tuple[str, ...]:
    """The first names that timm knows of ImageNet's classes; other ids are their own names."""
    timm_names = ImageNetInfo()
    words = {wnid: str(timm_names.label_name_to_description(wnid)) for wnid in timm_names.label_names()}
    return tuple(words[each].partition(",")[0] if each in words else each for each in class_ids)


def store_encoder(store: ObjectStore, read: Read) -> JsonObject:
    """Puts the two objects under the names of a training's; returns the job's result."""
    folder = f"trainings/{read.card.training}"
    keys: JsonObject = {"encoder_key": f"{folder}/encoder-0.safetensors", "card_key": f"{folder}/encoder-0.json"}
    store.put(str(keys["encoder_key"]), read.weights)
    store.put(str(keys["card_key"]), read.card.model_dump_json(indent=2).encode())
    return {**keys, "encoder_sha256": read.spec.sha256}


def find_team(session: Session, name: str) -> str:
    teams = {team.name: team.id for team in session.scalars(select(Team))}
    if name not in teams:
        raise Rejected(f"there is no team {name[:50]!r}; known: {', '.join(sorted(teams))}")
    return teams[name]


def insert_training(session: Session, read: Read, result: JsonObject, *, team_id: str) -> None:
    """A training that ended well as soon as it is there."""
    job = Job(
        id=read.card.training,
        kind="training",
        team_id=team_id,
        state="queued",
        spec=read.spec.model_dump(mode="json"),
        result=result,
        created_at=database_now(session),
    )
    session.add(job)
    session.flush()
    record(session, job.id, "state", {"state": "queued"})
    transition(session, job.id, "succeeded")
