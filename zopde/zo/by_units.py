"""Unit-wise gradient estimation: fewer queries than weights."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Oracle, movable, one_gradient
from zopde.validate import check_positive, checked
from zopde.zo.cge import Scheme, check_indices, count_failed
from zopde.zo.estimate import Estimate


class HasUnits(Oracle, Protocol):
    """An oracle that can also move the units of layers; see `zopde.oracle.UnitOracle`."""

    def samples(self) -> Float[Tensor, " batch"]:
        """The loss of every sample at theta: one query. The inputs of all layers are kept."""

    def cheaper(self, indices: Int[Tensor, " k"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Share coordinates out: units that tell the gradient of some, and those that are left."""

    def units(self, units: Int[Tensor, " n"], mu: float) -> Float[Tensor, "n batch"]:
        """The loss of every sample with unit j moved by mu in all samples: n queries."""

    def from_units(
        self, units: Int[Tensor, " n"], slopes: Float[Tensor, "n batch"]
    ) -> Float[Tensor, " d"]:
        """The gradient from the slope of each sample's loss in each unit; zero at other layers."""


@checked
def unitwise(
    oracle: HasUnits,
    indices: Int[Tensor, " k"] | None = None,
    mu: float = 1e-3,
    scheme: Scheme = "forward",
) -> Estimate:
    """Estimate the gradient of a network's loss, by units where a layer has fewer than weights.

    A unit u is one entry of a layer's pre-activation a: one channel at one pixel. With l_s the loss
    of sample s, of B, and x_s the layer's input,

        dl_s/da_u = [l_s(a + mu e_u) - l_s(a)] / mu             (central: both sides)
        dl/dW     = (1 / B) sum_s sum_u dl_s/da_u da_u/dW (x_s)

    Since samples do not mix, one query moves a unit in all samples and measures it in each. The
    layer is linear, so da/dW is exact. Every layer takes the fewer of its units and its weights in
    `indices`; the latter are probed as `cge` does.

    Bias: as `cge`, in the pre-activations: mu times half the second derivative. Round-off adds
    about eps |l_s| / mu to each slope, and one unit's slope in one sample is small: in float32, a
    mu that suits weights may be too small (docs/results.md has a case). Queries: forward n + m + 1,
    central 2 (n + m) + 1, for n units and m weights. Randomness: none.

    Args:
        oracle: Moves weights and units; a `zopde.oracle.UnitOracle`.
        indices: (k,) integer coordinates, each at most once; None takes all.
        mu: Finite-difference step > 0, in the units of what is moved: of a weight, or of a
            pre-activation.
        scheme: "forward" or "central".

    Returns:
        `Estimate` with gradient (d,), the queries used, and l(theta), the mean over the samples. A
        loss that is not finite makes the entries not finite that depend on it.

    Raises:
        InputError: If mu is not positive, the scheme is unknown, or an index is repeated or outside
            [0, d).
        ObjectiveError: If samples mix, or the objective is not the mean of its samples.

    Example:
        >>> import torch
        >>> from zopde.oracle import UnitOracle
        >>> from zopde.training import CrossEntropy
        >>> from zopde.zo import unitwise
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(50, 2)).double()
        >>> loss = CrossEntropy(torch.randn(8, 50).double(), torch.randint(2, (8,)))
        >>> unitwise(UnitOracle(net, loss)).queries  # in place of 103
        3
    """
    d = oracle.num_coordinates
    check_positive("mu", mu)
    indices = torch.arange(d) if indices is None else check_indices(indices, d)
    with one_gradient(oracle) as checks:
        base = oracle.samples()
        units, weights = oracle.cheaper(movable(oracle, indices))
        moved, ahead = oracle.units(units, mu), oracle.coordinates(weights, mu)
        num_failed = count_failed(moved.sum(dim=1)) + count_failed(ahead) + count_failed(base.sum())
        if scheme == "forward":
            slopes, rise = (moved - base) / mu, (ahead.to(base) - base.mean()) / mu
        else:
            other, behind = oracle.units(units, -mu), oracle.coordinates(weights, -mu)
            num_failed += count_failed(other.sum(dim=1)) + count_failed(behind)
            slopes, rise = (moved - other) / (2 * mu), (ahead - behind).to(base) / (2 * mu)
    gradient = oracle.from_units(units, slopes)
    gradient[weights.to(gradient.device)] = rise.to(gradient)
    outside = torch.ones(d, dtype=torch.bool)
    outside[indices] = False
    gradient[outside.to(gradient.device)] = 0
    queries = (2 if scheme == "central" else 1) * (len(units) + len(weights)) + 1
    return Estimate(gradient, queries, base.mean(), None, num_failed, checking=checks.queries)
