"""Pictures that a person wants to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from zopde.grid import Grid

# One colour per label in every picture; chosen to stay apart for colour-blind readers.
COLOURS = {
    "SRC": "#555555",
    "NON": "#E69F00",
    "NOG": "#009E73",
    "ZO-weights": "#0072B2",
    "ZO-weights-scratch": "#56B4E9",
    "ZO-interface": "#D55E00",
    "SOL": "#CC79A7",
}


@dataclass(frozen=True)
class Curve:
    """Error of one label over time.

    Args:
        label: Its name.
        mean: (time,), mean over the test runs.
        spread: (time,), standard deviation over the test runs.
    """

    label: str
    mean: Float[np.ndarray, " time"]
    spread: Float[np.ndarray, " time"]


def save_error_over_time(path: Path, curves: list[Curve], grid: Grid) -> None:
    """Mean absolute error of the state against time, one line per label, spread shaded."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    top = 1.15 * max((float(c.mean.max()) for c in curves if np.isfinite(c.mean).all()), default=1)
    for curve in curves:
        time = grid.dt * np.arange(1, len(curve.mean) + 1)
        colour = COLOURS.get(curve.label)
        diverged = not np.isfinite(curve.mean).all()
        name = f"{curve.label} (diverged)" if diverged else curve.label
        axes.plot(time, curve.mean, color=colour, label=name, linewidth=1.8)
        low, high = curve.mean - curve.spread, curve.mean + curve.spread
        axes.fill_between(time, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel(f"time of rollout [{_unit(grid, 'time')}]")
    axes.set_ylabel(f"mean absolute error [{_unit(grid, grid.channels[0])}]")
    axes.set_title("Unseen runs: mean over the runs, shaded their standard deviation", fontsize=10)
    axes.set_ylim(0, top)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def save_fields(path: Path, states: Mapping[str, Tensor], grid: Grid, step: int) -> None:
    """States of one unseen run at one time, above their errors against the first of them.

    The top row shares one colour scale, the bottom row another. Of a vector the magnitude is
    shown, of its error likewise: |u - r|.

    Args:
        path: PNG to write.
        states: Label -> (channel, y, x); the first entry is the reference.
        grid: Where the states live.
        step: Step of the rollout, for the title.
    """
    fields = {name: state.detach().cpu().double().numpy() for name, state in states.items()}
    reference = next(iter(fields.values()))
    magnitudes = {name: np.linalg.norm(field, axis=0) for name, field in fields.items()}
    errors = {n: np.linalg.norm(f - reference, axis=0) for n, f in list(fields.items())[1:]}
    figure = Figure(figsize=(2.1 * len(fields) + 0.9, 4.6), layout="constrained")
    panels = figure.subplots(2, len(fields), squeeze=False)
    top = [
        _panel(panels[0, i], v, grid, _limit(magnitudes), "viridis")
        for i, v in enumerate(magnitudes.values())
    ]
    for i, (name, axes) in enumerate(zip(fields, panels[0], strict=True)):
        axes.set_title(name, fontsize=10)
        if i:
            error = errors[name]
            low = _panel(panels[1, i], error, grid, _limit(errors), "magma")
            panels[1, i].set_title(f"error, mean {float(error.mean()):.3f}", fontsize=9)
    panels[1, 0].axis("off")
    unit = _unit(grid, grid.channels[0])
    figure.colorbar(top[0], ax=panels[0, :], label=f"|u| [{unit}]", shrink=0.9)
    figure.colorbar(low, ax=panels[1, :], label=f"|u - reference| [{unit}]", shrink=0.9)
    unit = f" {grid.unit('time')}" if grid.unit("time") != "1" else ""
    figure.suptitle(f"Unseen run 1 after {step} steps (t = {step * grid.dt:g}{unit})", fontsize=10)
    save_figure(figure, path)


def _panel(axes: Any, values: Any, grid: Grid, limit: float, colours: str) -> Any:  # noqa: ANN401
    axes.set_xticks([])
    axes.set_yticks([])
    size = (0, grid.extent[-1], 0, grid.extent[-2])
    return axes.imshow(values, origin="lower", extent=size, vmin=0, vmax=limit, cmap=colours)


def _limit(fields: Mapping[str, Any]) -> float:
    """Common top of a colour scale, not spoilt by one that diverged."""
    peaks = [float(np.max(f)) for f in fields.values()]
    finite = [p for p in peaks if np.isfinite(p)]
    least = min(finite, default=1.0)
    return max([p for p in finite if p <= 20 * least] or [1.0])


def _unit(grid: Grid, name: str) -> str:
    unit = grid.unit(name)
    return "-" if unit == "1" else unit


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all."""
    FigureCanvasAgg(figure)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(path)
