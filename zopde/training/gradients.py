"""Gradients of weights from queries, and sources around a source; the loss of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.contracts import Network, Objective, Oracle, ask_shared
from zopde.oracle import UnitOracle, relative_mu
from zopde.oracle.coordinates import Coordinates, check_flat, from_reals, reals
from zopde.oracle.norms import uses_batch_statistics
from zopde.seeding import generator
from zopde.sparsity import Masks
from zopde.training.descent import Gradient, GradientSource
from zopde.zo import cge, es, rge, unitwise
from zopde.zo.cge import Failed, Scheme
from zopde.zo.evolution import Shaping
from zopde.zo.rge import Combine


class NetworkOracle(Oracle, Protocol):
    """Evaluates probes of a network's weights: a `WeightOracle`, an `ExecutorOracle`."""

    @property
    def checked(self) -> Mapping[str, int]:
        """Calls of the network -> evaluations that verified their stacked probes."""

    def at(self, iteration: int) -> None:
        """Say which iteration the next gradient belongs to; see `WeightOracle.at`."""

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Put an estimate into `.grad` of every trainable weight."""


OracleAt = Callable[[nn.Module, Objective], NetworkOracle]
"""Network, objective -> what evaluates the probes of one iteration."""


@final
@dataclass(frozen=True)
class ZerothOrder:
    """Estimates gradients coordinate by coordinate over a mask of the weights (CGE)."""

    masks: Masks  # which coordinates each iteration probes
    mu: float  # finite-difference step, in the units of the weights
    scheme: Scheme  # "forward" or "central"
    # (network, objective) -> what evaluates the probes, made anew at every iteration
    oracle_at: OracleAt
    # True takes `mu` in units of each tensor's root mean square at that iteration
    relative: bool = False
    # What becomes of a probe whose loss is not finite; see `cge`. The coordinate of a dropped one
    # is not active at this iteration
    failed: Failed = "keep"

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """As many queries as the mask has active coordinates, and one for the base."""
        active = self.masks.mask(iteration)
        oracle = self.oracle_at(network, objective)
        oracle.at(iteration)
        check_flat("mask", active, oracle.num_coordinates)
        mu = relative_mu(network, self.mu) if self.relative else self.mu
        estimate = cge(oracle, active.nonzero().flatten(), mu, self.scheme, self.failed)
        oracle.set_gradient(estimate.gradient)
        if estimate.unknown is not None:
            active = active & ~estimate.unknown.to(active.device)
        loss = _number(estimate.loss)
        return Gradient(loss, estimate.queries, active, checked=dict(oracle.checked))


@final
@dataclass(frozen=True)
class ByUnits:
    """Estimates gradients by units where a layer has fewer than active weights.

    See `zopde.zo.unitwise`.
    """

    masks: Masks  # as in `ZerothOrder`, which weights an iteration asks for
    mu: float  # finite-difference step, in the units of weights and of pre-activations
    scheme: Scheme  # "forward" or "central"
    # (network, objective) -> what moves weights and units: a `zopde.oracle.UnitOracle`
    oracle_at: Callable[[nn.Module, Objective], UnitOracle]

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """A query for every unit or weight that is moved, and one for the base."""
        active = self.masks.mask(iteration)
        oracle = self.oracle_at(network, objective)
        oracle.at(iteration)
        check_flat("mask", active, oracle.num_coordinates)
        estimate = unitwise(oracle, active.nonzero().flatten(), self.mu, self.scheme)
        oracle.set_gradient(estimate.gradient)
        loss = _number(estimate.loss)
        return Gradient(loss, estimate.queries, active, checked=dict(oracle.checked))


@final
@dataclass(frozen=True)
class RandomDirections:
    """Estimates gradients along random directions, all weights at once (RGE)."""

    num_directions: int  # q; drawn anew at every iteration
    mu: float  # as in `ZerothOrder`, like `scheme` and `oracle_at`
    scheme: Scheme  # "forward" or "central"
    oracle_at: OracleAt  # what evaluates the losses
    seed: int  # decides the directions, together with the iteration
    combine: Combine = "average"  # how their slopes become a gradient; see `rge`

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """q queries, and one for the base."""
        oracle = self.oracle_at(network, objective)
        oracle.at(iteration)
        draw = generator(self.seed, "probes", iteration)
        how: dict[str, Any] = {"scheme": self.scheme, "combine": self.combine}
        estimate = rge(oracle, self.num_directions, self.mu, draw, **how)
        oracle.set_gradient(estimate.gradient)
        return Gradient(_number(estimate.loss), estimate.queries, checked=dict(oracle.checked))


@final
@dataclass(frozen=True)
class EvolutionStrategy:
    """Estimates gradients from pairs of moved networks, each matrix moved by one of low rank.

    See `zopde.zo.es`. The gradient norm in the history is that of the shaped losses.
    """

    members: int  # moved networks of an iteration, two for each move; even
    rank: int  # of a matrix's move
    # How far they move, as a share of each tensor's root mean square; see `relative_mu`
    sigma: float
    shaping: Shaping  # what stands in for the losses: "standard", "rank" or "none"
    oracle_at: OracleAt  # what evaluates the losses, as in `ZerothOrder`
    seed: int  # decides the moves, together with the iteration
    failed: Failed = "keep"  # what becomes of a member whose loss is not finite; see `zopde.zo.es`

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """A query for each member, and one for the network itself."""
        oracle = self.oracle_at(network, objective)
        oracle.at(iteration)
        shapes = [part.shape for part in Coordinates(network).slices]
        sizes, draw = relative_mu(network, self.sigma), generator(self.seed, "probes", iteration)
        how = self.rank, self.shaping, self.failed
        estimate = es(oracle, shapes, self.members, sizes, draw, *how)
        oracle.set_gradient(estimate.gradient)
        active = None if estimate.unknown is None else ~estimate.unknown
        checked = dict(oracle.checked)
        return Gradient(_number(estimate.loss), estimate.queries, active, checked=checked)


def _number(loss: Tensor | None) -> float:
    return math.nan if loss is None else float(loss)


@final
@dataclass(frozen=True)
class Skipping:
    """Passes on another source's gradient; where it is not finite, the weights stay as they are."""

    inner: GradientSource  # the other source

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """As many queries as the inner source."""
        measured = self.inner(network, objective, iteration)
        slopes = [p.grad for p in network.parameters() if p.grad is not None]
        known = measured.active is None or bool(measured.active.any())
        each = [slope.isfinite().all() for slope in slopes]
        finite = not each or bool(torch.stack(each).all())  # a device is waited for once
        if known and finite and not math.isinf(measured.loss):
            return measured
        for slope in slopes:
            slope.zero_()
        nothing = torch.zeros(Coordinates(network).total, dtype=torch.bool)
        return replace(measured, loss=math.nan, active=nothing, skipped=True)


