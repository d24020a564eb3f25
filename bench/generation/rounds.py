"""Every arm draws in turn, so that a slow moment of the machine hits all of them."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from .arms import Arm, Images
from .device import Memory, seconds_of
from .plan import Plan, batch
from .result import ArmResult
from .stages import Stages


class Turn(NamedTuple):
    """Images/s, and the peak bytes of the work beside everything else (None on a CPU)."""

    speed: float
    peak: int | None


class Rounds:
    def __init__(self, plan: Plan, arms: Sequence[Arm]) -> None:
        self._plan = plan
        self._arms = arms
        self.turns: dict[str, list[Turn]] = {arm.name: [] for arm in arms}
        self.first_images: dict[str, Images] = {}

    def draw(self, stages: Stages, *, seconds_per_image: float, reserved_seconds: float) -> None:
        """`seconds_per_image` is a guess of the slowest arm's; `reserved_seconds` is for what comes after."""
        batches = self.batches(stages, seconds_per_image, reserved_seconds)
        longest = 0.0
        for number in range(self._plan.rounds):
            if number and not stages.has_time(f"round {number + 1}", longest + reserved_seconds):
                return
            began = stages.left
            with stages.stage(f"round {number + 1}"):
                for arm in self._arms:
                    self.take_turn(arm, first=1000 * number, batches=batches)
            longest = max(longest, began - stages.left)

    def batches(self, stages: Stages, seconds_per_image: float, reserved_seconds: float) -> int:
        """Of each arm in a round: as planned, or one where there would be no time for more."""
        images = self._plan.rounds * self._plan.batches * sum(arm.batch for arm in self._arms)
        wanted = images * seconds_per_image
        if wanted + reserved_seconds <= stages.left:
            return self._plan.batches
        stages.leave_out(f"all but one batch of an arm in each round: all would take {wanted:.0f} s")
        return 1

    def take_turn(self, arm: Arm, *, first: int, batches: int) -> None:
        given = [batch(arm.batch, first=first + number * arm.batch) for number in range(batches)]
        drawn: list[Images] = []
        memory = Memory(self._plan.device)
        seconds = seconds_of(lambda: drawn.append(arm.draw(given)), self._plan.device)
        turn = Turn(batches * arm.batch / seconds, memory.peak())
        self.turns[arm.name].append(turn)
        self.first_images.setdefault(arm.name, drawn[0][: self._plan.compared])
        print(f"  {arm.name}: {turn.speed:.3f} images/s", flush=True)

    def results(self, *, flop_per_image: float, flop_per_second: float) -> dict[str, ArmResult]:
        found = {}
        for arm in self._arms:
            speeds = [turn.speed for turn in self.turns[arm.name]]
            peaks = [turn.peak for turn in self.turns[arm.name] if turn.peak is not None]
            speed = statistics.median(speeds)
            found[arm.name] = ArmResult(
                batch=arm.batch,
                images_per_second=round(speed, 4),
                rounds=tuple(round(each, 4) for each in speeds),
                spread=round((max(speeds) - min(speeds)) / speed, 4),
                utilisation=round(speed * flop_per_image / flop_per_second, 4),
                peak_gib=round(max(peaks) / 2**30, 2) if peaks else None,
            )
        return found

    def ratios(self, name: str) -> dict[str, float]:
        """This arm's speed over each other one's: the median over the rounds."""
        ours = self.turns[name]
        return {
            other: round(statistics.median(our.speed / their.speed for our, their in zip(ours, theirs, strict=True)), 4)
            for other, theirs in self.turns.items()
            if other != name
        }
