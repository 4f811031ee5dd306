"""Scores that rank weights for pruning: random ones, magnitudes, GraSP with or without autograd."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from zopde.contracts import Objective, Oracle
from zopde.errors import InputError
from zopde.oracle import WeightOracle
from zopde.oracle.coordinates import Coordinates, from_reals, reals
from zopde.oracle.state import Replaced
from zopde.zo import rge


@dataclass(frozen=True)
class Scores:
    """Says how readily each weight is pruned: the HIGHEST scores go first, see `grasp_scores`."""

    # (d,), one signed score per trainable weight, in the order of `Coordinates`
    values: Float[Tensor, " d"]
    queries: int  # evaluations of the objective that they took
    checking: int = 0  # evaluations besides, which verified stacked probes


def random_scores(network: nn.Module, generator: Generator) -> Scores:
    """Give every weight a random score, uniform in [0, 1): weights are pruned at random.

    Queries: none.

    Args:
        network: Any module; its trainable parameters are scored.
        generator: Decides the order; a CPU generator.
    """
    total = Coordinates(network).total
    return Scores(torch.rand(total, generator=generator, dtype=torch.float64), queries=0)


def magnitude_scores(network: nn.Module) -> Scores:
    """Score every weight by its size: small weights are pruned first.

        S = -|theta|

    A layer that starts at zero, as the last one of a corrector, therefore goes before all
    others; after a NON start it does not. Queries: none.

    Args:
        network: Any module; its trainable parameters are scored.
    """
    return Scores(-flat_weights(network).abs(), queries=0)


def flat_weights(network: nn.Module) -> Float[Tensor, " d"]:
    """Copy all trainable weights, theta, in the order of `Coordinates`."""
    weights = [reals(p.detach()).flatten() for p in network.parameters() if p.requires_grad]
    return torch.cat(weights) if weights else torch.zeros(0)


def grasp_scores(network: nn.Module, objective: Objective) -> Scores:
    """Score every weight by GraSP, with autograd's Hessian-vector product.

        S = -theta * (H g),   g = grad l(theta),   H = the Hessian of l at theta

    Pruning weight i moves theta by -theta_i e_i, and |g|^2 by 2 S_i to first order. So a
    NEGATIVE score marks a weight without which less gradient flows, and the HIGHEST scores are
    pruned first. (Wang, Zhang and Grosse, ICLR 2020, arXiv 2002.07376, Algorithm 1; their
    released code likewise removes the largest scores.) Only the order matters.

    Queries: 1, with two backward passes. Randomness: none.

    Args:
        network: Any module; its trainable parameters are theta. It is only read.
        objective: A loss with an autograd graph; see `zopde.contracts.Objective`. A part
            without one (a black-box solver) is silently taken for a constant by autograd:
            pass the differentiable twin's.

    Raises:
        InputError: If the loss carries no graph.

    Example:
        >>> import torch
        >>> from zopde.sparsity import grasp_scores
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -2.0]]))
        >>> x = torch.diag(torch.tensor([1.0, 3.0]))
        >>> grasp_scores(net, lambda f, p: f(x).square().sum().view(1) / 2).values
        tensor([  -1., -324.])
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    # Copied buffers: a BatchNorm's running statistics must survive a query.
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    replaced = Replaced(network)
    loss = objective(lambda *args: replaced(buffers, *args), 1)[0]
    if not loss.requires_grad:
        got = "a loss without an autograd graph"
        expected = "one that is differentiable in the weights"
        remedy = "use zo_grasp_scores, which needs queries alone"
        raise InputError("objective", got=got, expected=expected, remedy=remedy)
    slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    # With one factor held still, the slope of <g, g> is H g.
    parts = [reals(slope) for slope in slopes]
    flow = torch.stack([(part * part.detach()).sum() for part in parts]).sum()
    products = [*map(torch.zeros_like, weights)]
    if flow.requires_grad:  # not for a loss that is linear in the weights
        products = list(torch.autograd.grad(flow, weights, materialize_grads=True))
    curvature = torch.cat([reals(product.detach()).flatten() for product in products])
    return Scores(-flat_weights(network) * curvature, queries=1)


def zo_grasp_scores(
    network: nn.Module,
    objective: Objective,
    num_directions: int = 192,
    mu: float = 1e-3,
    *,
    generator: Generator,
    oracle_at: Callable[[nn.Module, Objective], Oracle] = WeightOracle,
) -> Scores:
    """Score every weight by ZO-GraSP: as `grasp_scores` does, but from queries alone.

        S = -theta * [g(theta + t g(theta)) - g(theta)] / t,   t = mu sqrt(d) / |g(theta)|

    with both g by `rge` over the SAME Gaussian directions, so that their common noise cancels in
    the difference. (Chen et al., ICLR 2024, whose slides have t = mu.)
    Here t makes the step along g as long as a probe's own, mu sqrt(d): the ranking then does
    not change with the unit of the loss, and one mu serves both. One estimate spans all
    tensors, so no tensor's scores are on a scale of their own.

    With q directions the estimate is P H P g, P = (1/q) sum_j u_j u_j'. Its mean is, to first
    order in mu, H g + (H g + tr(H) g) / q: far below q = d noise and that tr(H) g dominate,
    and the order says little; `benchmarks/grasp.py` measures how little.

    Queries: 2 (q + 1). Randomness: the directions.

    Args:
        network: Any module; its trainable parameters are theta. It is only read.
        objective: The black box; see `zopde.contracts.Objective`.
        num_directions: q, >= 1; DeepZero took 192.
        mu: Finite-difference step in the units of the weights; > 0.
        generator: Draws the directions; afterwards it has drawn them once.
        oracle_at: (network, objective) -> where its losses are answered, for example
            `partial(WeightOracle, chunk=8)`.

    Raises:
        InputError: If mu is not positive, or `num_directions` is no whole number >= 1.
    """
    again = generator.clone_state()
    here = rge(oracle_at(network, objective), num_directions, mu, generator)
    slope = here.gradient
    length, norm = mu * len(slope) ** 0.5, slope.norm()
    # Dividing by the norm before anything else leaves 0, not NaN, where the slope is zero.
    step = length * slope / norm.clamp_min(torch.finfo(slope.dtype).tiny)
    ahead = rge(oracle_at(_moved(network, step), objective), num_directions, mu, again)
    values = -flat_weights(network) * (ahead.gradient - slope) * (norm / length)
    return Scores(values, here.queries + ahead.queries, here.checking + ahead.checking)


@torch.no_grad()
def _moved(network: nn.Module, step: Float[Tensor, " d"]) -> nn.Module:
    """A copy of the network at theta + step."""
    copy = deepcopy(network)
    for weight, own in Coordinates(copy).parts("step", step):
        weight.add_(from_reals(own, weight))
    return copy
