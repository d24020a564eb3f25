"""Many smooth functions minimised side by side by L-BFGS, each with its own line search and its own end.

Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization"; Nocedal and Wright 2006,
algorithm 7.4 (the two loops) and section 3.1 (strong Wolfe conditions). Every round evaluates one point of each
function that has not ended: a function whose step was refused tries a shorter or longer one in the same round in
which the others begin their next iteration, so no evaluation is spent on waiting.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .linear import Check, never_stop

MEMORY = 10  # pairs; Nocedal and Wright recommend 3 to 20
DECREASE, CURVATURE = 1e-4, 0.9  # c1 and c2 of the strong Wolfe conditions, Nocedal and Wright's values
LONGEST_SEARCH = 40  # refused steps in a row; a bracket cannot be halved more often than that in float32


class Evaluated(NamedTuple):
    """values (A,) float64, gradients (A, P)."""

    values: Tensor
    gradients: Tensor


# rows (A,) says which functions are asked, points (A, P) where.
Functions = Callable[[Tensor, Tensor], Evaluated]


class Minima(NamedTuple):
    """points (K, P), iterations (K,) int64, converged (K,) bool."""

    points: Tensor
    iterations: Tensor
    converged: Tensor


class Running:
    """What is known of each function that has not ended; all fields have a row per such function."""

    def __init__(self, rows: Tensor, points: Tensor, scales: Tensor, first: Evaluated) -> None:
        count = len(rows)
        self.rows, self.points, self.scales = rows, points, scales
        self.values, self.gradients = first
        self.iterations = torch.zeros_like(rows)
        self.pairs = torch.zeros_like(rows)  # accepted since the start; the newest lies at (pairs - 1) % MEMORY
        self.moves = points.new_zeros(count, MEMORY, points.shape[1])
        self.changes = torch.zeros_like(self.moves)
        self.curvatures = first.values.new_ones(count, MEMORY)
        self.directions = -scales * self.gradients
        self.slopes = dot(self.gradients, self.directions)
        self.steps = torch.ones_like(self.slopes)
        self.refused = torch.zeros_like(rows)
        self.low = torch.zeros(count, 3, dtype=self.slopes.dtype, device=rows.device)  # step, value, slope
        self.high = torch.full_like(self.low, torch.inf)
        self.begin_search(torch.ones_like(rows, dtype=torch.bool))

    def keep(self, kept: Tensor) -> None:
        for name, field in vars(self).items():
            setattr(self, name, field[kept])

    def begin_search(self, which: Tensor) -> None:
        start = torch.stack([torch.zeros_like(self.values), self.values, self.slopes], dim=1)
        self.low = torch.where(which[:, None], start, self.low)
        self.high = torch.where(which[:, None], torch.inf, self.high)
        self.steps = torch.where(which, 1.0, self.steps)
        self.refused = torch.where(which, 0, self.refused)


def minimise(
    functions: Functions,
    points: Tensor,
    scales: Tensor,
    *,
    max_iterations: int,
    tolerance: float,
    check: Check = never_stop,
) -> Minima:
    """points (K, P) to start from; scales (K, P) positive, a guess of the inverse Hessian's diagonal.

    A function has converged when the decrease still expected, g H g / 2 with L-BFGS's own inverse Hessian H, is at most
    `tolerance` (in the function's unit, whatever the scale of its coordinates). One that cannot be decreased any more
    in this precision ends unconverged, as does one after `max_iterations`. `check` is called before every round,
    and may raise to stop.
    """
    rows = torch.arange(len(points), device=points.device)
    found = Minima(points.clone(), torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool))
    running = Running(rows, points.clone(), scales, functions(rows, points))
    while True:
        converged = (running.refused == 0) & (-running.slopes / 2 <= tolerance)
        ended = converged | (running.iterations >= max_iterations) | (running.refused > LONGEST_SEARCH)
        if ended.any():
            done = running.rows[ended]
            found.points[done] = running.points[ended]
            found.iterations[done] = running.iterations[ended]
            found.converged[done] = converged[ended]
            running.keep(~ended)
        if not len(running.rows):
            return found
        check()
        advance(running, functions)


def advance(running: Running, functions: Functions) -> None:
    """One evaluation of each function: a step is taken, or its bracket narrowed.

    The bracket's lower end satisfies the sufficient decrease and still falls steeply, its upper end does not, so a
    step that satisfies the strong Wolfe conditions lies between them (Nocedal and Wright, lemma 3.1).
    """
    trials = running.points + running.steps[:, None].to(running.points.dtype) * running.directions
    values, gradients = functions(running.rows, trials)
    slopes = dot(gradients, running.directions)
    # Below the rounding of the value itself the slope alone decides (Hager and Zhang 2005, "approximate Wolfe").
    noise = torch.finfo(gradients.dtype).eps * running.values.abs()
    start_value, start_slope = running.values, running.slopes
    enough = values <= start_value + DECREASE * running.steps * start_slope + noise
    too_long = ~enough | (slopes > -CURVATURE * start_slope)  # also when the value is not a number
    too_short = ~too_long & (slopes < CURVATURE * start_slope)
    here = torch.stack([running.steps, values, slopes], dim=1)
    running.low = torch.where(too_short[:, None], here, running.low)
    running.high = torch.where(too_long[:, None], here, running.high)
    running.refused += 1
    running.steps = next_steps(running.low, running.high)
    taken = ~(too_long | too_short)
    if taken.any():
        take(running, taken, trials, Evaluated(values, gradients))


def next_steps(low: Tensor, high: Tensor) -> Tensor:
    """low and high (A, 3): step, value and slope at the bracket's ends; `high` is infinite until one was too long.

    Inside the bracket the minimum of the cubic through both ends (Nocedal and Wright, equation 3.59), kept a tenth of
    the width away from them; without an upper end four times the step.
    """
    a, value_a, slope_a = low.unbind(1)
    b, value_b, slope_b = high.unbind(1)
    width = b - a
    first = slope_a + slope_b - 3 * (value_b - value_a) / width
    second = (first**2 - slope_a * slope_b).clamp(min=0).sqrt()
    cubic = (slope_b + second - first) / (slope_b - slope_a + 2 * second)  # from b towards a, as a share of the width
    share = torch.nan_to_num(1 - cubic, nan=0.5).clamp(0.1, 0.9)
    return torch.where(b.isinf(), 4 * a, a + share * width)


def take(running: Running, taken: Tensor, trials: Tensor, at: Evaluated) -> None:
    """Remember the pair, move, and aim anew: for the `taken` functions only."""
    which = taken.nonzero()[:, 0]
    moves, changes = trials[which] - running.points[which], at.gradients[which] - running.gradients[which]
    curvatures = dot(moves, changes)
    # Positive by the Wolfe conditions, but for rounding.
    usable = curvatures > torch.finfo(moves.dtype).eps * dot(changes, changes).sqrt() * dot(moves, moves).sqrt()
    slots = running.pairs[which] % MEMORY
    use, slot = which[usable], slots[usable]
    running.moves[use, slot], running.changes[use, slot] = moves[usable], changes[usable]
    running.curvatures[use, slot] = curvatures[usable]
    running.pairs[use] += 1
    running.points[which], running.gradients[which] = trials[which], at.gradients[which]
    running.values[which] = at.values[which]
    running.iterations[which] += 1
    running.directions[which] = aim(running, which)
    running.slopes[which] = dot(running.gradients[which], running.directions[which])
    running.begin_search(taken)


def aim(running: Running, which: Tensor) -> Tensor:
    """Directions (B, P) by the two loops over the remembered pairs, newest first and back."""
    direction, scales = -running.gradients[which], running.scales[which]
    pairs = running.pairs[which]
    newest = pairs.clamp(max=MEMORY).max().item()
    weights = []
    for age in range(int(newest)):
        slot, known = (pairs - 1 - age) % MEMORY, pairs > age
        share = dot(running.moves[which, slot], direction) / running.curvatures[which, slot]
        weights.append(torch.where(known, share, 0.0).to(direction.dtype)[:, None])
        direction = direction - weights[-1] * running.changes[which, slot]
    direction = direction * scales * fitted_scale(running, which, scales)
    for age in reversed(range(int(newest))):
        slot, known = (pairs - 1 - age) % MEMORY, pairs > age
        share = dot(running.changes[which, slot], direction) / running.curvatures[which, slot]
        weight = torch.where(known, share, 0.0).to(direction.dtype)[:, None]
        direction = direction + (weights[age] - weight) * running.moves[which, slot]
    return direction


def fitted_scale(running: Running, which: Tensor, scales: Tensor) -> Tensor:
    """(B, 1): the factor on `scales` that fits the newest pair (Nocedal and Wright, equation 7.20)."""
    slot = (running.pairs[which] - 1) % MEMORY
    change = running.changes[which, slot]
    fitted = running.curvatures[which, slot] / dot(change * scales, change)
    return torch.where(running.pairs[which] > 0, fitted, 1.0).to(scales.dtype)[:, None]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row in float64: (A,)."""
    return (a * b).sum(dim=1, dtype=torch.float64)
