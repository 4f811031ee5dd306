"""What a score is, and the two that need no query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from zopde.oracle.coordinates import Coordinates


@dataclass(frozen=True)
class Scores:
    """How readily each weight is pruned: the HIGHEST scores go first.

    This is GraSP's direction (see `grasp_scores`), and every score here keeps to it.

    Args:
        values: (d,), one signed score per trainable weight, in the order of `Coordinates`.
        queries: Evaluations of the objective that they took.
    """

    values: Float[Tensor, " d"]
    queries: int


def random_scores(network: nn.Module, generator: Generator) -> Scores:
    """Uniform noise in [0, 1): ranks the weights in a random order.

    Args:
        network: Any module; its trainable parameters are scored.
        generator: Decides the order; a CPU generator.

    Returns:
        `Scores`; no query.
    """
    total = Coordinates(network).total
    return Scores(torch.rand(total, generator=generator, dtype=torch.float64), queries=0)


def magnitude_scores(network: nn.Module) -> Scores:
    """S = -|theta|: small weights go first.

    A layer that starts at zero, as the last one of a corrector, therefore goes before all
    others; after a NON start it does not.

    Args:
        network: Any module; its trainable parameters are scored.

    Returns:
        `Scores`; no query.
    """
    return Scores(-flat_weights(network).abs(), queries=0)


def flat_weights(network: nn.Module) -> Float[Tensor, " d"]:
    """theta: a copy of all trainable weights, in the order of `Coordinates`."""
    slices = Coordinates(network).slices
    parts = [network.get_parameter(parameter.name).detach().flatten() for parameter in slices]
    return torch.cat(parts) if parts else torch.zeros(0)
