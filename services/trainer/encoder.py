"""What a training leaves behind: the encoder's weights, its card and the curves."""

import hashlib

from shared.vision.images import MEAN, STD
from shared.vision.networks import EncoderCard, library_versions

from safetensors.torch import save

from shared.job_leases import JobLease
from shared.specs import TrainingSpec
from shared.storage import ObjectStore
from shared.tables import JsonObject

from .batches import Stream
from .journal import Journal
from .learner import Learner


def store_encoder(
    store: ObjectStore, lease: JobLease, card: EncoderCard, *, learner: Learner, journal: Journal
) -> JsonObject:
    """Put the three objects under names of this lease's own; returns their keys and the weights' sha256."""
    folder, fence = f"trainings/{lease.job_id}", lease.fence
    state = learner.network.state_dict()
    weights = save({name: value.cpu().contiguous() for name, value in state.items()})
    keys = {
        "encoder_key": f"{folder}/encoder-{fence}.safetensors",
        "card_key": f"{folder}/encoder-{fence}.json",
        "metrics_key": f"{folder}/metrics-{fence}.jsonl",
    }
    store.put(keys["encoder_key"], weights)
    store.put(keys["card_key"], card.model_dump_json(indent=2).encode())
    store.put(keys["metrics_key"], journal.metrics_lines())
    return {**keys, "encoder_sha256": hashlib.sha256(weights).hexdigest()}


def make_card(
    spec: TrainingSpec, *, training: str, stream: Stream, recipe_digests: tuple[str, ...], seconds: float
) -> EncoderCard:
    return EncoderCard(
        training=training,
        architecture=spec.request.architecture,
        class_ids=spec.class_ids,
        class_names=spec.class_names,
        image_size=stream.image_size,
        mean=MEAN,
        std=STD,
        spec=spec,
        recipe_digests=recipe_digests,
        images=len(stream.source.labels),
        seconds=seconds,
        versions={"synthclone": spec.version, **library_versions()},
    )