@final
@dataclass(frozen=True)
class Masked:
    """Passes another source's gradient on, zero where the iteration's mask is not active."""

    inner: GradientSource  # the other source
    masks: Masks  # which weights are active, by iteration

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """At the inner source's price."""
        measured = self.inner(network, objective, iteration)
        active = self.masks.mask(iteration)
        for weight, part in Coordinates(network).parts("mask", active):
            if weight.grad is not None:
                kept = reals(weight.grad) * part.to(weight.grad.device)
                weight.grad = from_reals(kept, weight.grad)
        return replace(measured, active=active)


@final
@dataclass(frozen=True)
class RunningStatistics:
    """Passes another source's gradient on; BatchNorm's running statistics see the batch once.

    Probes must not write them: hundreds of nearly equal batches would, so the inner source leaves
    buffers as they are. The unperturbed network passes the batch once more, one query, and
    writes them as training does. A network without such layers is left alone.
    """

    inner: GradientSource

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """One query more than the inner source."""
        measured = self.inner(network, objective, iteration)
        if not any(uses_batch_statistics(module) for module in network.modules()):
            return measured
        with torch.no_grad():
            objective(network, 1)
        return replace(measured, queries=measured.queries + 1)


@final
@dataclass(frozen=True)
class CrossEntropy:
    """Measures a classifier's loss for every probe: the batch's mean of -log softmax(f(x))_y."""

    x: Float[Tensor, "batch channel y x"]  # (batch, channel, y, x), what the network gets
    labels: Int[Tensor, " batch"]  # (batch,), y

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.contracts.Objective`."""
        return self.per_sample(network, num_probes).mean(dim=1)

    def per_sample(self, network: Network, num_probes: int) -> Float[Tensor, "num_probes batch"]:
        """One loss per probe and image; see `zopde.contracts.PerSample`."""
        logits = ask_shared(network, num_probes, self.x)
        # With the classes in front, states side by side are one long vector per class.
        labels = self.labels.repeat(num_probes)[None]
        losses = F.cross_entropy(logits.t()[None], labels, reduction="none")
        return losses.view(num_probes, -1)
