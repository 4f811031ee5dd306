"""Numbering of a module's weights: one flat vector theta, and where each entry lives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zopde.validate import check_positive

_LEAST = 0.1  # of the whole network's root mean square, where a tensor's own is smaller


@dataclass(frozen=True)
class Slot:
    """One parameter tensor's place in theta.

    Args:
        name: Qualified name in the module, "body.0.weight".
        start: First coordinate.
        stop: One past the last coordinate.
        shape: Shape of the tensor.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class Coordinates:
    """theta = all trainable parameters of `module`, flattened, in the order of its names.

    A tied parameter counts once. Indices are int64 throughout.

    Args:
        module: Any `nn.Module`.
    """

    def __init__(self, module: nn.Module) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        bounds = torch.tensor([0, *(p.numel() for _, p in named)]).cumsum(0).tolist()
        self._parameters = [p for _, p in named]
        self.slots = [
            Slot(name, start, stop, tuple(parameter.shape))
            for (name, parameter), (start, stop) in zip(named, pairwise(bounds), strict=True)
        ]
        self.total: int = bounds[-1]

    def split(self, indices: Int[Tensor, " k"]) -> list[tuple[Slot, Tensor]]:
        """Share sorted `indices` out over the slots, as positions inside each tensor."""
        edges = torch.tensor([s.start for s in self.slots] + [self.total])
        cuts = torch.searchsorted(indices, edges).tolist()
        return [
            (slot, indices[a:b] - slot.start)
            for slot, (a, b) in zip(self.slots, pairwise(cuts), strict=True)
            if b > a
        ]

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Hand a flat gradient to the parameters, as `backward()` would."""
        for slot, parameter in zip(self.slots, self._parameters, strict=True):
            part = gradient[slot.start : slot.stop].view(slot.shape)
            parameter.grad = part.to(dtype=parameter.dtype, device=parameter.device).clone()


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
