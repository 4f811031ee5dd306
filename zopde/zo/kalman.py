"""Ensemble Kalman inversion: many weight vectors, moved by what they predict; no gradient.

Both updates work in the space of the J members, so the cost of one is of order J^2 (d + p) + J^3:
linear in the data and in the weights. What they return lies in the affine span of the ensemble,
unless the update is localised; that one is of order d^2 (J + d) + J d p.
"""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from zopde.errors import InputError
from zopde.validate import checked

Ensemble = Float[Tensor, "members p"]
Predictions = Float[Tensor, "members d"]
Variance = float | Float[Tensor, " d"]
MOST_LOCALISED = 8192
"""Data of a localised update at most: it solves a system of as many equations."""
_AT_ONCE = 2**22  # covariances of weights and data that are in the memory together


@checked
def eki_update(
    ensemble: Ensemble,
    predictions: Predictions,
    data: Float[Tensor, " d"],
    variance: Variance,
    generator: Generator,
    localised: bool = False,
) -> Float[Tensor, "kept p"]:
    """Move every member towards data that are perturbed for each anew.

        u_j <- u_j + C_up (C_pp + R)^-1 (y + e_j - G(u_j)),    e_j ~ N(0, R),   R = diag(variance)

    C_pp and C_up are the sample covariances of the predictions, and of members and predictions.
    (Iglesias, Law and Stuart 2013.) For a linear G and many members one update gives
    mean and covariance of the Kalman filter.

    Few members see correlations where there are none. A localised update multiplies every entry of
    both covariances by the square of its sample correlation: C_ij <- C_ij r_ij^2. (Sampling
    error correction, Lee 2021, arXiv 2105.11341, with the exponent 2, for which the matrices stay
    positive.) What is certain, r = 1, stays; an accidental r = 0.1 has a hundredth of its effect.
    So members leave the span of the ensemble. The update is too short where correlations are
    weak but true, also with many members: it is no Kalman filter.

    Args:
        ensemble: (J, p), u_j.
        predictions: (J, d), G(u_j). A member with a number that is not finite is left out.
        data: (d,), y.
        variance: Of the noise of the data, > 0; (d,) or one number.
        generator: Source of e_j, on the CPU.
        localised: Whether the update is; then d is `MOST_LOCALISED` at most.

    Returns:
        (K, p) in float64, the K members that were not left out, in their order.

    Raises:
        InputError: If fewer than two members are left, there are too many data to be localised, or
            shapes or variances are wrong.
    """
    of, shapes, misfits = _scaled(ensemble, predictions, data, variance)
    draws = torch.randn(shapes.shape, generator=generator, dtype=torch.float64)
    towards = misfits + draws.to(misfits)
    around = (of - of.mean(dim=0)) / sqrt(len(of) - 1)
    if localised:
        return of + _localised(around, shapes, towards)
    return of + _solved(shapes, towards).T @ around


@checked
def etki_update(
    ensemble: Ensemble, predictions: Predictions, data: Float[Tensor, " d"], variance: Variance
) -> Float[Tensor, "kept p"]:
    """Move mean and deviations as the Kalman filter does, without random numbers.

        m <- m + A^T (I + S S^T)^-1 S R^-1/2 (y - mean G),    A <- (I + S S^T)^-1/2 A

    The rows of A are (u_j - m) / sqrt(J - 1), those of S are R^-1/2 (G(u_j) - mean G) /
    sqrt(J - 1). (Bishop, Etherton and Majumdar 2001; for inversion Huang, Huang, Reich and Stuart
    2022, arXiv 2204.04386.) For a linear G mean and sample covariance are the Kalman filter's, up
    to rounding, with any number of members.

    Args:
        ensemble: (J, p), u_j.
        predictions: (J, d), G(u_j). A member with a number that is not finite is left out.
        data: (d,), y.
        variance: Of the noise of the data, R = diag(variance), > 0; (d,) or one number.

    Returns:
        (K, p) in float64, the K members that were not left out, in their order.

    Raises:
        InputError: As `eki_update`.
    """
    of, shapes, misfits = _scaled(ensemble, predictions, data, variance)
    mean, around = of.mean(dim=0), of - of.mean(dim=0)
    shift = _solved(shapes, misfits.mean(dim=0, keepdim=True))[:, 0] @ around / sqrt(len(of) - 1)
    values, vectors = torch.linalg.eigh(shapes @ shapes.T)
    root: Tensor = (vectors / (1 + values.clamp_min(0)).sqrt()) @ vectors.T
    return mean + shift + root @ around


