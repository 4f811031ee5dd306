"""What a rollout is judged by, where it is not the squared error of every cell at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Domain
from zopde.errors import InputError, first_line
from zopde.grid import Grid

Rollouts = Float[Tensor, "window time channel *space"]
PerWindow = Float[Tensor, " window"]


class Loss(Protocol):
    """Judges predictions: one number for each window, the smaller the better."""

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """Compare windows, each by itself.

        Args:
            predicted: (window, time, channel, *space), the states after 1 .. n corrected steps.
            reference: The same of the reference data.
            domain: The grid or mesh of both.
        """


@final
@dataclass(frozen=True)
class RelativeLoss:
    """The squared error in proportion to the reference: mean_t ||(u - r) / s||^2 / ||r / s||^2.

    Args:
        scale: (channel,), s; None: 1.
    """

    scale: Tensor | None = None

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`."""
        off, of = (_scaled(x, self.scale) for x in (predicted - reference, reference))
        square, size = (_mean(x.square(), domain).mean(dim=2) for x in (off, of))
        return (square / size.clamp_min(torch.finfo(size.dtype).tiny)).mean(dim=1)


@final
@dataclass(frozen=True)
class LastLoss:
    """The squared error of the last state alone: mean_{c, x} ((u[n] - r[n]) / s)^2.

    Args:
        scale: (channel,), s; None: 1.
    """

    scale: Tensor | None = None

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`."""
        off = _scaled(predicted[:, -1:] - reference[:, -1:], self.scale)
        return _mean(off.square(), domain).mean(dim=(1, 2))


@final
@dataclass(frozen=True)
class MomentsLoss:
    """Mean and covariance in time of every cell: what is left of a chaotic run.

        L = mean_{c, x} ((m_u - m_r) / s)^2 + mean_{c, c', x} ((C_u - C_r) / (s s'))^2,
        m = mean_t u,   C = mean_t (u - m) (u - m)^T of the channels of one cell

    Args:
        scale: (channel,), s; None: 1.
    """

    scale: Tensor | None = None

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`; a window of one state has no covariance."""
        (mean, covariance), (of, and_of) = (
            _moments(_scaled(states, self.scale)) for states in (predicted, reference)
        )
        return _mean((mean - of).square(), domain).mean(dim=1) + _mean(
            (covariance - and_of).square(), domain
        ).mean(dim=(1, 2))


def _moments(states: Tensor) -> tuple[Tensor, Tensor]:
    mean = states.mean(dim=1)
    around = states - mean[:, None]
    return mean, torch.einsum("wti...,wtj...->wij...", around, around) / states.shape[1]


@final
@dataclass(frozen=True)
class SpectrumLoss:
    """Energy by wave number, in logarithms: mean_{c, k} (ln E_u(k) - ln E_r(k))^2.

    E is the mean over the window of |u^|^2 over the shell n - 1/2 <= |k| / dk < n + 1/2, for every
    n >= 1 that all axes resolve; dk = 2 pi / the shortest side. Where the states are is not
    compared, nor is their mean. For grids without a mask; an axis that is not periodic adds a tail
    to both spectra.
    """

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`."""
        if not isinstance(domain, Grid) or domain.fluid is not None:
            raise InputError("loss", got="'spectrum' here", expected="a grid without a mask")
        shells, count = _shells(domain)
        energies = (_energies(x, shells.to(x.device), count) for x in (predicted, reference))
        of_u, of_r = (e.clamp_min(torch.finfo(e.dtype).tiny).log() for e in energies)
        return (of_u - of_r).square().mean(dim=(1, 2))


def _shells(grid: Grid) -> tuple[Int[Tensor, "*space"], int]:
    """The shell of every mode, 0 for one that does not count, and how many count."""
    least, square = min(grid.extent), torch.zeros(())
    for axis, (cells, length) in enumerate(zip(grid.shape, grid.extent, strict=True)):
        whole = (torch.fft.fftfreq(cells) * cells).round() * least / length
        square = square.unsqueeze(-1) + whole.reshape(-1, *[1] * axis).movedim(0, -1) ** 2
    shells = (square.sqrt() + 0.5).floor().long()
    most = math.floor(min(n * least / e / 2 for n, e in zip(grid.shape, grid.extent, strict=True)))
    return torch.where(shells <= most, shells, 0), most


def _energies(
    states: Rollouts, shells: Tensor, count: int
) -> Float[Tensor, "window channel shell"]:
    axes = tuple(range(-shells.dim(), 0))
    modes = torch.fft.fftn(states, dim=axes, norm="forward")
    power = (modes.real.square() + modes.imag.square()).mean(dim=1).flatten(2)
    total = power.new_zeros(*power.shape[:2], count + 1)
    summed: Tensor = total.index_add(2, shells.flatten(), power)
    return summed[..., 1:]


