"""The network with its optimizer, and what one step does to them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from shared.vision.images import normalised
from shared.vision.networks import create_network, with_shared_statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shared.recipes import TrainingRecipe
from shared.specs import TrainingSpec

from .batches import Batch
from .crops import random_crops
from .ranks import Ranks
from .schedule import Schedule


class Learner(NamedTuple):
    """`parallel` computes, on every rank, with the parameters of `network`; `average` is their moving average."""

    network: nn.Module
    parallel: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    recipe: TrainingRecipe
    seed: int
    ranks: Ranks


def create_learner(spec: TrainingSpec, *, image_size: int, steps: int, warmup_steps: int, ranks: Ranks) -> Learner:
    """The same initial weights for the same seed, on every rank."""
    request, recipe = spec.request, spec.recipe
    torch.manual_seed(request.seed)
    network = create_network(
        request.architecture,
        classes=len(spec.class_ids),
        image_size=image_size,
        other_sizes=[crop.size for crop in recipe.crops[1:]],
        temperature=recipe.temperature,
    )
    # Measured on a CPU: convolutions in this layout took a fifth less time.
    network = network.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = Schedule(recipe.peak_learning_rate, recipe.final_learning_rate, warmup_steps, steps)
    optimizer = create_optimizer(network, recipe)
    average = averaged(network, recipe.ema_decay)
    computed = parallel(network, ranks, is_compiled=recipe.compile)
    return Learner(network, computed, average, optimizer, schedule, recipe, request.seed, ranks)


class Views(nn.Module):
    """All resolutions in one call: a parallel network may be called once for each backward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views (N_i, 3, S_i, S_i) to logits (sum of N_i, C)."""
        return torch.cat([self.network(view.contiguous(memory_format=torch.channels_last)) for view in views])


def parallel(network: nn.Module, ranks: Ranks, *, is_compiled: bool) -> nn.Module:
    if ranks.size > 1 and ranks.device.type == "cuda":
        network = with_shared_statistics(network)
    views = Views(network)
    if is_compiled:
        # In place, so that names in checkpoints stay. Sizes are constants: every batch of a training has the same, so
        # there is one graph, of all resolutions. Inside the parallel module it is cut where gradients are exchanged.
        views.compile(dynamic=False)
    return DistributedDataParallel(views) if ranks.size > 1 else views


def averaged(network: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(network, use_buffers=True)


def update_average(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """AveragedModel's own update waits for the GPU twice a step; its counter, which is read here, is on the host.

    Buffers too: batch statistics of other weights would not fit the averaged ones.
    """
    ours, theirs = ([*each.parameters(), *each.buffers()] for each in (average.module, network))
    pairs = list(zip(ours, theirs, strict=True))
    update = get_ema_multi_avg_fn(decay if int(average.n_averaged) else 0.0)
    for is_real in (True, False):
        chosen = [pair for pair in pairs if pair[0].is_floating_point() == is_real]
        if chosen:
            update([each for each, _ in chosen], [each for _, each in chosen], None)
    average.n_averaged += 1


def create_optimizer(network: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    groups = parameter_groups(network, recipe.weight_decay)
    fused = next(network.parameters()).is_cuda
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.peak_learning_rate, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.peak_learning_rate, momentum=recipe.momentum, fused=fused)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; biases and the scales of normalisation, which have one dimension, do not."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def learn(learner: Learner, step: int, *parts: Batch) -> Tensor:
    """One optimizer step over equal parts of one batch; returns the mean loss before it, detached.

    Nothing here waits for the GPU: the caller asks for losses when it reports them.
    """
    seed_step(learner.seed, step, learner.ranks.rank)
    for group in learner.optimizer.param_groups:
        group["lr"] = learner.schedule.rate(step)
    learner.parallel.train()
    learner.optimizer.zero_grad(set_to_none=True)
    losses = [part_loss(learner, part, left=len(parts) - number, of=len(parts)) for number, part in enumerate(parts, 1)]
    learner.optimizer.step()
    if learner.average is not None:
        update_average(learner.average, learner.network, learner.recipe.ema_decay)
    return torch.stack(losses).mean()


def part_loss(learner: Learner, part: Batch, *, left: int, of: int) -> Tensor:
    """Adds the part's gradients, exchanging them with other ranks when no part is left; returns its mean loss."""
    with unexchanged(learner.parallel) if left else nullcontext():
        loss = loss_of(learner, part)
        torch.autograd.backward(loss / of)
    return loss.detach()


def unexchanged(parallel: nn.Module) -> AbstractContextManager[object]:
    return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()


def loss_of(learner: Learner, batch: Batch) -> Tensor:
    """Every crop is classified with its image's label."""
    device, recipe = learner.ranks.device, learner.recipe
    images = batch.images.to(device, non_blocking=True)
    views = [random_crops(images, draws) for draws in batch.draws] or [normalised(images)]
    crops = sum(draws.recipe.count for draws in batch.draws) or 1
    labels = batch.labels.to(device, non_blocking=True).repeat(crops)
    with mixed_precision(device, recipe.precision):
        return F.cross_entropy(learner.parallel(views), labels, label_smoothing=recipe.label_smoothing)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout of a step depends on nothing before it, so a checkpoint needs no generator state."""
    torch.manual_seed(hash((seed, step, rank)) % 2**63)


def mixed_precision(device: torch.device, precision: str) -> AbstractContextManager[object]:
    # bfloat16 has float32's range, so losses need no scaling; GPUs without it compute in float32.
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def state_tensors(learner: Learner) -> dict[str, Tensor]:
    """Everything a checkpoint holds, by flat names."""
    tensors = {f"network.{name}": value for name, value in learner.network.state_dict().items()}
    if learner.average is not None:
        tensors |= {f"average.{name}": value for name, value in learner.average.state_dict().items()}
    for index, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restore(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `state_tensors` back."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}}
    optimizer = learner.optimizer.state_dict()
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if part in parts:
            parts[part][rest] = value
        else:
            index, field = rest.split(".", 1)
            optimizer["state"].setdefault(int(index), {})[field] = value
    learner.network.load_state_dict(parts["network"])
    if learner.average is not None:
        learner.average.load_state_dict(parts["average"])
    learner.optimizer.load_state_dict(optimizer)


def trained_network(learner: Learner) -> nn.Module:
    """What the training leaves behind: the averaged weights where the recipe keeps them."""
    if learner.average is None:
        return learner.network
    network: nn.Module = learner.average.module
    return network
