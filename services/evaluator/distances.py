"""Euclidean distances between two feature sets, tile by tile: no N x M matrix is ever held."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .linear import Check, never_stop

QUERY_ROWS, BANK_ROWS = 2048, 8192  # a tile of float64 distances is 128 MiB
# Squared distances come from a product, so of two equal ones each is off by about 1e-14 of the largest squared norm.
TIE = 1e-12


class Neighbours(NamedTuple):
    """distances (N, k) float64, nearest first, and their rows in the bank (N, k) int64."""

    distances: Tensor
    rows: Tensor


class BallCounts(NamedTuple):
    """Balls around each point's position (N,) and points inside each ball (M,), int64."""

    per_point: Tensor
    per_ball: Tensor


def nearest(
    queries: Tensor, bank: Tensor, *, k: int, own_rows: Tensor | None = None, check: Check = never_stop
) -> Neighbours:
    """The k rows of bank (M, d) nearest to each of queries (N, d); k < M.

    own_rows (N,) int64 leaves out one row of the bank for each query: itself.
    """
    parts = []
    for start in range(0, len(queries), QUERY_ROWS):
        check()
        chunk = queries[start : start + QUERY_ROWS].double()
        own = None if own_rows is None else own_rows[start : start + QUERY_ROWS]
        parts.append(measured(chunk, bank, candidates(chunk, bank, k=k, own_rows=own)))
    return Neighbours(torch.cat([part.distances for part in parts]), torch.cat([part.rows for part in parts]))


def candidates(queries: Tensor, bank: Tensor, *, k: int, own_rows: Tensor | None) -> Tensor:
    """Rows (n, k) of the nearest, up to the rounding of the product."""
    squared = queries.new_empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start, tile in bank_tiles(queries, bank):
        if own_rows is not None:
            leave_out(tile, own_rows - start)
        here = tile.topk(min(k, tile.shape[1]), dim=1, largest=False)
        seen = torch.cat([squared, here.values], dim=1)
        squared, best = seen.topk(min(k, seen.shape[1]), dim=1, largest=False)
        rows = torch.cat([rows, here.indices + start], dim=1).gather(1, best)
    return rows


def leave_out(tile: Tensor, columns: Tensor) -> None:
    inside = (columns >= 0) & (columns < tile.shape[1])
    tile[inside, columns[inside]] = torch.inf


def measured(queries: Tensor, bank: Tensor, rows: Tensor) -> Neighbours:
    """Distances anew from the differences: a copy is then at exactly 0, which a product of float64 never promises."""
    distances = torch.empty(rows.shape, dtype=torch.float64, device=queries.device)
    for column in range(rows.shape[1]):
        distances[:, column] = (queries - bank[rows[:, column]].double()).norm(dim=1)
    distances, order = distances.sort(dim=1)
    return Neighbours(distances, rows.gather(1, order))


def bank_tiles(queries: Tensor, bank: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances (n, m) float64 of float64 queries to each stretch of the bank, with its first row."""
    norms = queries.square().sum(dim=1, keepdim=True)
    for start in range(0, len(bank), BANK_ROWS):
        stretch = bank[start : start + BANK_ROWS].double()
        tile = torch.addmm(norms, queries, stretch.T, alpha=-2.0)
        yield start, tile.add_(stretch.square().sum(dim=1)).clamp_(min=0)


def count_balls(
    points: Tensor, centres: Tensor, radii: Tensor, *, is_closed: bool, check: Check = never_stop
) -> BallCounts:
    """Of balls with `radii` (M,) around centres (M, d): how many hold each of points (N, d), and how many each holds.

    A closed ball holds what lies on its edge, up to TIE of the largest squared norm; an open one does not.
    """
    slack = TIE * max(largest_norm(points), largest_norm(centres)) * (1 if is_closed else -1)
    limits = radii.square() + slack
    per_point = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    per_ball = torch.zeros(len(centres), dtype=torch.int64, device=points.device)
    for first in range(0, len(points), QUERY_ROWS):
        check()
        chunk = points[first : first + QUERY_ROWS].double()
        for start, tile in bank_tiles(chunk, centres):
            inside = tile <= limits[start : start + tile.shape[1]]
            per_point[first : first + len(chunk)] += inside.sum(dim=1)
            per_ball[start : start + tile.shape[1]] += inside.sum(dim=0)
    return BallCounts(per_point, per_ball)


def largest_norm(features: Tensor) -> float:
    """The largest squared norm of a row; never 0, so that a set of zeros has edges too."""
    return max(1e-300, max(float(chunk.double().square().sum(dim=1).max()) for chunk in features.split(QUERY_ROWS)))
