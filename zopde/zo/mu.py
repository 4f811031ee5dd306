"""The finite-difference step, per coordinate where one size does not fit all weights."""

from __future__ import annotations

from torch import Tensor

from zopde.errors import InputError
from zopde.validate import check_positive


def check_mu(mu: float | Tensor, d: int, name: str = "mu") -> None:
    """Require one positive step, or one for each of d coordinates."""
    if not isinstance(mu, Tensor):
        check_positive(name, mu)
        return
    if tuple(mu.shape) != (d,) or not mu.is_floating_point():
        raise InputError(
            name,
            got=f"{mu.dtype} of shape {tuple(mu.shape)}",
            expected=f"a number, or floating-point steps of shape ({d},)",
        )
    bad = ~(mu.isfinite() & (mu > 0))
    if bad.any():
        i = int(bad.nonzero()[0])
        raise InputError(
            name, got=f"{float(mu[i])} at coordinate {i}", expected="finite numbers > 0"
        )


def step_of(mu: float | Tensor, indices: Tensor) -> float | Tensor:
    """The steps of some coordinates, in their order; one number stays one number."""
    return mu[indices.to(mu.device)] if isinstance(mu, Tensor) else mu
