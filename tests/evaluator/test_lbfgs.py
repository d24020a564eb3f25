import math

import pytest
import torch
from torch import Tensor

from services.evaluator.lbfgs import Evaluated, Minima, minimise, next_steps


def rosenbrock(rows: Tensor, points: Tensor) -> Evaluated:
    """Function k is a valley of steepness 10 ** k with its minimum at (1, 1)."""
    steepness = 10.0**rows
    x, y = points.unbind(1)
    bend = y - x**2
    values = (1 - x) ** 2 + steepness * bend**2
    return Evaluated(values, torch.stack([2 * (x - 1) - 4 * steepness * bend * x, 2 * steepness * bend], dim=1))


def minimised(start: Tensor, *, max_iterations: int = 500, tolerance: float = 1e-14) -> Minima:
    return minimise(rosenbrock, start, torch.ones_like(start), max_iterations=max_iterations, tolerance=tolerance)


def test_each_valley_is_followed_to_its_own_end() -> None:
    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64).repeat(4, 1)
    found = minimised(start)
    assert found.converged.all()
    assert torch.allclose(found.points, torch.ones_like(start), atol=1e-5)
    assert len(set(found.iterations.tolist())) > 1


def test_a_minimum_does_not_depend_on_what_is_minimised_beside_it() -> None:
    start = torch.tensor([[-1.2, 1.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    together = minimised(start)
    # Valley 0 is the same function alone as together; steeper ones would be numbered anew.
    alone = minimised(start[:1])
    assert torch.equal(together.points[:1], alone.points)
    assert together.iterations[0] == alone.iterations[0]


def test_a_start_at_the_minimum_takes_no_iteration() -> None:
    found = minimised(torch.ones(1, 2, dtype=torch.float64))
    assert (found.iterations.item(), found.converged.item()) == (0, True)


def test_too_few_iterations_are_not_called_convergence() -> None:
    found = minimised(torch.tensor([[-1.2, 1.0]], dtype=torch.float64), max_iterations=3)
    assert (found.iterations.item(), found.converged.item()) == (3, False)


def test_a_gradient_that_points_uphill_ends_unconverged() -> None:
    def wrong(rows: Tensor, points: Tensor) -> Evaluated:
        values, gradients = rosenbrock(rows, points)
        return Evaluated(values, -gradients)

    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    found = minimise(wrong, start, torch.ones_like(start), max_iterations=500, tolerance=1e-9)
    assert (found.iterations.item(), found.converged.item()) == (0, False)


def test_scales_of_the_inverse_hessian_solve_a_diagonal_quadratic_in_one_step() -> None:
    diagonal = torch.tensor([[1e-3, 1.0, 1e4]], dtype=torch.float64)

    def quadratic(rows: Tensor, points: Tensor) -> Evaluated:
        return Evaluated((diagonal * points**2).sum(dim=1) / 2, diagonal * points)

    found = minimise(quadratic, torch.ones_like(diagonal), 1 / diagonal, max_iterations=100, tolerance=1e-12)
    assert (found.iterations.item(), found.points.abs().max().item()) == (1, pytest.approx(0, abs=1e-12))


def test_scales_stand_for_other_units_of_the_coordinates() -> None:
    units = torch.tensor([[64.0, 0.25]], dtype=torch.float64)

    def in_other_units(rows: Tensor, points: Tensor) -> Evaluated:
        values, gradients = rosenbrock(rows, points * units)
        return Evaluated(values, gradients * units)

    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    plain = minimised(start)
    scaled = minimise(in_other_units, start / units, 1 / units**2, max_iterations=500, tolerance=1e-14)
    assert scaled.iterations.tolist() == plain.iterations.tolist()
    assert torch.allclose(scaled.points * units, plain.points, rtol=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [
        # (t - 0.3) ** 2, whose cubic is itself
        ([0.0, 0.09, -0.6], [1.0, 0.49, 1.4], 0.3),
        # t ** 3 - t between 0.5 and 1: the minimum is 1 / sqrt(3)
        ([0.5, -0.375, -0.25], [1.0, 0.0, 2.0], 1 / math.sqrt(3)),
        # (t - 0.01) ** 2: kept a tenth of the width from the lower end
        ([0.0, 0.0001, -0.02], [1.0, 0.9801, 1.98], 0.1),
        # not a number at the upper end: the middle
        ([0.0, 1.0, -1.0], [1.0, math.nan, math.nan], 0.5),
        # no upper end yet
        ([2.0, 1.0, -1.0], [math.inf, math.inf, math.inf], 8.0),
    ],
)
def test_the_next_step_is_the_cubic_s_minimum(low: list[float], high: list[float], step: float) -> None:
    ends = (torch.tensor([end], dtype=torch.float64) for end in (low, high))
    assert next_steps(*ends).item() == pytest.approx(step, rel=1e-9)
