"""How near a synthetic image set is to a real one, in the features of one frozen network.

Every number depends on how many images it was computed of, so a result carries its sample: compare equal ones only.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.errors import Rejected

from .distances import count_balls, nearest
from .linear import Check, never_stop

PRECISION_NEIGHBOURS = 3  # Kynkaanniemi et al. 2019
COVERAGE_NEIGHBOURS = 5  # Naeem et al. 2020
STRETCH_ROWS = 16384
QUANTILES = (0.01, 0.001)
LEAST_FOR_QUANTILES = 1000  # below it no image lies at the 0.1 % quantile
CLOSEST_SHOWN = 20


class Sample(NamedTuple):
    """Images drawn of each set without replacement."""

    synthetic: int
    real: int
    seed: int


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    density: float
    coverage: float


class SetComparison(NamedTuple):
    sample: Sample
    frechet: float
    precision: float
    recall: float
    density: float
    coverage: float


class Pair(NamedTuple):
    """Positions in the sets as given, before any sampling."""

    synthetic: int
    real: int
    distance: float


class Memorisation(NamedTuple):
    """Nearest real training image of each sampled synthetic one, beside the same for sampled real ones.

    `share_within` is the share of synthetic images at most as far as the quantile of the real ones: fresh photos of the
    same kind would give about 0.01 and 0.001, copies give more. `closest` are the nearest pairs, nearest first.
    """

    sample: Sample
    bank: int
    quantiles: tuple[float, float]
    distances: tuple[float, float]
    share_within: tuple[float, float]
    closest: tuple[Pair, ...]


def compare_sets(synthetic: Tensor, real: Tensor, sample: Sample, *, check: Check = never_stop) -> SetComparison:
    """synthetic (N, d) and real (M, d) of any float type; computed in float64 where the features are.

    Raises Rejected for fewer images than the sample asks, other widths, or a feature that is not finite. `check` is
    called now and then, and may raise to stop.
    """
    check_features(synthetic, real)
    drawn = synthetic[draw_rows("synthetic", synthetic, count=sample.synthetic, seed=sample.seed)]
    wanted = real[draw_rows("real", real, count=sample.real, seed=sample.seed)]
    fidelity = precision_recall(drawn, wanted, check=check)
    spread = density_coverage(drawn, wanted, check=check)
    check()
    return SetComparison(sample, frechet_distance(drawn, wanted), *fidelity, *spread)


def frechet_distance(synthetic: Tensor, real: Tensor) -> float:
    """Squared Frechet distance of the two Gaussians (Heusel et al. 2017): the FID's formula.

    With covariances A'A and B'B the trace of (A'A B'B)^1/2 is the sum of the singular values of AB', whose squares are
    the eigenvalues of the symmetric A B'B A': no root of a nearly singular product, and N < d needs nothing else.
    """
    check_features(synthetic, real)
    check_count("synthetic", synthetic, 2)
    check_count("real", real, 2)
    means = [column_means(features) for features in (synthetic, real)]
    roots = [covariance_root(features, mean) for features, mean in zip((synthetic, real), means, strict=True)]
    spread = sum(float(root.square().sum()) for root in roots)
    overlap = float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    # The parts of two equal sets cancel only up to rounding; a distance is never negative.
    return max(0.0, float((means[0] - means[1]).square().sum()) + spread - 2 * overlap)


def column_means(features: Tensor) -> Tensor:
    return torch.stack([part.double().sum(dim=0) for part in features.split(STRETCH_ROWS)]).sum(dim=0) / len(features)


def covariance_root(features: Tensor, mean: Tensor) -> Tensor:
    """R (min(N, d), d) with R'R the covariance; from the rows by QR, so that its condition number is not squared."""
    root = features.new_empty((0, features.shape[1]), dtype=torch.float64)
    for part in features.split(STRETCH_ROWS):
        root = torch.linalg.qr(torch.cat([root, part.double() - mean]), mode="r").R
    return root.div((len(features) - 1) ** 0.5)


def precision_recall(
    synthetic: Tensor, real: Tensor, *, k: int = PRECISION_NEIGHBOURS, check: Check = never_stop
) -> PrecisionRecall:
    """Shares of each set inside the closed k-nearest balls of the other (Kynkaanniemi et al. 2019, section 2)."""
    synthetic, real = checked_and_centred(synthetic, real, k)
    real_balls = count_balls(synthetic, real, radii(real, k, check), is_closed=True, check=check)
    synthetic_balls = count_balls(real, synthetic, radii(synthetic, k, check), is_closed=True, check=check)
    return PrecisionRecall(share(real_balls.per_point > 0), share(synthetic_balls.per_point > 0))


