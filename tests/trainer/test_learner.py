import pytest
import torch
from torch import nn

from services.trainer.learner import Learner, create_learner, learn, parameter_groups, restore, state_tensors
from services.trainer.ranks import Ranks

from .rows import tiny_request

IMAGES = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)


def learner(ranks: Ranks, **fields: object) -> Learner:
    return create_learner(tiny_request(**fields), classes=10, image_size=32, steps=10, ranks=ranks)


def test_biases_and_norms_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decaying, kept = parameter_groups(network, 0.1)
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert [len(group["params"]) for group in (decaying, kept)] == [2, 4]  # type: ignore[arg-type]


def test_the_seed_decides_the_initial_weights(alone: Ranks) -> None:
    first, same, other = (state_tensors(learner(alone, seed=seed))["network.conv1.0.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_learning_lowers_the_loss_on_the_same_images(alone: Ranks) -> None:
    trained = learner(alone)
    losses = [float(learn(trained, step, IMAGES, LABELS)) for step in range(10)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_learner_goes_on_like_the_first(alone: Ranks, optimizer: str) -> None:
    first, second = learner(alone, optimizer=optimizer), learner(alone, optimizer=optimizer, seed=5)
    learn(first, 0, IMAGES, LABELS)
    restore(second, {name: value.clone() for name, value in state_tensors(first).items()})
    second = second._replace(request=first.request)
    assert torch.equal(learn(first, 1, IMAGES, LABELS), learn(second, 1, IMAGES, LABELS))
    after = [state_tensors(each) for each in (first, second)]
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_dropout_of_a_step_does_not_depend_on_the_steps_before(alone: Ranks) -> None:
    first, second = (learner(alone, architecture="test_vit") for _ in range(2))
    for each in (first, second):
        for module in each.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
    torch.rand(100)
    assert torch.equal(learn(first, 3, IMAGES, LABELS), learn(second, 3, IMAGES, LABELS))
