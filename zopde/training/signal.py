"""How much of a gradient over many steps is signal: the windows of a batch, each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.contracts import Objective, counted_apart
from zopde.oracle.coordinates import reals
from zopde.training.descent import Gradient, GradientSource

_WINDOWS = 8  # of a batch, at most
_SHORT = 4  # a window is compared with its first steps, so many times fewer
_GROWN = 30.0  # more than the square of `_SHORT`, by which a gradient may grow without chaos


class Signal(NamedTuple):
    """What a look at the gradient saw; a row of its file."""

    iteration: int  # counted from 0
    signal: float  # the norm of the mean over the windows, without what noise adds to it
    noise: float  # the standard error of that mean
    growth: float  # the size of a window's gradient, over that of its first quarter

    @property
    def is_lost(self) -> bool:
        """Whether the gradient is noise, and grows with the window: chaos."""
        noisy = self.noise > self.signal and self.growth > _GROWN
        return noisy or not math.isfinite(self.noise)


def share_of_look(unroll: int, batch: int) -> float:
    """What a look takes, in gradients whose first step is stored; 0 where none can be taken."""
    if unroll < _SHORT or batch < 2:
        return 0.0
    return min(_WINDOWS, batch) / batch * (1 + (unroll // _SHORT - 1) / (unroll - 1))


def signal_of(network: nn.Module, objective: Any, iteration: int) -> Signal | None:  # noqa: ANN401
    """Measure signal and noise of the gradient g of a batch of n windows.

        signal^2 = |mean g_i|^2 - noise^2,  noise^2 = sum |g_i - mean g|^2 / (n (n - 1)),
        growth = rms |g_i| / rms |g_i of the first quarter of its steps|

    Args:
        network: Its weights are derived by.
        objective: An `UnrolledObjective` of at least two windows of four steps.
        iteration: Of which it is.

    Returns:
        None where a loss is not finite, or too little was measured. Queries: 2 n windows, half of
        them of a quarter as long.
    """
    steps = objective.unroll
    whole, short = (
        _gradients(network, objective.pieces(_WINDOWS, part)) for part in (steps, steps // _SHORT)
    )
    if whole is None or short is None or len(whole) < 2:
        return None
    mean = whole.mean(dim=0)
    noise = float((whole - mean).norm()) / math.sqrt(len(whole) * (len(whole) - 1))
    signal = math.sqrt(max(0.0, float(mean.norm()) ** 2 - noise**2))
    sizes = [float(part.square().sum(dim=1).mean().sqrt()) for part in (whole, short)]
    return Signal(iteration, signal, noise, sizes[0] / max(sizes[1], 1e-300))


def _gradients(network: nn.Module, pieces: Sequence[Objective]) -> Tensor | None:
    """(window, weight), in double precision; None where a loss is not finite."""
    rows = list[Tensor]()
    for piece in pieces:
        if (row := slope_of(piece(network, 1)[0], network)) is None:
            return None
        rows.append(row)
    return torch.stack(rows) if rows else None


def slope_of(loss: Tensor, network: nn.Module) -> Float[Tensor, " d"] | None:
    """Back-propagate one loss that has a graph, and leave `.grad` as it is.

    Returns:
        (d,), by all trainable weights, in double precision; None where the loss is not finite.
    """
    if not bool(loss.isfinite()):
        return None
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    parts: Any = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([reals(part).flatten() for part in parts]).double()


@final
@dataclass(frozen=True)
class Heard:
    """Passes another source's gradient on, and now and then looks how much of it is signal.

    A look comes after the gradient, at the same weights, and changes nothing. A `Tally` counts its
    solver steps as "checking".
    """

    inner: GradientSource  # the other source
    every: int  # iterations from one look to the next
    tell: Callable[[Signal], None]  # told what a look saw

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """At the inner source's price."""
        measured = self.inner(network, objective, iteration)
        if iteration % self.every == 0:
            # In this thread, which knows that steps are counted apart.
            with counted_apart(), torch.autograd.set_multithreading_enabled(False):
                if (seen := signal_of(network, objective, iteration)) is not None:
                    self.tell(seen)
        return measured