def density_coverage(
    synthetic: Tensor, real: Tensor, *, k: int = COVERAGE_NEIGHBOURS, check: Check = never_stop
) -> DensityCoverage:
    """Synthetic images in the real images' k-nearest balls (Naeem et al. 2020, section 3).

    The balls are open as in the authors' code, which makes the density of a set to itself 1; so a real image with k
    exact copies is covered by nothing.
    """
    synthetic, real = checked_and_centred(synthetic, real, k)
    balls = count_balls(synthetic, real, radii(real, k, check), is_closed=False, check=check)
    density = float(balls.per_ball.sum()) / (k * len(synthetic))
    return DensityCoverage(density, share(balls.per_ball > 0))


def memorisation(synthetic: Tensor, real: Tensor, sample: Sample, *, check: Check = never_stop) -> Memorisation:
    """real (M, d) are the generator's or the trainer's photos, all of them: every one is searched.

    Of real images too only sample.real are looked up, each among all others. Raises Rejected as compare_sets, and where
    fewer than 1,000 real images leave the 0.1 % quantile without an image.
    """
    check_features(synthetic, real)
    check_count("sample of the real", real[: sample.real], LEAST_FOR_QUANTILES)
    real_rows = draw_rows("real", real, count=sample.real, seed=sample.seed)
    synthetic_rows = draw_rows("synthetic", synthetic, count=sample.synthetic, seed=sample.seed)
    usual = nearest(real[real_rows], real, k=1, own_rows=real_rows, check=check).distances[:, 0]
    found = nearest(synthetic[synthetic_rows], real, k=1, check=check)
    away = found.distances[:, 0]
    limits = torch.quantile(usual, usual.new_tensor(QUANTILES))
    closest = away.argsort(stable=True)[:CLOSEST_SHOWN]
    pairs = zip(synthetic_rows[closest].tolist(), found.rows[closest, 0].tolist(), away[closest].tolist(), strict=True)
    return Memorisation(
        sample=sample,
        bank=len(real),
        quantiles=QUANTILES,
        distances=(float(limits[0]), float(limits[1])),
        share_within=(share(away <= limits[0]), share(away <= limits[1])),
        closest=tuple(Pair(*pair) for pair in pairs),
    )


def radii(features: Tensor, k: int, check: Check) -> Tensor:
    """Distance (N,) of each row to its k-th nearest other row."""
    own_rows = torch.arange(len(features), device=features.device)
    return nearest(features, features, k=k, own_rows=own_rows, check=check).distances[:, -1]


def share(is_member: Tensor) -> float:
    return int(is_member.sum()) / len(is_member)


def draw_rows(kind: str, features: Tensor, *, count: int, seed: int) -> Tensor:
    """Rows (count,) int64 in ascending order; the two sets are drawn independently."""
    check_count(kind, features, count)
    return torch.from_numpy(draw_positions(kind, len(features), count=count, seed=seed)).to(features.device)


def draw_positions(kind: str, total: int, *, count: int, seed: int) -> npt.NDArray[np.int64]:
    """The same rows, before there are features."""
    # Equal streams would pick the same positions of both sets, and so the same classes where both are sorted by class.
    stream = int.from_bytes(kind.encode(), "big")
    return np.sort(np.random.default_rng((seed, stream)).choice(total, count, replace=False))


def checked_and_centred(synthetic: Tensor, real: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Both sets less the real mean: distances stay, and the product that they come from rounds less."""
    check_features(synthetic, real)
    check_count("synthetic", synthetic, k + 1)
    check_count("real", real, k + 1)
    mean = column_means(real)
    return synthetic.double() - mean, real.double() - mean


def check_count(kind: str, features: Tensor, least: int) -> None:
    if len(features) < least:
        raise Rejected(f"the {kind} set has {len(features):,} images and this comparison needs {least:,}")


def check_features(synthetic: Tensor, real: Tensor) -> None:
    if synthetic.shape[1] != real.shape[1]:
        raise Rejected(
            f"synthetic features are {synthetic.shape[1]} wide and real ones {real.shape[1]}; use one network for both"
        )
    for kind, features in (("synthetic", synthetic), ("real", real)):
        # By stretches: of the photos of a large training set a second copy would not fit.
        is_sound = torch.cat([part.isfinite().all(dim=1) for part in features.split(STRETCH_ROWS)])
        if not is_sound.all():
            raise Rejected(f"features of {kind} image {int(is_sound.logical_not().nonzero()[0])} are not finite")
