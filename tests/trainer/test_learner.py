import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.batches import Batch
from services.trainer.draws import draw_crops
from services.trainer.learner import (
    Learner,
    create_learner,
    create_optimizer,
    learn,
    parallel,
    parameter_groups,
    restore,
    state_tensors,
    trained_network,
)
from services.trainer.ranks import Ranks
from shared.errors import Rejected
from shared.recipes import CropRecipe

from .rows import spec_of, tiny_request

IMAGES = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BATCH = Batch(IMAGES, torch.arange(8), ())
CROPS = (
    CropRecipe(size=32, count=1, blur=0.2, solarise=0.2),
    CropRecipe(size=16, count=3, scale=(0.05, 0.25), blur=0.5),
)


def cropped(recipes: tuple[CropRecipe, ...] = CROPS) -> Batch:
    numbers = np.arange(8)
    draws = draw_crops(recipes, seed=1, epochs=0 * numbers, indices=numbers, sizes=np.full((8, 2), 32))
    return BATCH._replace(draws=draws)


def learner(ranks: Ranks, **fields: object) -> Learner:
    return create_learner(spec_of(tiny_request(**fields)), image_size=32, steps=10, warmup_steps=0, ranks=ranks)


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
    losses = [float(learn(trained, step, BATCH)) for step in range(10)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_learner_goes_on_like_the_first(alone: Ranks, optimizer: str) -> None:
    first, second = learner(alone, optimizer=optimizer), learner(alone, optimizer=optimizer, seed=5)
    learn(first, 0, BATCH)
    restore(second, {name: value.clone() for name, value in state_tensors(first).items()})
    second = second._replace(seed=first.seed)
    assert torch.equal(learn(first, 1, BATCH), learn(second, 1, BATCH))
    after = [state_tensors(each) for each in (first, second)]
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_dropout_of_a_step_does_not_depend_on_the_steps_before(alone: Ranks) -> None:
    first, second = (learner(alone, architecture="test_vit") for _ in range(2))
    for each in (first, second):
        for module in each.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
    torch.rand(100)
    assert torch.equal(learn(first, 3, BATCH), learn(second, 3, BATCH))


def test_learning_from_crops_lowers_the_loss_and_a_cosine_head_bounds_the_logits(alone: Ranks) -> None:
    trained = learner(alone, recipe="imagenet-sd", crops=CROPS, temperature=0.1)
    batch = cropped()
    losses = [float(learn(trained, step, batch)) for step in range(25)]
    assert losses[-1] < losses[0] / 1.5
    with torch.no_grad():
        logits = trained.network.eval()(torch.randn(4, 3, 32, 32))
    assert float(logits.abs().max()) <= 10 + 1e-4


def test_every_crop_counts_alike_with_the_label_of_its_image(alone: Ranks) -> None:
    """The loss over both resolutions is the mean over all 4 crops of each image."""
    batch = cropped()
    both, wide, narrow = (
        float(learn(learner(alone, crops=CROPS), 0, batch._replace(draws=draws)))
        for draws in (batch.draws, batch.draws[:1], batch.draws[1:])
    )
    assert both == pytest.approx((wide + 3 * narrow) / 4, rel=1e-4)


def test_the_average_follows_the_weights_and_is_what_is_kept(alone: Ranks) -> None:
    trained = learner(alone, ema_decay=0.5)
    name = "conv1.0.weight"
    before = trained.network.state_dict()[name].clone()
    learn(trained, 0, BATCH)
    after = trained.network.state_dict()[name]
    # The first update copies (torch.optim.swa_utils), the second averages.
    assert torch.equal(trained_network(trained).state_dict()[name], after)
    once = after.clone()
    learn(trained, 1, BATCH)
    expected = once.lerp(trained.network.state_dict()[name], 0.5)
    torch.testing.assert_close(trained_network(trained).state_dict()[name], expected)
    assert not torch.equal(before, once)


def test_a_restored_average_goes_on_like_the_first(alone: Ranks) -> None:
    first, second = learner(alone, ema_decay=0.9), learner(alone, ema_decay=0.9, seed=5)
    learn(first, 0, BATCH)
    restore(second, {name: value.clone() for name, value in state_tensors(first).items()})
    second = second._replace(seed=first.seed)
    for each in (first, second):
        learn(each, 1, BATCH)
    kept = [trained_network(each).state_dict() for each in (first, second)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_a_network_that_cannot_take_every_crop_is_refused(alone: Ranks) -> None:
    crops = (CropRecipe(size=32, count=1), CropRecipe(size=16, count=2))
    with pytest.raises(Rejected, match=r"'vit_tiny_patch16_224' cannot take images of 16 x 16: .* give .* other crops"):
        learner(alone, architecture="vit_tiny_patch16_224", crops=crops)


def parts_of(batch: Batch, count: int) -> list[Batch]:
    return [Batch(*part, ()) for part in zip(batch.images.chunk(count), batch.labels.chunk(count), strict=True)]


def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch(alone: Ranks) -> None:
    """Of a network without batch statistics, which each part has of its own."""
    whole, apart = (learner(alone, architecture="test_vit", optimizer="sgd", learning_rate=0.1) for _ in range(2))
    for step in range(5):
        expected, found = learn(whole, step, BATCH), learn(apart, step, *parts_of(BATCH, 4))
        assert float(found) == pytest.approx(float(expected), abs=1e-5)
    kept, other = state_tensors(whole), state_tensors(apart)
    assert all(torch.allclose(kept[name], other[name], atol=1e-5) for name in kept)


def small(ranks: Ranks, *, is_compiled: bool) -> Learner:
    """Seconds to compile, where a timm network takes minutes."""
    made = learner(ranks, crops=CROPS, optimizer="sgd", learning_rate=0.01)
    torch.manual_seed(0)
    pool = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), *pool, nn.Linear(4, 10))
    computed = parallel(network, ranks, is_compiled=is_compiled)
    return made._replace(network=network, parallel=computed, optimizer=create_optimizer(network, made.recipe))


