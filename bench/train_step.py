"""Time of one training step beside timm's train loop, with the same network, batch and precision, on one crop.

`python -m bench.train_step`. Both start from the same uint8 batch in memory and the same weights, normalise, and step
with SGD and momentum 0.9. Theirs is the step of timm's train.py from timm's own parts: create_model,
create_optimizer_v2 ("momentum": without Nesterov, no decay on one-dimensional weights), the cosine scheduler updated
every step, and the loss read every LOG_STEPS steps. Ours is `learn` with the recipe `plain`, its loss read as often.
They take turns, so that a slow moment of the machine hits both.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable

from shared.vision.images import normalised

import timm
import timm.optim
import timm.scheduler
import torch
from torch import Tensor, nn

from services.trainer.batches import Batch
from services.trainer.learner import Learner, create_learner, learn
from services.trainer.ranks import Ranks
from shared.specs import TrainingRequest, TrainingSpec

from .machine import write_result

MODEL, SIDE, BATCH, CLASSES = "resnet18", 96, 32, 100
STEPS, ROUNDS, WARM_UP, LOG_STEPS = 8, 9, 3, 4
RATE = 0.05
MOST_RATIO = 1.02
PACKAGES = ("torch", "timm")


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.randint(0, CLASSES, (BATCH,), generator=generator), ())


def our_learner(device: torch.device) -> Learner:
    request = TrainingRequest(real="digits-train", architecture=MODEL, learning_rate=RATE, steps=10_000)
    ids = tuple(str(label) for label in range(CLASSES))
    recipe = request.resolved_recipe().model_copy(update={"precision": "float32"})
    spec = TrainingSpec(request=request, recipe=recipe, class_ids=ids, class_names=ids, version="bench")
    return create_learner(spec, image_size=SIDE, steps=10_000, warmup_steps=0, ranks=Ranks(0, 1, device))


def our_steps(learner: Learner, data: Batch) -> Callable[[int], None]:
    def run(first: int) -> None:
        for step in range(first, first + STEPS):
            loss = learn(learner, step, data)
            if step % LOG_STEPS == 0:
                float(loss)

    return run


def timm_steps(weights: dict[str, Tensor], data: Batch, device: torch.device) -> Callable[[int], None]:
    network = timm.create_model(MODEL, num_classes=CLASSES)
    network.load_state_dict(weights)
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = timm.optim.create_optimizer_v2(network, opt="momentum", lr=RATE, weight_decay=1e-4, momentum=0.9)
    scheduler = timm.scheduler.CosineLRScheduler(optimizer, t_initial=10_000, t_in_epochs=False)
    loss_of = nn.CrossEntropyLoss()
    network.train()

    def run(first: int) -> None:
        for step in range(first, first + STEPS):
            images = normalised(data.images.to(device)).contiguous(memory_format=torch.channels_last)
            loss = loss_of(network(images), data.labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step_update(step)
            if step % LOG_STEPS == 0:
                loss.item()

    return run


def seconds_of(run: Callable[[int], None], first: int, device: torch.device) -> float:
    started = time.perf_counter()
    run(first)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, learner = batch(), our_learner(device)
    weights = {name: value.clone() for name, value in learner.network.state_dict().items()}
    ours, theirs = our_steps(learner, data), timm_steps(weights, data, device)
    rounds = []
    for number in range(WARM_UP + ROUNDS):
        pair = [seconds_of(run, number * STEPS, device) for run in (ours, theirs)]
        if number >= WARM_UP:
            rounds.append(pair)
    ratio = statistics.median(our / their for our, their in rounds)
    our, their = (statistics.median(column) * 1000 for column in zip(*rounds, strict=True))
    spread = math.sqrt(statistics.variance([our / their for our, their in rounds]))
    print(f"{MODEL}, {BATCH} images of {SIDE} x {SIDE}, float32, {device}, {torch.get_num_threads()} threads")
    print(f"ours {our:.1f} ms a step, timm {their:.1f} ms, ratio {ratio:.3f} (at most {MOST_RATIO}; ± {spread:.3f})")
    facts = {"model": MODEL, "batch": BATCH, "side": SIDE, "device": str(device), "threads": torch.get_num_threads()}
    result = {"ours_ms": our, "timm_ms": their, "ratio": ratio, "deviation": spread}
    write_result("train_step", facts | {name: round(value, 4) for name, value in result.items()}, PACKAGES)
    if ratio > MOST_RATIO:
        sys.exit(1)


if __name__ == "__main__":
    main()