def misfit_variance(predictions: Predictions, data: Float[Tensor, " d"]) -> float:
    """Find the noise variance at which one update goes as far as the misfits allow.

        1 / h = min(2 mean(Phi) / d, sqrt(2 var(Phi) / d)),    Phi_j = |y - G(u_j)|^2 / 2

    h is the step of the data misfit controller for noise of variance 1 (Iglesias and Yang 2021,
    Inverse Problems 37, 025008), without their end at time 1; a step h with variance v is one with
    variance v / h, and that is the same for every v. As long as the first term counts, it is the
    mean square misfit: data are trusted as far as the members fit them.

    Args:
        predictions: (J, d), of which two rows at least are finite.
        data: (d,), y.

    Returns:
        A number > 0; the smallest of float64 where all members fit exactly, or alike.
    """
    misfits = (data - predictions).double()
    halves = misfits[finite_members(predictions)].square().sum(dim=1) / 2
    spread = (2 * halves.var() / len(data)).sqrt()
    found = torch.minimum(2 * halves.mean() / len(data), spread)
    return max(float(found), torch.finfo(torch.float64).tiny)


@checked
def refilled(ensemble: Ensemble, members: int, generator: Generator) -> Ensemble:
    """Draw new members in the place of those that failed, from the Gaussian of the others.

        u = m + sum_j z_j (u_j - m) / sqrt(K - 1),    z_j ~ N(0, 1)

    Args:
        ensemble: (K, p), the others; they come first in the result.
        members: J >= K.
        generator: Source of z.

    Returns:
        (J, p), in the affine span of the others.
    """
    mean, kept = ensemble.mean(dim=0), len(ensemble)
    draws = torch.randn(members - kept, kept, generator=generator, dtype=torch.float64)
    drawn: Tensor = mean + draws.to(ensemble) @ (ensemble - mean) / sqrt(kept - 1)
    return torch.cat([ensemble, drawn])


def finite_members(predictions: Predictions) -> Bool[Tensor, " members"]:
    """True where a member predicts finite numbers."""
    return predictions.isfinite().all(dim=1)


def _scaled(
    ensemble: Tensor, predictions: Tensor, data: Tensor, variance: Variance
) -> tuple[Tensor, Tensor, Tensor]:
    """The members that did not fail, the rows of S, and R^-1/2 (y - G(u_j))."""
    noise = torch.as_tensor(variance, dtype=torch.float64, device=predictions.device)
    if not (bool((noise > 0).all()) and bool(noise.isfinite().all())):
        raise InputError("variance", got=variance, expected="finite numbers > 0")
    known = finite_members(predictions)
    if int(known.sum()) < 2:
        got = f"{int(known.sum())} of {len(known)} members with finite predictions"
        raise InputError("predictions", got=got, expected="two at least")
    scaled = predictions[known].double() / noise.sqrt()
    shapes = (scaled - scaled.mean(dim=0)) / sqrt(len(scaled) - 1)
    return ensemble[known].double(), shapes, data.double() / noise.sqrt() - scaled


def _solved(shapes: Tensor, misfits: Tensor) -> Tensor:
    """(I + S S^T)^-1 S r for every row r: as many columns."""
    matrix = torch.eye(len(shapes)).to(shapes) + shapes @ shapes.T
    solved: Tensor = torch.cholesky_solve(shapes @ misfits.T, torch.linalg.cholesky(matrix))
    return solved


def _localised(around: Tensor, shapes: Tensor, towards: Tensor) -> Tensor:
    """C_up (C_pp + 1)^-1 of every row of `towards`, each entry of both times r^2."""
    check_localised(shapes.shape[1])
    (weights, sizes), (data, reach) = _normalised(around), _normalised(shapes)
    matrix = torch.eye(len(reach)).to(data) + reach[:, None] * (data.T @ data) ** 3 * reach
    sought = torch.cholesky_solve(towards.T, torch.linalg.cholesky(matrix)) * reach[:, None]
    parts = weights.split(max(1, _AT_ONCE // len(reach)), dim=1)
    found = torch.cat([(part.T @ data) ** 3 @ sought for part in parts])
    return (sizes[:, None] * found).T


def check_localised(data: int) -> None:
    """Require few enough data for a localised update."""
    if data > MOST_LOCALISED:
        raise InputError(
            "eki.localised",
            got=f"{data:,} numbers in the windows of an iteration",
            expected=f"{MOST_LOCALISED:,} at most",
            remedy="take fewer or shorter windows, or leave eki.localised out",
        )


def _normalised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of length 1, or 0 where there is nothing, and what their lengths were."""
    lengths = rows.norm(dim=0)
    return rows / lengths.clamp_min(torch.finfo(rows.dtype).tiny), lengths
