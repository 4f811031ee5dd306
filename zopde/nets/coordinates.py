"""Where each cell lies, as a network is told of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.domain import Domain
from zopde.grid import Grid


def coordinate_channels(domain: Domain) -> Float[Tensor, "k ..."]:
    """Input channels that tell a network where it is, for `Normalised(..., fixed=...)`.

        sin(2 pi x / L), cos(2 pi x / L)    along a periodic axis of length L
        (x - middle) / (L / 2)              along any other, and along each axis of a mesh

    x is the centre of the cell, or the point. The first are alike on both sides of the border; the
    second go from -1 to 1.

    Args:
        domain: A `zopde.Grid` or a `zopde.Mesh`.

    Returns:
        (k, *space), in float64, axis by axis; without a unit.
    """
    if not isinstance(domain, Grid):
        return 2 * domain.places - 1
    channels, space = list[Tensor](), len(domain.shape)
    for axis, length in enumerate(domain.extent):
        edges = domain.edges(axis)
        off = torch.tensor(domain.centres(axis), dtype=torch.float64) - (edges[0] + edges[-1]) / 2
        angle = 2 * math.pi / length * (off + length / 2)
        told = [angle.sin(), angle.cos()] if domain.periodic[axis] else [2 / length * off]
        here = [-1 if other == axis else 1 for other in range(space)]
        channels += [values.view(here).expand(domain.shape) for values in told]
    return torch.stack(channels)
