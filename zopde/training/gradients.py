"""Where a gradient comes from: back-propagation, or queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zopde.protocols import Objective, Oracle
from zopde.seeding import generator
from zopde.sparsity import Masks
from zopde.zo import cge, relative_mu, rge
from zopde.zo.cge import Scheme


@dataclass(frozen=True)
class Gradient:
    """What one gradient cost, and what it touches.

    Args:
        loss: The objective at the current weights; NaN where the scheme never evaluates it.
        queries: Evaluations of the objective.
        active: (d,), True at the coordinates that were asked for; None for all.
    """

    loss: float
    queries: int
    active: Bool[Tensor, " d"] | None = None


class GradientSource(Protocol):
    """Puts a gradient into `.grad` of every trainable parameter."""

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """Measure the gradient of `objective` at the network's present weights."""
        ...


@final
class Backprop:
    """Reverse-mode differentiation of whatever part of the objective carries a graph."""

    def __call__(
        self,
        network: nn.Module,
        objective: Objective,
        iteration: int,  # noqa: ARG002 - the same at every iteration
    ) -> Gradient:
        """One query, and one backward pass."""
        network.zero_grad(set_to_none=True)
        loss = objective(network, 1)[0]
        loss.backward()
        return Gradient(float(loss.detach()), queries=1)


class NetworkOracle(Oracle, Protocol):
    """Answers probes of a network's weights: a `WeightOracle`, an `ExecutorOracle`."""

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Put an estimate into `.grad` of every trainable weight."""
        ...


OracleAt = Callable[[nn.Module, Objective], NetworkOracle]


@final
class ZerothOrder:
    """Coordinate-wise estimates over a mask of the weights (`cut="weights"`).

    Args:
        masks: Which coordinates each iteration asks for.
        mu: Finite-difference step, in the units of the weights.
        scheme: "forward" or "central".
        oracle_at: (network, objective) -> what answers the probes, made anew at every iteration.
        relative: True takes `mu` in units of each tensor's root mean square at that iteration.
    """

    def __init__(
        self,
        masks: Masks,
        mu: float,
        scheme: Scheme,
        oracle_at: OracleAt,
        relative: bool = False,
    ) -> None:
        self.masks = masks
        self._mu = mu
        self._scheme = scheme
        self._oracle_at = oracle_at
        self._relative = relative

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """As many queries as the mask has active coordinates, and one for the base."""
        active = self.masks.mask(iteration)
        oracle = self._oracle_at(network, objective)
        mu = relative_mu(network, self._mu) if self._relative else self._mu
        estimate = cge(oracle, active.nonzero().flatten(), mu, self._scheme)
        oracle.set_gradient(estimate.gradient)
        loss = torch.tensor(torch.nan) if estimate.loss is None else estimate.loss
        return Gradient(float(loss), estimate.queries, active)


@final
class RandomDirections:
    """Estimates along random directions, all weights at once (RGE).

    Args:
        num_directions: q; drawn anew at every iteration.
        mu: Finite-difference step, in the units of the weights.
        scheme: "forward" or "central".
        oracle_at: (network, objective) -> what answers the probes, made anew at every iteration.
        seed: Decides the directions, together with the iteration.
    """

    def __init__(
        self, num_directions: int, mu: float, scheme: Scheme, oracle_at: OracleAt, seed: int
    ) -> None:
        self._num_directions = num_directions
        self._mu = mu
        self._scheme = scheme
        self._oracle_at = oracle_at
        self._seed = seed

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """q queries, and one for the base."""
        oracle = self._oracle_at(network, objective)
        draw = generator(self._seed, "probes", iteration)
        estimate = rge(oracle, self._num_directions, self._mu, draw, scheme=self._scheme)
        oracle.set_gradient(estimate.gradient)
        loss = torch.tensor(torch.nan) if estimate.loss is None else estimate.loss
        return Gradient(float(loss), estimate.queries)
