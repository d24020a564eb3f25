import math

from shared.vision.heads import CosineHead, with_head

import pytest
import timm
import torch
from torch import nn

from shared.errors import Rejected


def small(name: str, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, num_classes=classes).eval()
    return network


def test_logits_are_cosines_divided_by_the_temperature() -> None:
    head = CosineHead(2, 3, 0.1)
    head.load_state_dict({"weight": torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, -1.0]])})
    logits = head(torch.tensor([[3.0, 0.0], [2.0, 2.0]]))
    half = 10 / math.sqrt(2)
    torch.testing.assert_close(logits, torch.tensor([[10.0, 0.0, -half], [half, half, -10.0]]))


def test_the_length_of_features_and_weights_does_not_matter() -> None:
    torch.manual_seed(0)
    head, features = CosineHead(8, 5, 0.2), torch.randn(4, 8)
    before = head(features)
    with torch.no_grad():
        head.weight.mul_(torch.rand(5, 1) + 0.5)
    torch.testing.assert_close(head(7 * features), before)


def test_mixed_precision_leaves_the_logits_in_float32() -> None:
    torch.manual_seed(0)
    head, features = CosineHead(64, 5, 0.1), torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(features)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, head(features))


@pytest.mark.parametrize("temperature", [0, -1])
def test_a_cosine_head_needs_a_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature {temperature} must be above 0"):
        CosineHead(2, 2, temperature)


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_vit", "test_convnext", "convnext_atto"])
def test_the_classifier_of_a_network_becomes_a_cosine_head(name: str) -> None:
    network = small(name)
    changed = with_head(network, 0.1)
    images = torch.rand(2, *network.pretrained_cfg["input_size"])
    assert changed is network
    assert isinstance(network.get_classifier(), CosineHead)
    pooled = network.forward_head(network.forward_features(images), pre_logits=True)
    cosines = nn.functional.cosine_similarity(pooled[:, None], network.get_classifier().weight, dim=2)
    torch.testing.assert_close(network(images), 10 * cosines)


@pytest.mark.parametrize("temperature", [0, -1])
def test_without_a_temperature_the_linear_head_stays(temperature: float) -> None:
    network = small("test_resnet")
    before = network.get_classifier()
    assert with_head(network, temperature).get_classifier() is before
    assert isinstance(before, nn.Linear)


def test_a_saved_head_gives_the_same_logits_and_has_no_bias() -> None:
    first, second = (with_head(timm.create_model("test_resnet", num_classes=3).eval(), 0.1) for _ in range(2))
    weights = first.state_dict()
    assert [name for name in weights if name.startswith("fc.")] == ["fc.weight"]
    images = torch.rand(1, 3, 64, 64)
    assert not torch.equal(first(images), second(images))
    second.load_state_dict(weights)
    assert torch.equal(first(images), second(images))


def test_a_linear_head_does_not_load_as_a_cosine_head() -> None:
    with pytest.raises(RuntimeError, match=r"Unexpected key.*fc\.bias"):
        with_head(small("test_resnet"), 0.1).load_state_dict(small("test_resnet").state_dict())


@pytest.mark.parametrize(
    ("name", "classes", "classifier"),
    [
        ("deit_tiny_distilled_patch16_224", 3, r"'head', 'head_dist'"),
        ("dla34", 3, "'fc', a Conv2d"),
        ("test_resnet", 0, "'fc', a Identity"),
    ],
)
def test_a_network_without_one_linear_classifier_is_refused(name: str, classes: int, classifier: str) -> None:
    with pytest.raises(Rejected, match=f"architecture '{name}' has no single linear layer.*{classifier}"):
        with_head(small(name, classes), 0.1)


def test_a_network_learns_through_its_cosine_head() -> None:
    network = with_head(small("test_resnet"), 0.1).train()
    images, labels = torch.rand(6, 3, 64, 64), torch.arange(6) % 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
