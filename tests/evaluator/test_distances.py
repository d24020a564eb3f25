import pytest
import torch
from torch import Tensor

from services.evaluator.distances import count_balls, nearest

GENERATOR = torch.Generator().manual_seed(0)
QUERIES, BANK = torch.randn(37, 5, generator=GENERATOR), torch.randn(53, 5, generator=GENERATOR)


def cloud(rows: int, *, seed: int) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))


# Two tiles each way, and the second ones are not full.
MANY, MANY_BANK = cloud(2100, seed=1), cloud(8300, seed=2)
EVERY = torch.cdist(MANY.double(), MANY_BANK.double(), compute_mode="donot_use_mm_for_euclid_dist")


def test_neighbours_agree_with_sorting_every_distance() -> None:
    found = nearest(QUERIES, BANK, k=4)
    for query, away, rows in zip(QUERIES.double(), found.distances, found.rows.tolist(), strict=True):
        every = sorted((float((query - other.double()).square().sum()) ** 0.5, row) for row, other in enumerate(BANK))
        assert rows == [row for _, row in every[:4]]
        assert away.tolist() == pytest.approx([far for far, _ in every[:4]], rel=1e-12)


def test_neighbours_are_sought_in_every_tile() -> None:
    plain = EVERY.topk(3, dim=1, largest=False)
    found = nearest(MANY, MANY_BANK, k=3)
    assert found.rows.equal(plain.indices)
    torch.testing.assert_close(found.distances, plain.values)


def test_a_row_is_not_its_own_neighbour() -> None:
    own = torch.tensor([5, 8191, 8192, 8299])
    plain = torch.cdist(MANY_BANK[own].double(), MANY_BANK.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = nearest(MANY_BANK[own], MANY_BANK, k=1, own_rows=own)
    assert found.rows[:, 0].equal(plain.sort(dim=1).indices[:, 1])


def test_a_copy_far_from_the_origin_is_at_distance_zero() -> None:
    far = BANK + 1e4
    assert nearest(far[7:8], far, k=1).distances.tolist() == [[0.0]]


def test_balls_are_counted_from_both_sides() -> None:
    radii = torch.linspace(0.1, 1, len(MANY_BANK), dtype=torch.float64)
    inside = radii >= EVERY
    counts = count_balls(MANY, MANY_BANK, radii, is_closed=True)
    assert counts.per_point.equal(inside.sum(dim=1))
    assert counts.per_ball.equal(inside.sum(dim=0))


@pytest.mark.parametrize(("is_closed", "held"), [(True, 1), (False, 0)])
def test_only_a_closed_ball_holds_its_edge(is_closed: bool, held: int) -> None:
    """The distance is found from a product, so the edge is where rounding would decide."""
    for centre, point in zip(BANK.double().split(1), QUERIES.double().split(1), strict=False):
        radius = (centre - point).norm(dim=1)
        assert count_balls(point, centre, radius, is_closed=is_closed).per_point.tolist() == [held]
