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

from shared.specs import TrainingRequest

from .ranks import Ranks
from .schedule import Schedule

MOMENTUM = 0.9


class Learner(NamedTuple):
    """`parallel` computes, on every rank, with the parameters of `network`."""

    network: nn.Module
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    request: TrainingRequest
    ranks: Ranks


def create_learner(request: TrainingRequest, *, classes: int, image_size: int, steps: int, ranks: Ranks) -> Learner:
    """The same initial weights for the same seed, on every rank."""
    torch.manual_seed(request.seed)
    network = create_network(request.architecture, classes=classes, image_size=image_size)
    # Measured on a CPU: convolutions in this layout took a fifth less time.
    network = network.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = Schedule(request.learning_rate, request.warmup_steps, steps)
    optimizer = create_optimizer(network, request)
    return Learner(network, parallel(network, ranks), optimizer, schedule, request, ranks)


def parallel(network: nn.Module, ranks: Ranks) -> nn.Module:
    if ranks.size == 1:
        return network
    if ranks.device.type == "cuda":
        network = with_shared_statistics(network)
    return DistributedDataParallel(network)


def create_optimizer(network: nn.Module, request: TrainingRequest) -> torch.optim.Optimizer:
    groups = parameter_groups(network, request.weight_decay)
    if request.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=request.learning_rate)
    return torch.optim.SGD(groups, lr=request.learning_rate, momentum=MOMENTUM)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; biases and the scales of normalisation, which have one dimension, do not."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def learn(learner: Learner, step: int, images: Tensor, labels: Tensor) -> Tensor:
    """One optimizer step on (B, 3, S, S) uint8 and (B,) int64; returns the loss before it, detached."""
    device = learner.ranks.device
    seed_step(learner.request.seed, step, learner.ranks.rank)
    for group in learner.optimizer.param_groups:
        group["lr"] = learner.schedule.rate(step)
    learner.parallel.train()
    with mixed_precision(device):
        logits = learner.parallel(normalised(images.to(device)).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels.to(device), label_smoothing=learner.request.label_smoothing)
    learner.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    learner.optimizer.step()
    return loss.detach()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout of a step depends on nothing before it, so a checkpoint needs no generator state."""
    torch.manual_seed(hash((seed, step, rank)) % 2**63)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    # bfloat16 has float32's range, so losses need no scaling; GPUs without it compute in float32.
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def state_tensors(learner: Learner) -> dict[str, Tensor]:
    """Everything a checkpoint holds, by flat names."""
    tensors = {f"network.{name}": value for name, value in learner.network.state_dict().items()}
    for index, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restore(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `state_tensors` back."""
    network, optimizer = {}, learner.optimizer.state_dict()
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if part == "network":
            network[rest] = value
        else:
            index, field = rest.split(".", 1)
            optimizer["state"].setdefault(int(index), {})[field] = value
    learner.network.load_state_dict(network)
    learner.optimizer.load_state_dict(optimizer)
