"""The finite-difference step, per coordinate where one size does not fit all weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.checks import check_positive
from zopde.errors import InputError
from zopde.zo.coordinates import Coordinates

_LEAST = 0.1


def relative_mu(network: nn.Module, factor: float = 1.0) -> Float[Tensor, " d"]:
    """Steps in proportion to the weights they move, tensor by tensor.

        mu_i = factor * max(RMS(w_t), RMS(theta) / 10)   for every weight i of tensor t

    The second term is for tensors at or near zero (a last layer that starts there, a bias after
    its first updates): they would get a step of zero, or one lost in round-off. Where every
    weight is zero, mu_i = factor.

    Args:
        network: Whose trainable weights are probed, as in `WeightOracle`.
        factor: Step as a share of a tensor's root mean square; > 0, such as 1e-2.

    Returns:
        (d,), for `cge(oracle, mu=...)`, at the present weights: ask again after an update.

    Raises:
        InputError: If the factor is not positive.

    Example:
        >>> import torch
        >>> from zopde import relative_mu
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.fill_(-4.0), layer.bias.data.fill_(2.0)
        >>> relative_mu(layer, 1e-2)
        tensor([0.0400, 0.0400, 0.0200])
    """
    check_positive("factor", factor)
    coordinates = Coordinates(network)
    tensors = [network.get_parameter(slot.name).detach() for slot in coordinates.slots]
    squares = [float(tensor.double().square().sum()) for tensor in tensors]
    least = _LEAST * (sum(squares) / max(1, coordinates.total)) ** 0.5
    steps = []
    for tensor, square in zip(tensors, squares, strict=True):
        scale = max((square / max(1, tensor.numel())) ** 0.5, least) or 1.0
        steps.append(torch.full((tensor.numel(),), factor * scale, dtype=tensor.dtype))
    return torch.cat(steps) if steps else torch.zeros(0)


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
