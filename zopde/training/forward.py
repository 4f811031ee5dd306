"""The forward gradient: exact slopes along random directions, by differentiating forwards."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from zopde.contracts import Objective
from zopde.oracle.coordinates import Coordinates, from_reals, reals
from zopde.seeding import generator
from zopde.training.descent import Gradient
from zopde.zo.rge import Combine, combined, gaussian


@final
@dataclass(frozen=True)
class ForwardGradient:
    """Estimates gradients from exact slopes along random directions v, of all weights at once.

        g = (1/q) sum_j <grad l, v_j> v_j,    v_j ~ N(0, I)

    or, with `combine="project"`, the least-squares estimate from these slopes, see `zopde.rge`.
    Each slope comes from one forward pass that carries a tangent (forward-mode differentiation),
    so neither noise nor `mu` spoils it: no estimate from as many differences along random
    directions is better than this one. It needs an objective that torch differentiates.

    Source: Baydin, Pearlmutter, Syme, Wood and Torr 2022, arXiv 2202.08587.
    """

    directions: int  # q >= 1, drawn anew at every iteration
    seed: int  # decides them, together with the iteration
    combine: Combine = "average"  # how slopes become a gradient
    # False takes each slope from a backward pass: the same number and as many solver steps, where
    # an operation has no forward derivative; see `has_forward_mode`
    forwards: bool = True

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """q queries, and none for the base: a pass tells the loss, too."""
        coordinates, draw = Coordinates(network), generator(self.seed, "probes", iteration)
        like = next(p for p in network.parameters() if p.requires_grad)
        drawn = gaussian(self.directions, coordinates.total, draw, reals(like.detach()).dtype)
        slopes, loss = list[Tensor](), torch.tensor(torch.nan)
        slope = _forwards if self.forwards else _backwards
        for direction in drawn:
            loss, along = slope(network, objective, direction.to(like.device))
            slopes.append(along)
        gradient = combined(drawn, torch.stack(slopes).to(drawn), self.combine)
        network.zero_grad(set_to_none=True)
        coordinates.set_gradient(gradient)
        return Gradient(float(loss), self.directions)


def has_forward_mode(network: nn.Module, objective: Objective) -> bool:
    """Whether torch has a forward derivative of all that an objective does; one query."""
    direction = torch.zeros(Coordinates(network).total)
    try:
        _forwards(network, objective, direction.to(next(network.parameters()).device))
    except NotImplementedError:
        return False
    return True


def _forwards(
    network: nn.Module, objective: Objective, direction: Float[Tensor, " d"]
) -> tuple[Tensor, Tensor]:
    """The loss, and its slope along a direction, in one pass."""
    parts = dict(Coordinates(network).parts("direction", direction))
    with torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings():
        # torch's own first use of it: a deprecated part of torch.
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        weights = {
            name: forward_ad.make_dual(p.detach(), from_reals(parts[p], p).to(p.dtype))
            for name, p in network.named_parameters()
            if p in parts
        }
        loss = objective(lambda *at, **named: functional_call(network, weights, at, named), 1)[0]
        found = forward_ad.unpack_dual(loss)
        slope = torch.zeros_like(loss) if found.tangent is None else found.tangent
        return found.primal.clone(), slope.clone()


def _backwards(
    network: nn.Module, objective: Objective, direction: Float[Tensor, " d"]
) -> tuple[Tensor, Tensor]:
    """The same from a gradient."""
    loss = objective(network, 1)[0]
    parts = list(Coordinates(network).parts("direction", direction))
    grads = torch.autograd.grad(
        loss, [weight for weight, _ in parts], allow_unused=True, materialize_grads=True
    )
    along = [(reals(grad) * part).sum() for grad, (_, part) in zip(grads, parts, strict=True)]
    return loss.detach(), torch.stack(along).sum()