@final
@dataclass(frozen=True)
class SensorsLoss:
    """The squared error where sensors stand: mean_{t, c, p} ((u(p) - r(p)) / s)^2.

    A value between cells is linear between the centres around it, which must be fluid; beyond the
    last centre of an axis that is not periodic it is that of the centre. On a mesh it is that of
    the nearest point.

    Args:
        positions: One (axis, ...) for each sensor, in units of space, in the order of the grid's
            dimensions, as its coordinates in a data file.
        scale: (channel,), s; None: 1.

    Raises:
        InputError: When it is called, if a position has another number of axes than the domain,
            lies outside of it or beside a cell without fluid.
    """

    positions: Sequence[Sequence[float]]
    scale: Tensor | None = None

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`."""
        cells, shares = (x.to(predicted.device) for x in _corners(self.positions, domain))
        off = _scaled(predicted - reference, self.scale).flatten(3)
        at = (off[..., cells] * shares.to(off)).sum(dim=-1)
        return at.square().mean(dim=(1, 2, 3))


def _corners(
    positions: Sequence[Sequence[float]], domain: Domain
) -> tuple[Int[Tensor, "sensor corner"], Float[Tensor, "sensor corner"]]:
    """The cells around each position, flattened, and their shares of the value there."""
    axes = len(domain.places)
    if not positions or any(len(position) != axes for position in positions):
        got = f"{len(positions)} of {sorted({len(p) for p in positions})} numbers"
        raise InputError("sensors", got=got, expected=f"positions of {axes} numbers each")
    if not isinstance(domain, Grid):
        points = domain.positions  # type: ignore[attr-defined]  # a mesh
        off = torch.cdist(torch.tensor(positions, dtype=points.dtype), points)
        return off.argmin(dim=1, keepdim=True), torch.ones(len(positions), 1)
    found, shares = [], []
    for position in positions:
        around = [_between(domain, axis, value) for axis, value in enumerate(position)]
        whole = list(product(*around))
        cells = torch.tensor([[cell for cell, _ in corner] for corner in whole])
        share = torch.tensor([math.prod(weight for _, weight in corner) for corner in whole])
        if domain.fluid is not None and not domain.fluid[cells[share > 0].unbind(1)].all():
            got, expected = f"{list(position)}, beside land", "fluid in the cells around it"
            raise InputError("sensors", got=got, expected=expected)
        strides = [math.prod(domain.shape[axis + 1 :]) for axis in range(axes)]
        found.append((cells * torch.tensor(strides)).sum(dim=1))
        shares.append(share)
    return torch.stack(found), torch.stack(shares)


def _between(grid: Grid, axis: int, value: float) -> list[tuple[int, float]]:
    """The two cells along an axis around a place, and the share of each."""
    centres, edges, cells = grid.centres(axis), grid.edges(axis), grid.shape[axis]
    if not min(edges) <= value <= max(edges):
        got = f"{value:g} along {grid.dims[axis]}"
        raise InputError("sensors", got=got, expected=f"{min(edges):g} to {max(edges):g}")
    up = 1 if edges[-1] > edges[0] else -1  # a latitude may fall
    centres, value = [up * centre for centre in centres], up * value
    above = sum(centre <= value for centre in centres)
    below = above - 1
    if grid.periodic[axis]:
        length = grid.extent[axis]
        low = centres[below % cells] - length * (below < 0)
        high = centres[above % cells] + length * (above == cells)
    elif below < 0 or above == cells:
        only = max(below, 0)
        return [(only, 1.0), (only, 0.0)]
    else:
        low, high = centres[below], centres[above]
    share = (value - low) / (high - low)
    return [(below % cells, 1 - share), (above % cells, share)]


LOSSES: dict[str, Any] = {
    "relative": RelativeLoss,
    "last": LastLoss,
    "moments": MomentsLoss,
    "spectrum": SpectrumLoss,
    "sensors": SensorsLoss,
}
"""The ready-made losses by the name that `training.loss` gives them."""


def check_loss(name: str, loss: Loss, sample: Rollouts, domain: Domain) -> bool:
    """Call a loss on some windows before anything is trained by it.

    Args:
        name: What an error calls it.
        loss: The loss.
        sample: Windows of reference data.
        domain: Their grid or mesh.

    Returns:
        Whether it has a gradient, so that it can be back-propagated.

    Raises:
        InputError: If it raises, answers something else than one finite number a window, or mixes
            the windows.
    """
    predicted = 0.9 * sample + 0.1 * sample.flip((0, 1))  # what is positive stays so
    if torch.equal(predicted, sample):
        predicted = 1.01 * sample
    predicted.requires_grad_()

    def asked(rows: slice) -> Tensor:
        try:
            answer = loss(predicted[rows], sample[rows], domain)
        except InputError:
            raise
        except Exception as error:  # a user's function may raise anything
            got = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(name, got=got, expected="a number for each window") from error
        wanted = (len(predicted[rows]),)
        if not isinstance(answer, Tensor) or answer.shape != wanted or answer.is_complex():
            got = f"{tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise InputError(name, got=got, expected=f"a tensor of one number a window, {wanted}")
        if not bool(answer.isfinite().all()):
            expected = f"finite numbers for windows of {sample.shape[1]} states"
            raise InputError(name, got=str(answer.tolist()), expected=expected)
        return answer

    whole = asked(slice(None))
    alone = torch.cat([asked(slice(row, row + 1)) for row in range(len(sample))])
    if not torch.allclose(whole.detach(), alone.detach(), rtol=1e-3, atol=0.0):
        got = f"{whole.tolist()} together and {alone.tolist()} alone"
        raise InputError(name, got=got, expected="each window judged by itself")
    if not whole.requires_grad:
        return False
    (slope,) = torch.autograd.grad(whole.sum(), predicted, allow_unused=True)
    return slope is not None and bool((slope != 0).any())


def _scaled(states: Rollouts, scale: Tensor | None) -> Rollouts:
    if scale is None:
        return states
    return states / scale.reshape(-1, *[1] * (states.dim() - 3)).to(states)


def _mean(values: Tensor, domain: Domain) -> Tensor:
    """(..., *space) -> (...), over the fluid, by the weights of the cells."""
    fluid, weights = domain.fluid_values(values), domain.cell_weights
    if weights is not None:
        fluid = fluid * domain.fluid_values(weights).to(fluid)
        return fluid.mean(dim=-1) / domain.fluid_values(weights).to(fluid).mean()
    return fluid.mean(dim=-1)
