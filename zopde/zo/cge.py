"""Coordinate-wise gradient estimation, and its finite-difference step."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Checks, Oracle, movable, one_gradient
from zopde.errors import InputError
from zopde.validate import check_positive, checked
from zopde.zo.estimate import Estimate

Scheme = Literal["forward", "central"]
Failed = Literal["keep", "drop"]

log = logging.getLogger(__name__)

_HALF, _FEW_DIGITS = 2.0**-10, "few digits"  # eps of float16


@checked
def cge(
    oracle: Oracle,
    indices: Int[Tensor, " k"] | None = None,
    mu: float | Float[Tensor, " d"] = 1e-3,
    scheme: Scheme = "forward",
    failed: Failed = "keep",
) -> Estimate:
    """Estimate the gradient of a black box l at theta, coordinate by coordinate.

        forward:  g_i = [l(theta + mu e_i) - l(theta)] / mu
        central:  g_i = [l(theta + mu e_i) - l(theta - mu e_i)] / (2 mu)

    for every i in `indices`, zero elsewhere. (Chen et al., ICLR 2024, eq. 2, with the
    sparse set of their Algorithm 1.)

    Bias: forward mu H_ii / 2 + O(mu^2); central O(mu^2), none on a quadratic. Round-off adds
    about eps |l| / mu, so mu near sqrt(eps) balances the forward scheme.
    Queries: forward k + 1, central 2 k, and the base where a side is lost. Randomness: none.

    Args:
        oracle: Answers l around its base point; see `zopde.contracts.Oracle`.
        indices: (k,) integer coordinates, each at most once; None takes all.
        mu: Finite-difference step in the units of theta, > 0: one for all, or (d,), one per
            coordinate, as `relative_mu` gives it. "mu" above is then that of coordinate i.
        scheme: "forward" or "central".
        failed: What a probe does whose loss is not finite. "keep": its entry is not finite,
            either. "drop": its entry is zero and `unknown`; with the central scheme the side that
            is left makes a one-sided difference. Without a base nothing is known.

    Returns:
        `Estimate` with gradient (d,), the queries used, and l(theta) for "forward".

    Raises:
        InputError: If a mu is not positive or not one per coordinate, the scheme is unknown, or
            an index is repeated or outside [0, d).

    Example:
        >>> import torch
        >>> from zopde import WeightOracle, cge
        >>> net = torch.nn.Linear(2, 1, bias=False).double()
        >>> x = torch.eye(2, dtype=torch.double)
        >>> oracle = WeightOracle(net, lambda f, p: f(x.repeat(p, 1)).view(p, -1).sum(dim=1))
        >>> cge(oracle, scheme="central").gradient.round(decimals=6)
        tensor([1., 1.], dtype=torch.float64)
    """
    d = oracle.num_coordinates
    check_mu(mu, d)
    indices = torch.arange(d) if indices is None else check_indices(indices, d)
    indices = movable(oracle, indices)
    k, step = len(indices), step_of(mu, indices)
    with one_gradient(oracle) as checks:
        ahead = oracle.coordinates(indices, step)
        if scheme == "forward":
            base = oracle.base()
            rise, queries = ahead - base, k + 1
            num_failed = count_failed(ahead) + count_failed(base)
        else:
            base, behind = None, oracle.coordinates(indices, -step)
            rise, queries = (ahead - behind) / 2, 2 * k
            num_failed = count_failed(ahead) + count_failed(behind)
            if num_failed and failed == "drop":
                queries, rise = queries + 1, one_sided(ahead, behind, oracle.base())
    slope = rise / (step.to(rise) if isinstance(step, Tensor) else step)
    unknown = None
    gradient = torch.zeros(d, dtype=slope.dtype, device=slope.device)
    if num_failed and failed == "drop":
        known = slope.isfinite()
        unknown = torch.zeros(d, dtype=torch.bool)
        unknown[indices[~known.cpu()]] = True
        slope = torch.where(known, slope, 0)
    gradient[indices.to(slope.device)] = slope
    _warn_of_few_digits(checks, ahead, slope, step)
    return Estimate(gradient, queries, base, None, num_failed, unknown, checking=checks.queries)


def _warn_of_few_digits(checks: Checks, ahead: Tensor, slope: Tensor, step: float | Tensor) -> None:
    """Say once where round-off leaves little of the derivatives: half precision, a tiny mu."""
    eps = max(checks.eps, torch.finfo(ahead.dtype).eps if ahead.is_floating_point() else 0.0)
    if _FEW_DIGITS in checks.warned or not len(ahead):
        return
    smallest = float(step.min()) if isinstance(step, Tensor) else step
    floor = eps * float(ahead.double().abs().nanmedian()) / smallest
    typical = float(slope.double().square().nanmean().sqrt())
    if eps < _HALF and not floor > typical > 0 and not (typical == 0 and smallest < eps):
        return
    checks.warned.append(_FEW_DIGITS)
    which, finer = (
        ("half precision", "float32") if eps >= _HALF else (f"mu {smallest:g}", "float64")
    )
    log.warning(
        "%s: round-off moves a derivative by about eps |l| / mu = %.1g, a typical one "
        "is %.1g; compute in %s, or take a larger mu",
        *(which, floor, typical, finer),
    )


def one_sided(
    ahead: Float[Tensor, " k"], behind: Float[Tensor, " k"], base: Float[Tensor, ""]
) -> Float[Tensor, " k"]:
    """Half the difference of both sides; where one failed, the other's to the base."""
    other = torch.where(behind.isfinite(), base - behind, ahead - base)
    return torch.where((ahead - behind).isfinite(), (ahead - behind) / 2, other)


def count_failed(losses: Tensor) -> int:
    """Count the losses that are not finite, and refuse complex ones, which have no gradient."""
    if losses.is_complex():
        raise InputError("objective", got="complex losses", expected="one real number per probe")
    return int((~losses.isfinite()).sum())


def check_indices(indices: Int[Tensor, " k"], d: int) -> Int[Tensor, " k"]:
    """Coordinates, each at most once, on the CPU.

    Raises:
        InputError: If they are none.
    """
    indices = torch.as_tensor(indices)
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.dim() != 1:
        got = f"{indices.dtype} of shape {tuple(indices.shape)}"
        remedy = "of a mask: mask.nonzero().flatten()"
        raise InputError("indices", got=got, expected="a vector of integers", remedy=remedy)
    if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < d):
        got = f"[{indices.min()}, {indices.max()}]"
        raise InputError("indices", got=got, expected=f"values in [0, {d})")
    if len(torch.unique(indices)) != len(indices):
        raise InputError("indices", got="repeated coordinates", expected="each at most once")
    return indices.cpu()


def check_mu(mu: float | Tensor, d: int, name: str = "mu") -> None:
    """Require one positive step, or one for each of d coordinates."""
    if not isinstance(mu, Tensor):
        check_positive(name, mu)
        return
    if tuple(mu.shape) != (d,) or not mu.is_floating_point():
        got = f"{mu.dtype} of shape {tuple(mu.shape)}"
        expected = f"a number, or floating-point steps of shape ({d},)"
        raise InputError(name, got=got, expected=expected)
    bad = ~(mu.isfinite() & (mu > 0))
    if bad.any():
        i = int(bad.nonzero()[0])
        got = f"{float(mu[i])} at coordinate {i}"
        raise InputError(name, got=got, expected="finite numbers > 0")


def step_of(mu: float | Tensor, indices: Tensor) -> float | Tensor:
    """The steps of some coordinates, in their order; one number stays one number."""
    return mu[indices.to(mu.device)] if isinstance(mu, Tensor) else mu