@pytest.mark.slow
def test_a_compiled_network_learns_alike_and_is_compiled_once(alone: Ranks) -> None:
    """Crops of two sizes; checkpoints do not tell by their names."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = (small(alone, is_compiled=fact) for fact in (False, True))
    losses = [[float(learn(each, step, cropped())) for step in range(4)] for each in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    kept, other = state_tensors(plain), state_tensors(compiled)
    assert kept.keys() == other.keys()
    assert all(torch.allclose(kept[name], other[name], atol=1e-4) for name in kept)


class Waits(TorchDispatchMode):
    """Notes every reading of a tensor's value by Python, for which a GPU would be waited for; `host` is never on it."""

    def __init__(self, host: Tensor) -> None:
        super().__init__()
        self.host, self.seen = host, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen += func is torch.ops.aten._local_scalar_dense.default and args[0] is not self.host
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_value_that_a_gpu_would_be_waited_for(alone: Ranks) -> None:
    """With SGD: on a CPU AdamW, which is not fused there, reads its own counters."""
    trained = learner(alone, crops=CROPS, temperature=0.1, optimizer="sgd", ema_decay=0.9)
    assert trained.average is not None
    learn(trained, 0, cropped())
    with Waits(host=trained.average.n_averaged) as waits:
        loss = learn(trained, 1, cropped())
        assert waits.seen == 0
        float(loss)
        assert waits.seen == 1


def test_network_and_images_are_laid_out_channels_last(alone: Ranks) -> None:
    trained = learner(alone, crops=CROPS)
    layouts: list[bool] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    first = next(module for module in trained.network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(look)
    learn(trained, 0, cropped())
    assert layouts == [True, True]
    assert first.weight.is_contiguous(memory_format=torch.channels_last)
