"""The engine on its own: a network with a part that refuses to be back-propagated.

    python examples/10_engine.py

In the middle of a small regression sits a Bessel function that SciPy computes; its backward pass
raises. No PDE, no recipe, nothing but the engine: first `selfcheck` says which finite-difference
step to take, then ZO-GraSP scores say, by queries alone, which layers matter, and each of
120 updates asks for a fifth of the weights, shared out over the layers accordingly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import j0
from torch import Tensor, nn

from zopde import WeightOracle, cge, selfcheck
from zopde.contracts import ask_shared
from zopde.sparsity import LayerMasks, LayerRatios, layer_ratios, zo_grasp_scores

UPDATES, SPARSITY = 120, 0.8


class _Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's own signature
        return torch.from_numpy(np.asarray(j0(x.detach().numpy()))).to(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # noqa: ANN401
        raise NotImplementedError("nobody knows this derivative")


class Bessel(nn.Module):
    """J0, entry by entry, as SciPy has it."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return _Opaque.apply(x)


def problem() -> tuple[nn.Module, Any]:
    """A network of 337 weights, and the loss of fitting rings on a square."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(2, 16), Bessel(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
    ).double()
    places = 6 * torch.rand(256, 2, dtype=torch.float64) - 3
    height = torch.sin(places.norm(dim=1, keepdim=True) * 2)

    def loss(network: Any, num_probes: int) -> Tensor:  # noqa: ANN401
        found = ask_shared(network, num_probes, places).view(num_probes, *height.shape)
        return (found - height).square().mean(dim=(1, 2))

    return network, loss


def shares(network: nn.Module, loss: Any, mu: float) -> LayerRatios:  # noqa: ANN401
    """How many weights of each layer an update may ask for."""
    draw = torch.Generator().manual_seed(0)
    scores = zo_grasp_scores(network, loss, num_directions=192, mu=mu, generator=draw)
    return layer_ratios(network, scores, SPARSITY)


def main() -> dict[str, float]:
    """Check, score, train."""
    network, loss = problem()
    try:
        loss(network, 1)[0].backward()
    except NotImplementedError as error:
        print(f"loss.backward(): {error}")
    oracle = WeightOracle(network, loss)
    check = selfcheck(oracle, 1e-3, torch.Generator().manual_seed(0), network=network)
    mu = check.recommended_mu
    print(f"mu {mu:.1e}, warnings at 1e-3: {list(check.warnings) or 'none'}")
    ratios = shares(network, loss, mu)
    print(ratios)
    masks = LayerMasks(ratios, every=1, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    found = {"mu": mu, "before": float(oracle.base()), "queries": 0.0}
    for update in range(UPDATES):
        oracle = WeightOracle(network, loss)
        estimate = cge(oracle, masks.mask(update).nonzero().flatten(), mu)
        oracle.set_gradient(estimate.gradient)
        optimizer.step()
        found["queries"] += estimate.queries
    return {**found, "after": float(WeightOracle(network, loss).base())}


if __name__ == "__main__":
    for what, value in main().items():
        print(f"{what:<8} {value:.4g}")
