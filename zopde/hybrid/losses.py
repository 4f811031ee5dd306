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
from zopde.mesh import AXES

Rollouts = Float[Tensor, "window time channel *space"]
PerWindow = Float[Tensor, " window"]


class Loss(Protocol):
    """Judges predictions: one number for each window, the smaller the better."""

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """Compare windows, each by itself.

        Args:
            predicted: (window, time, channel, *space), the states after 1 .. n corrected steps.
            reference: The same of the reference data; NaN where nothing was measured.
            domain: The grid or mesh of both.
        """


@final
@dataclass(frozen=True)
class RelativeLoss:
    """The squared error in proportion to the reference: mean_t ||(u - r) / s||^2 / ||r / s||^2.

    Norms are over what was measured, the mean is over the times at which something was.

    Args:
        scale: (channel,), s; None: 1.
    """

    scale: Tensor | None = None

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`."""
        there = ~reference.isnan()
        known = torch.where(there, reference, 0.0)
        off, of = (_scaled(x, self.scale) for x in (_off(predicted, reference), known))
        square, size = (_mean(x.square(), domain).mean(dim=2) for x in (off, of))
        times = domain.fluid_values(there).flatten(2).any(dim=2).sum(dim=1)
        return (square / size.clamp_min(torch.finfo(size.dtype).tiny)).sum(dim=1) / times


@final
@dataclass(frozen=True)
class LastLoss:
    """The squared error of the last state alone: mean_{c, x} ((u[n] - r[n]) / s)^2.

    n is the last time at which something was measured, and the mean is over that.

    Args:
        scale: (channel,), s; None: 1.
    """

    scale: Tensor | None = None

    def __call__(self, predicted: Rollouts, reference: Rollouts, domain: Domain) -> PerWindow:
        """See `Loss`."""
        there = domain.fluid_values(~reference.isnan()).flatten(2).any(dim=2)
        rows = torch.arange(len(there), device=there.device)
        last = there.shape[1] - 1 - there.flip(1).int().argmax(dim=1)
        of = reference[rows, last, None]
        off = _scaled(_off(predicted[rows, last, None], of), self.scale)
        square, share = (_mean(x, domain) for x in (off.square(), (~of.isnan()).to(off)))
        return square.mean(dim=(1, 2)) / share.mean(dim=(1, 2))


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
        """See `Loss`; a window of one state has no covariance; the reference must be whole."""
        _check_whole("moments", reference)
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
            got = "'spectrum' on a " + ("grid with land" if isinstance(domain, Grid) else "mesh")
            raise InputError("loss", got=got, expected="a grid without a mask")
        _check_whole("spectrum", reference)
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
    the nearest point. Where r has no number around it, it does not count; nor does a window in
    which none has.

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
        off = _scaled(_off(predicted, reference), self.scale).flatten(3)
        at = (off[..., cells] * shares.to(off)).sum(dim=-1)
        there = ~(reference.isnan().flatten(3)[..., cells] & (shares > 0)).any(dim=-1)
        total = torch.where(there, at.square(), 0.0).sum(dim=(1, 2, 3))
        return total / there.sum(dim=(1, 2, 3)).clamp_min(1)


def _corners(
    positions: Sequence[Sequence[float]], domain: Domain
) -> tuple[Int[Tensor, "sensor corner"], Float[Tensor, "sensor corner"]]:
    """The cells around each position, flattened, and their shares of the value there."""
    axes = len(domain.places)
    try:
        places = torch.tensor(positions, dtype=torch.float64)
    except (TypeError, ValueError):
        places = torch.empty(0)
    if places.dim() != 2 or places.shape[1] != axes or not len(places):
        one = ", ".join(domain.dims if isinstance(domain, Grid) else AXES[:axes])
        expected = f"[[{one}], ...], {axes} number{'s' * (axes > 1)} for each position"
        raise InputError("sensors positions", got=repr(positions), expected=expected)
    if not isinstance(domain, Grid):
        points: Tensor = domain.positions  # type: ignore[attr-defined]  # a mesh
        least, most = points.amin(dim=0), points.amax(dim=0)
        if not bool(((places >= least) & (places <= most)).all()):
            expected = f"places between {least.tolist()} and {most.tolist()}"
            raise InputError("sensors positions", got=repr(positions), expected=expected)
        off = torch.cdist(places, points.to(places))
        return off.argmin(dim=1, keepdim=True), torch.ones(len(places), 1)
    found, shares = [], []
    for position in places.tolist():
        around = [_between(domain, axis, value) for axis, value in enumerate(position)]
        whole = list(product(*around))
        cells = torch.tensor([[cell for cell, _ in corner] for corner in whole])
        share = torch.tensor([math.prod(weight for _, weight in corner) for corner in whole])
        if domain.fluid is not None and not domain.fluid[cells[share > 0].unbind(1)].all():
            got, expected = f"{list(position)}, beside land", "fluid in the cells around it"
            raise InputError("sensors positions", got=got, expected=expected)
        strides = [math.prod(domain.shape[axis + 1 :]) for axis in range(axes)]
        found.append((cells * torch.tensor(strides)).sum(dim=1))
        shares.append(share)
    return torch.stack(found), torch.stack(shares)


def _between(grid: Grid, axis: int, value: float) -> list[tuple[int, float]]:
    """The two cells along an axis around a place, and the share of each."""
    centres, edges, cells = grid.centres(axis), grid.edges(axis), grid.shape[axis]
    if not min(edges) <= value <= max(edges):
        got = f"{value:g} along {grid.dims[axis]}"
        raise InputError("sensors positions", got=got, expected=f"{min(edges):g} to {max(edges):g}")
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
        InputError: If it raises, answers something else than one finite number a window, answers
            otherwise when it is asked again, mixes the windows, or has a gradient that is NaN.
    """
    whole = torch.where(sample.isnan(), sample.nanmean(), sample)
    # What is positive stays so; another share for each window: a mean over two that are off by each
    # other would be that of either.
    share = torch.linspace(0.05, 0.15, len(whole)).to(whole).view(-1, *[1] * (whole.dim() - 1))
    predicted = (1 - share) * whole + share * whole.flip((0, 1))
    if torch.equal(predicted, whole):
        predicted = 1.01 * whole

    def asked(rows: slice) -> Tensor:
        return _answer(name, loss, predicted[rows], sample[rows], domain)

    together, again = asked(slice(None)), asked(slice(None))
    if not torch.equal(together, again):
        got = f"{together.tolist()}, and then {again.tolist()} for the same windows"
        raise InputError(name, got=got, expected="numbers that depend on the windows alone")
    alone = torch.cat([asked(slice(row, row + 1)) for row in range(len(sample))])
    if not torch.allclose(together, alone, rtol=1e-3, atol=0.0):
        got = f"{together.tolist()} together and {alone.tolist()} alone"
        raise InputError(name, got=got, expected="each window judged by itself")
    try:
        judged = loss(predicted.requires_grad_(), sample, domain).sum()
        (slope,) = torch.autograd.grad(judged, predicted, allow_unused=True)
    except (RuntimeError, TypeError):  # NumPy takes no tensor with a gradient
        return False
    if slope is not None and bool(slope.isnan().any()):
        expected = "numbers, also where the reference is NaN: torch.where on the error itself"
        raise InputError(name, got="a gradient of NaN", expected=expected)
    return slope is not None and bool((slope != 0).any())


def _answer(
    name: str, loss: Loss, predicted: Rollouts, sample: Rollouts, domain: Domain
) -> PerWindow:
    """What a loss says, if it is what a loss may say."""
    try:
        with torch.no_grad():
            answer = loss(predicted, sample, domain)
    except InputError:
        raise
    except Exception as error:  # a user's function may raise anything
        got = f"{type(error).__name__}: {first_line(error)}"
        expected = f"a number for each window of {sample.shape[1]} states"
        raise InputError(name, got=got, expected=expected) from error
    wanted, got = (len(sample),), type(answer).__name__
    if isinstance(answer, Tensor):
        got = f"{tuple(answer.shape)}, {answer.dtype}"
    if not (isinstance(answer, Tensor) and answer.shape == wanted and answer.is_floating_point()):
        expected = f"a floating-point tensor of one number a window, {wanted}"
        raise InputError(name, got=got, expected=expected)
    if not bool(answer.isfinite().all()):
        expected = f"finite numbers for windows of {sample.shape[1]} states"
        raise InputError(name, got=str(answer.tolist()), expected=expected)
    return answer


def _scaled(states: Rollouts, scale: Tensor | None) -> Rollouts:
    if scale is None:
        return states
    return states / scale.reshape(-1, *[1] * (states.dim() - 3)).to(states)


def _off(predicted: Rollouts, reference: Rollouts) -> Rollouts:
    """The error, 0 where nothing was measured: a square of NaN has no derivative but NaN."""
    return torch.where(reference.isnan(), 0.0, predicted - reference)


def _check_whole(name: str, reference: Rollouts) -> None:
    """Require a reference without NaN."""
    if bool(reference.isnan().any()):
        got = f"{name!r} with a reference that was measured in part"
        expected = "squares, relative, last or sensors, or a function of your own"
        raise InputError("loss", got=got, expected=expected)


def _mean(values: Tensor, domain: Domain) -> Tensor:
    """(..., *space) -> (...), over the fluid, by the weights of the cells."""
    fluid, weights = domain.fluid_values(values), domain.cell_weights
    if weights is not None:
        fluid = fluid * domain.fluid_values(weights).to(fluid)
        return fluid.mean(dim=-1) / domain.fluid_values(weights).to(fluid).mean()
    return fluid.mean(dim=-1)
