"""Fitting a tangent to pairs: rounds of measuring and training, until it predicts well enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from zopde.contracts import Network, Objective
from zopde.interface import Variable
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.tangent.net import Tangent
from zopde.tangent.pairs import Pairs
from zopde.training import Backprop, Optimise
from zopde.training.loop import fit_watched

_CELLS = 2**15  # cells times perturbations of an iteration, where they are not too few then
_ROOM = 2**17  # the same in any case
_FEW, _MOST = 4, 16  # perturbations of an iteration
_LR = 2e-2
_RISE = 0.3  # share of a fit in which the learning rate rises
_CLIP = 1.0


def errors(tangent: Tangent, pairs: Pairs) -> Tensor:
    """(bases, directions), |N d - J d| / |J d| of every pair, in standard deviations by channel.

    Args:
        tangent: The one that predicts.
        pairs: What was measured.
    """
    found = []
    with torch.no_grad():
        for row in range(len(pairs)):
            found.append(_off(tangent, pairs, torch.tensor([row])).sqrt())
    return torch.cat(found)


def held_out_error(tangent: Tangent, pairs: Pairs) -> float:
    """Take the root mean square of `errors`, whose arguments are those of `errors`."""
    return float(errors(tangent, pairs).square().mean().sqrt())


def _off(
    tangent: Tangent, pairs: Pairs, rows: Tensor, directions: Tensor | slice = slice(None)
) -> Tensor:
    """|N d - J d|^2 / |J d|^2 of the pairs of some bases."""
    state, forcing, moved, response = pairs.at(rows, directions)
    off = (tangent(state, forcing, moved, pairs.variable) - response) / tangent.scale
    size = (response / tangent.scale).flatten(2).square().sum(dim=2)
    error: Tensor = off.flatten(2).square().sum(dim=2) / size.clamp_min(
        torch.finfo(size.dtype).tiny
    )
    return error


@final
class PairObjective:
    """Measures how far the tangent is from the responses of one batch of pairs.

    L = mean over the pairs of |N d - J d|^2 / |J d|^2,    in standard deviations by channel
    """

    def __init__(
        self, pairs: Mapping[Variable, Pairs], rows: Mapping[Variable, tuple[Tensor, Tensor]]
    ) -> None:
        self._pairs, self._rows = pairs, rows

    def __call__(self, network: Network, num_probes: int) -> Tensor:
        """One loss; see `zopde.contracts.Objective`."""
        assert isinstance(network, Tangent)
        assert num_probes == 1
        losses = [_off(network, part, *self._rows[v]).mean() for v, part in self._pairs.items()]
        return torch.stack(losses).mean()[None]


def batches(pairs: Mapping[Variable, Pairs], seed: int) -> Callable[[int], Objective]:
    """Iteration -> the loss on that iteration's pairs; every base once an epoch.

    Where all the directions of a base are too many cells, an epoch takes some of them.
    """

    def at(iteration: int) -> Objective:
        rows = {}
        for variable, part in pairs.items():
            one = part.bases[0]()
            many, cells = len(one.moved), prod(one.state.shape[1:])
            few = min(_FEW, _ROOM // cells)
            most = max(1, min(_MOST, max(_CELLS // cells, few)) // len(pairs))
            taken = min(many, most)
            count = min(len(part), most // taken)
            epoch, place = divmod(iteration, len(part) // count)
            order = torch.randperm(len(part), generator=generator(seed, "order", epoch))
            some = order[place * count : (place + 1) * count]
            turn = (epoch + int(some[0])) * taken  # the directions of one base take turns
            rows[variable] = some, (turn + torch.arange(taken)) % many
        return PairObjective(pairs, rows)

    return at


def fit(
    tangent: Tangent,
    pairs: Mapping[Variable, Pairs],
    iterations: int,
    folder: Path,
    seed: int = 0,
    watcher: Progress | None = None,
    title: str = "tangent",
    share: float = 1.0,
) -> None:
    """Train a tangent on pairs, in place, from its checkpoint in `folder` if there is one."""
    fit_to(tangent, batches(pairs, seed), iterations, folder, watcher or Silent(), title, share)


def fit_to(
    network: nn.Module,
    objective_at: Callable[[int], Objective],
    iterations: int,
    folder: Path,
    watcher: Progress,
    title: str,
    share: float = 1.0,
) -> None:
    """Train a multigrid in place; `share` is of the usual learning rate."""
    optimise = Optimise("muon", _LR * share, int(_RISE * iterations), _CLIP)
    with torch.enable_grad():  # a refit is made within a backward pass
        fit_watched(
            *(network, objective_at, Backprop(), optimise, iterations, folder, watcher, title)
        )
