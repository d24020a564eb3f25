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
from .learner import Learner, trained_network


def store_encoder(
    store: ObjectStore, lease: JobLease, card: EncoderCard, *, learner: Learner, journal: Journal
) -> JsonObject:
    """Put the three objects under names of this lease's own; returns these and the sha256 of weights and curves."""
    folder, fence = f"trainings/{lease.job_id}", lease.fence
    state = trained_network(learner).state_dict()
    weights = save({name: value.cpu().contiguous() for name, value in state.items()})
    keys = {
        "encoder_key": f"{folder}/encoder-{fence}.safetensors",
        "card_key": f"{folder}/encoder-{fence}.json",
        "metrics_key": f"{folder}/metrics-{fence}.jsonl",
    }
    store.put(keys["encoder_key"], weights)
    store.put(keys["card_key"], card.model_dump_json(indent=2).encode())
    lines = journal.metrics_lines()
    store.put(keys["metrics_key"], lines)
    hashes = {"encoder_sha256": weights, "metrics_sha256": lines}
    return {**keys, **{name: hashlib.sha256(data).hexdigest() for name, data in hashes.items()}}


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
