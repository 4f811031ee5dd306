"""How much energy a field holds at which length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zopde.contracts import Domain
from zopde.grid import Grid
from zopde.report.panels import COLOURS, legend, one_plot, short_ticks, unit

LETTERS = ("u", "v", "w")
_BROAD = ("reference", "SOL")  # what the others try to reach lies beneath


@dataclass(frozen=True)
class Spectrum:
    """Energy by wave number."""

    wave_numbers: Float[np.ndarray, " shell"]  # n * dk, in radians per unit of length
    energy: Float[np.ndarray, " shell"]  # per wave number


def energy_spectrum(
    fields: Float[np.ndarray, "*batch channel *space"], extent: Sequence[float]
) -> Spectrum:
    """Isotropic spectrum, shell by shell, mean over the batch.

        u^(k) = 1/N sum_x u(x) exp(-i k.x),   k_a = 2 pi m_a / extent_a
        E(n dk) = 1 / (2 dk) sum_{n - 1/2 <= |k| / dk < n + 1/2} |u^(k)|^2,
        dk = 2 pi / min(extent)

    so that sum_n E(n dk) dk = mean_x |u|^2 / 2 (Parseval). The field is taken as periodic: where
    it is not, the jump between its ends adds a tail. `extent` holds the length of each dimension.

    Source: S. B. Pope, Turbulent Flows (2000), section 6.5, in its discrete form.
    """
    space = fields.shape[-len(extent) :]
    axes = tuple(range(-len(extent), 0))
    power = np.abs(np.fft.fftn(fields, axes=axes) / np.prod(space)) ** 2
    least = min(extent)
    # |k| / dk, from whole numbers: a mode on the border of two shells must not go by round-off.
    squares = np.zeros(space)
    for axis, (cells, length) in enumerate(zip(space, extent, strict=True)):
        count = np.rint(np.fft.fftfreq(cells) * cells) * least / length
        shape = [cells if a == axis else 1 for a in range(len(extent))]
        squares = squares + count.reshape(shape) ** 2
    shells = np.floor(np.sqrt(squares) + 0.5).astype(int)
    per_mode = power.sum(axis=-len(extent) - 1).reshape(-1, *space).mean(axis=0)
    step = 2 * np.pi / least
    energy = np.bincount(shells.ravel(), weights=per_mode.ravel()) / (2 * step)
    return Spectrum(step * np.arange(len(energy)), energy)


def vector_channels(grid: Domain) -> list[int]:
    """The channels whose squares make an energy.

    Those named velocity; else those with the unit of the first, if it has one; else u, v and w, of
    which there are two at least; else the first alone.
    """
    names, first = grid.channels, grid.unit(grid.channels[0])
    named = [i for i, name in enumerate(names) if name.startswith("velocity")]
    alike = [i for i, name in enumerate(names) if grid.unit(name) == first != "1"]
    letters = [i for i, name in enumerate(names) if name in LETTERS]
    return named or alike or (letters if len(letters) > 1 else [0])


def name_of(grid: Domain, channels: Sequence[int]) -> str:
    """What pictures call a channel, or a vector of several."""
    names = [grid.channels[i] for i in channels]
    if len(names) == 1:
        return names[0]
    return "u" if names[0].startswith("velocity") else f"({', '.join(names)})"


def draw_spectra(spectra: Mapping[str, Spectrum], grid: Grid) -> Figure:
    """Energy against wave number, one line per label; the mean (wave number 0) is left out.

    Only wave numbers that every direction of the grid resolves are drawn.
    """
    space = unit(grid, "space")
    figure, axes = one_plot(
        xlabel="wave number [rad]" if space == "-" else f"wave number [rad/{space}]",
        ylabel="energy per wave number",
    )
    resolved = np.pi / max(grid.spacing)
    for name, spectrum in spectra.items():
        shown = (spectrum.wave_numbers > 0) & (spectrum.wave_numbers <= resolved)
        width, alpha, order = (4.5, 0.45, 1.5) if name in _BROAD else (1.8, 1.0, 2.0)
        style = {"color": COLOURS.get(name), "lw": width, "alpha": alpha, "zorder": order}
        axes.plot(spectrum.wave_numbers[shown], spectrum.energy[shown], label=name, **style)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.25, which="both")
    short_ticks(axes)
    legend(axes)
    return figure
