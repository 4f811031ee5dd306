"""How the loss falls, against what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zopde.report.colours import COLOURS
from zopde.report.panels import save, short_ticks

_SMOOTH = 0.05  # share of the iterations that a running mean covers


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one label, mean over the seeds.

    Args:
        label: Its name.
        queries: (iteration,), evaluations of the objective so far, those of its start included.
        seconds: (iteration,), training time so far, likewise.
        loss: (iteration,), before each update.
        apart: Whether its loss is another one than the others', so that only its fall tells.
    """

    label: str
    queries: Float[np.ndarray, " iteration"]
    seconds: Float[np.ndarray, " iteration"]
    loss: Float[np.ndarray, " iteration"]
    apart: bool = False


def running_mean(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Mean over the last `width` values, over fewer at the beginning; NaN spreads."""
    width = max(1, min(width, len(values)))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


def save_loss_curves(path: Path, curves: Sequence[LossCurve]) -> None:
    """Smoothed training loss against queries and against seconds, all axes logarithmic."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for curve in curves:
        smooth = running_mean(curve.loss, round(_SMOOTH * len(curve.loss)))
        name = f"{curve.label} (loss of one step)" if curve.apart else curve.label
        for axes, along in zip(panels, (curve.queries, curve.seconds), strict=True):
            axes.plot(
                along,
                smooth,
                color=COLOURS.get(curve.label),
                label=name,
                linewidth=1.6,
                linestyle="--" if curve.apart else "-",
            )
    for axes, name in zip(panels, ("queries of the loss", "seconds of training"), strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.25)
        short_ticks(axes)
    panels[0].set_ylabel("training loss (running mean)")
    panels[1].legend(frameon=False, fontsize=9)
    save(figure, path)


@dataclass(frozen=True)
class Paid:
    """What a label of a run reached, and what for.

    Args:
        run: Name of the run.
        label: Of the label or method.
        queries: Evaluations of the objective.
        seconds: Training time.
        reached: The error or the accuracy.
    """

    run: str
    label: str
    queries: float
    seconds: float
    reached: float


def save_price(path: Path, points: Sequence[Paid], reached: str) -> None:
    """What was reached against queries and seconds: a colour per label, a mark per run.

    Args:
        path: PNG to write.
        points: Of all runs.
        reached: Name and unit of what was reached.
    """
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    runs = list(dict.fromkeys(point.run for point in points))
    marks = dict(zip(runs, "os^Dv<>pP*Xhd8" * (1 + len(runs) // 14), strict=False))
    for axes, name in zip(panels, ("queries", "seconds"), strict=True):
        for point in points:
            axes.plot(
                max(getattr(point, name), 1e-9),
                point.reached,
                marks[point.run],
                color=COLOURS.get(point.label, "#882255"),
                markersize=8,
                alpha=0.85,
            )
        axes.set_xscale("log")
        axes.set_xlabel("queries of the loss" if name == "queries" else "seconds of training")
        axes.grid(alpha=0.25)
        short_ticks(axes)
    panels[0].set_ylabel(reached)
    labels = list(dict.fromkeys(point.label for point in points))
    for run in runs:
        panels[1].plot([], [], marks[run], color="#999999", label=run)
    for label in labels:
        panels[1].plot([], [], "-", lw=4, color=COLOURS.get(label, "#882255"), label=label)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)
