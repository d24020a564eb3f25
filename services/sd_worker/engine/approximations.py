"""Trajectories of which some evaluations leave out the guidance, or the deep part of the network."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

from torch import Tensor

from shared.approximations import Approximation, are_guided

from .trajectory import Step, combined
from .unet import EngineUNet, KeysAndValues

# As a Step, and with the deep features of its output.
Keep = Callable[[EngineUNet, Tensor, Tensor, Sequence[KeysAndValues], Tensor | None], tuple[Tensor, Tensor]]
# As a Step, from the deep features of an earlier evaluation.
Reuse = Callable[[EngineUNet, Tensor, Tensor, Tensor, Sequence[KeysAndValues], Tensor | None], Tensor]


class Evaluation(NamedTuple):
    """Of the network. One that is not whole takes the deep features of the last whole one."""

    is_guided: bool
    is_whole: bool


def plan_evaluations(count: int, approximation: Approximation, *, has_guidance: bool) -> tuple[Evaluation, ...]:
    """Of each of `count` evaluations in order.

    One is guided as `are_guided` says. One is whole where the last whole one was `reuse_every` ago (Ma et al. 2023,
    arXiv 2312.00858), and where guidance begins: of the images without text nothing is known then.
    """
    within = are_guided(count, approximation.guidance_interval or (0.0, 1.0))
    guided = [has_guidance and is_within for is_within in within]
    whole = are_whole(guided, approximation.reuse_every or 1)
    return tuple(Evaluation(*both) for both in zip(guided, whole, strict=True))


def are_whole(guided: Sequence[bool], every: int) -> Iterator[bool]:
    age = 0
    for before, is_guided in pairwise([False, *guided]):
        begins = is_guided and not before
        age = 0 if begins or age == every else age
        yield age == 0
        age += 1


def kept(
    unet: EngineUNet, latents: Tensor, biases: Tensor, texts: Sequence[KeysAndValues], guidance: Tensor | None
) -> tuple[Tensor, Tensor]:
    output, features = unet.with_features(latents, biases, texts)
    return combined(output, guidance), features


def reused(
    unet: EngineUNet,
    latents: Tensor,
    features: Tensor,
    biases: Tensor,
    texts: Sequence[KeysAndValues],
    guidance: Tensor | None,
) -> Tensor:
    output = unet.shallow(latents, features, biases, texts)
    return combined(output, guidance)


class Evaluations(NamedTuple):
    """The three kinds of an evaluation, as they are or compiled."""

    exact: Step
    keep: Keep
    reuse: Reuse


class ApproximatedStep:
    """The Step of one trajectory: which evaluation comes next, and the deep features of the last whole one."""

    def __init__(self, plan: Sequence[Evaluation], kinds: Evaluations) -> None:
        self._plan = iter(plan)
        self._kinds = kinds
        self._reuses = not all(each.is_whole for each in plan)
        self._features: Tensor | None = None

    def __call__(
        self,
        unet: EngineUNet,
        latents: Tensor,
        biases: Tensor,
        texts: Sequence[KeysAndValues],
        guidance: Tensor | None,
    ) -> Tensor:
        evaluation = next(self._plan)
        if not evaluation.is_guided:
            texts, guidance = [prompted(each, len(latents)) for each in texts], None
        if not self._reuses:
            return self._kinds.exact(unet, latents, biases, texts, guidance)
        if evaluation.is_whole:
            output, self._features = self._kinds.keep(unet, latents, biases, texts, guidance)
            return output
        assert self._features is not None  # the first evaluation is whole
        features = self._features if evaluation.is_guided else self._features[-len(latents) :]
        return self._kinds.reuse(unet, latents, features, biases, texts, guidance)


def prompted(texts: KeysAndValues, count: int) -> KeysAndValues:
    """Of `count` images; before them may stand as many without text."""
    return KeysAndValues(texts.keys[-count:], texts.values[-count:])
