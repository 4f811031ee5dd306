"""How far off every label is while a rollout goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zopde.grid import Grid
from zopde.report.colours import COLOURS
from zopde.report.panels import legend, one_plot, save, unit


@dataclass(frozen=True)
class Curve:
    """Error of one label over time."""

    label: str  # its name
    mean: Float[np.ndarray, " time"]  # (time,), mean over the test runs
    spread: Float[np.ndarray, " time"]  # (time,), standard deviation over the test runs


def save_error_over_time(path: Path, curves: list[Curve], grid: Grid) -> None:
    """Mean absolute error of the state against time, one line per label, spread shaded."""
    figure, axes = one_plot(
        xlabel=f"time of rollout [{unit(grid, 'time')}]",
        ylabel=f"mean absolute error [{unit(grid, grid.channels[0])}]",
    )
    top = 1.15 * max((float(c.mean.max()) for c in curves if np.isfinite(c.mean).all()), default=1)
    for curve in curves:
        time = grid.dt * np.arange(1, len(curve.mean) + 1)
        colour = COLOURS.get(curve.label)
        diverged = not np.isfinite(curve.mean).all()
        name = f"{curve.label} (diverged)" if diverged else curve.label
        # What the others try to reach lies beneath, broad: a line upon it still shows.
        width, order = (5, 1.5) if curve.label == "SOL" else (1.8, 2)
        axes.plot(time, curve.mean, color=colour, label=name, linewidth=width, zorder=order)
        low, high = curve.mean - curve.spread, curve.mean + curve.spread
        axes.fill_between(time, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_title("Unseen runs: mean over the runs, shaded their standard deviation", fontsize=10)
    axes.set_ylim(0, top)
    axes.set_xlim(left=0)
    legend(axes)
    save(figure, path)
