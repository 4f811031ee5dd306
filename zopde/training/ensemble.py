"""Networks that move together towards the data, without a gradient: ensemble Kalman inversion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zopde.contracts import Network, Objective, one_gradient
from zopde.errors import InputError
from zopde.oracle import WeightOracle, WeightOracles
from zopde.oracle.coordinates import Coordinates, from_reals, reals, relative_mu
from zopde.seeding import generator
from zopde.training.descent import Gradient
from zopde.zo.kalman import (
    Ensemble,
    eki_update,
    etki_update,
    finite_members,
    misfit_variance,
    refilled,
)

_KEPT = "ensemble"  # in the optimiser's state


@runtime_checkable
class HasResiduals(Objective, Protocol):
    """An objective that is the mean square of residuals, and tells them.

    `zopde.UnrolledObjective` is one, with its squared loss.
    """

    def residuals(self, network: Network, num_probes: int = 1) -> Float[Tensor, "num_probes n"]:
        """The residuals of every probe."""

    def still(self) -> Objective:
        """Another objective that calls the network likewise, and is cheap.

        By it passes that several members share are compared with members one at a time.
        """


@final
@dataclass
class EnsembleKalman:
    """Moves an ensemble of weights by what each member predicts; the network is its mean.

    It is a `GradientSource` and an `Updating` in one: give it to `fit` as both. In place of a
    gradient stands the change of the mean, with the other sign, so that the history shows its
    size. The ensemble is in the optimiser's state, and so in the checkpoint, in float64.

    The members start around the network, with independent deviations of mean zero:

        u_j = theta + d_j - mean(d),    d_j ~ N(0, diag(m)^2),   m = relative_mu(network, spread)

    and, unless `localised`, never leave the affine span of these: with J members at most J - 1
    directions of the weights are found. See `eki_update` and `etki_update`, whose predictions are
    the residuals of the objective here, and whose data are 0. After each update the deviations from
    the mean are made larger by the factor `inflation`. Members whose residuals are not finite are
    left out, and drawn anew from the others. All members are evaluated in this process.
    """

    method: Literal["eki", "etki"]  # which update
    members: int  # J >= 2
    spread: float  # as a share of each tensor's root mean square; > 0
    # Standard deviation of the data's noise, in units of the residuals; 0 takes it from the misfits
    # of each iteration, see `misfit_variance`
    noise: float
    inflation: float  # >= 1
    seed: int  # decides all that is random, together with the iteration
    together: int = 16  # members that share a pass
    localised: bool = False  # of "eki" alone, see `eki_update`
    _optimizer: torch.optim.Optimizer | None = field(default=None, init=False, repr=False)
    _moved: Ensemble | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._oracles: Callable[[nn.Module, Objective], WeightOracle] = WeightOracles(
            self.together, verify=_still
        )

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """Draw the ensemble around the network's weights; see `Updating`."""
        weights = [p for p in network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(weights, lr=1.0)
        draw = generator(self.seed, "ensemble")
        here, size = _flat(network), relative_mu(network, self.spread).double().cpu()
        drawn = torch.randn(self.members, len(here), generator=draw, dtype=torch.float64) * size
        self._optimizer.param_groups[0][_KEPT] = here + drawn - drawn.mean(dim=0)
        return self._optimizer

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """A query for each member, and one for the mean."""
        if not isinstance(objective, HasResiduals):
            expected = "one with `residuals`, such as UnrolledObjective"
            raise InputError("objective", got=type(objective).__name__, expected=expected)
        assert self._optimizer is not None, "`fit` builds it"
        ensemble, here = self._optimizer.param_groups[0][_KEPT], _flat(network)
        recording = _Recording(objective)
        oracle = self._oracles(network, recording)
        oracle.at(iteration)
        with one_gradient(oracle):
            around = torch.cat([torch.zeros_like(here)[None], ensemble - here])
            loss = float(oracle.directions(around, 1.0)[0])
        queries, checked = len(around), dict(oracle.checked)
        self._moved = self._update(ensemble, recording.latest(queries)[1:], iteration)
        change = here * 0 if self._moved is None else here - self._moved.mean(dim=0)
        Coordinates(network).set_gradient(change)
        if self._moved is None:
            return Gradient(math.inf, queries, checked=checked)
        return Gradient(loss if math.isfinite(loss) else math.nan, queries, checked=checked)

    def _update(self, ensemble: Ensemble, residuals: Tensor, iteration: int) -> Ensemble | None:
        """The next ensemble; None where fewer than two members have finite residuals."""
        if int(finite_members(residuals).sum()) < 2:
            return None
        data, draw = torch.zeros_like(residuals[0]), generator(self.seed, "ensemble", 1 + iteration)
        variance = self.noise**2 if self.noise else misfit_variance(residuals, data)
        if self.method == "eki":
            moved = eki_update(ensemble, residuals, data, variance, draw, self.localised)
        else:
            moved = etki_update(ensemble, residuals, data, variance)
        moved = refilled(moved, self.members, draw)
        mean = moved.mean(dim=0)
        return mean + self.inflation * (moved - mean)

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        active: Bool[Tensor, " d"] | None,  # noqa: ARG002 - all of them
        iteration: int,  # noqa: ARG002 - nothing goes by it
        iterations: int,  # noqa: ARG002 - nor by this
    ) -> None:
        """Take the latest iteration's ensemble; see `Updating`."""
        assert self._moved is not None, "such an iteration has no update"
        optimizer.param_groups[0][_KEPT] = self._moved
        with torch.no_grad():
            for weight, mean in Coordinates(network).parts("mean", self._moved.mean(dim=0)):
                weight.copy_(from_reals(mean, weight))


def _flat(network: nn.Module) -> Float[Tensor, " d"]:
    """The trainable weights in float64, as `Coordinates` numbers them."""
    weights = [p.detach() for p in network.parameters() if p.requires_grad]
    return torch.cat([reals(weight).flatten().double().cpu() for weight in weights])


def _still(objective: Objective) -> Objective:
    """What stands in for an objective where ways of asking are compared."""
    assert isinstance(objective, _Recording)
    return objective.still()


@final
class _Recording:
    """The losses of an objective; it keeps the residuals that they are the mean squares of."""

    def __init__(self, plain: HasResiduals) -> None:
        self._plain, self._rows = plain, list[Tensor]()

    def __call__(self, network: Network, num_probes: int = 1) -> Float[Tensor, " num_probes"]:
        """See `zopde.contracts.Objective`."""
        residuals = self._plain.residuals(network, num_probes)
        self._rows.append(residuals.double().cpu())
        return residuals.square().mean(dim=1)

    def still(self) -> Objective:
        """What stands in for it where ways are compared."""
        return self._plain.still()

    def latest(self, count: int) -> Float[Tensor, "count n"]:
        """Of the latest so many probes: what had to be asked again counts once."""
        return torch.cat(self._rows)[-count:]
