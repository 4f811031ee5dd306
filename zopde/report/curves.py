"""Curves of every label: its error along a rollout, and what its training reached at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from zopde.contracts import Domain
from zopde.report.panels import COLOURS, cost_plots, legend, one_plot, unit

_SMOOTH = 0.05  # share of the iterations that a running mean covers
_MARKS = "os^Dv<>pP*Xhd8"
_OTHER = "#882255"  # of a label that has no colour


@dataclass(frozen=True)
class Curve:
    """Error of one label over time."""

    label: str
    mean: Float[np.ndarray, " time"]  # over the test runs
    spread: Float[np.ndarray, " time"]  # standard deviation over the test runs
    # The number of each step, from 1; None: all of them
    steps: Int[np.ndarray, " time"] | None = None


def draw_error_over_time(curves: list[Curve], grid: Domain) -> Figure:
    """Mean absolute error of the state against time, one line per label, spread shaded."""
    units = {unit(grid, channel) for channel in grid.channels}
    of_state = f"[{units.pop()}]" if len(units) == 1 else "of all channels"
    figure, axes = one_plot(
        xlabel=f"time of rollout [{unit(grid, 'time')}]",
        ylabel=f"mean absolute error {of_state}",
    )
    top = 1.15 * max((float(c.mean.max()) for c in curves if np.isfinite(c.mean).all()), default=1)
    for curve in curves:
        every = np.arange(1, len(curve.mean) + 1)
        time = grid.dt * (every if curve.steps is None else curve.steps)
        colour = COLOURS.get(curve.label)
        diverged = not np.isfinite(curve.mean).all()
        name = f"{curve.label} (diverged)" if diverged else curve.label
        # What the others try to reach lies beneath, broad: a line upon it still shows.
        width, order = (5, 1.5) if curve.label == "SOL" else (1.8, 2)
        axes.plot(time, curve.mean, color=colour, label=name, linewidth=width, zorder=order)
        low, high = curve.mean - curve.spread, curve.mean + curve.spread
        axes.fill_between(time, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_title("Unseen runs: mean over the runs, shaded their standard deviation", fontsize=10)
    axes.set(ylim=(0, top or 1), xlim=(0, None))
    legend(axes)
    return figure


@dataclass(frozen=True)
class CostCurve:
    """The loss or the accuracy of one label along its training, mean over the seeds."""

    label: str
    queries: Sequence[float] | Float[np.ndarray, " point"]  # so far, those of its start included
    seconds: Sequence[float] | Float[np.ndarray, " point"]  # of training so far, likewise
    # The loss before each update, or the accuracy on the test images in percent
    values: Sequence[float] | Float[np.ndarray, " point"]
    apart: bool = False  # whether its loss is another one than the others': only its fall tells
    # The loss on validation data at some of the points, NaN at the others; None: there are none
    validation: Float[np.ndarray, " point"] | None = None


def draw_learning_curves(curves: Sequence[CostCurve]) -> Figure:
    """Test accuracy against queries and against seconds, both on logarithmic axes."""
    figure, panels = cost_plots("test accuracy [%]")
    for curve in curves:
        for axes, cost in zip(panels, (curve.queries, curve.seconds), strict=True):
            axes.plot(cost, curve.values, color=COLOURS.get(curve.label), label=curve.label, lw=1.8)
    legend(panels[1])
    return figure


def draw_loss_curves(curves: Sequence[CostCurve]) -> Figure:
    """Smoothed training loss against queries and against seconds, all axes logarithmic.

    The loss is on a linear axis where it is zero or negative somewhere.
    """
    means = [running_mean(np.asarray(c.values), round(_SMOOTH * len(c.values))) for c in curves]
    looks = [curve.validation for curve in curves if curve.validation is not None]
    positive = not any((values <= 0).any() for values in (*means, *looks))
    figure, panels = cost_plots("training loss (running mean)", log_y=positive)
    for curve, smooth in zip(curves, means, strict=True):
        style, more = ("--", " (loss of one step)") if curve.apart else ("-", "")
        for axes, cost in zip(panels, (curve.queries, curve.seconds), strict=True):
            colour, name = COLOURS.get(curve.label), f"{curve.label}{more}"
            (line,) = axes.plot(cost, smooth, style, color=colour, label=name, lw=1.6)
            if curve.validation is not None:
                there = np.isfinite(curve.validation)
                at, seen = np.asarray(cost)[there], curve.validation[there]
                axes.plot(at, seen, ":o", color=line.get_color(), ms=3)
    legend(panels[1])
    return figure


def running_mean(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Mean over the last `width` values, over fewer at the beginning; NaN spreads."""
    width = max(1, min(width, len(values)))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


@dataclass(frozen=True)
class Paid:
    """What a label of a run reached, and what for."""

    run: str  # name of the run
    label: str  # of the label or method
    queries: float  # evaluations of the objective
    seconds: float  # training time
    reached: float  # the error or the accuracy


def draw_price(points: Sequence[Paid], reached: str) -> Figure:
    """What all runs reached against queries and seconds: a colour per label, a mark per run."""
    figure, panels = cost_plots(reached, height=4.6)
    runs = list(dict.fromkeys(point.run for point in points))
    marks = {run: _MARKS[i % len(_MARKS)] for i, run in enumerate(runs)}
    for point in points:
        colour = COLOURS.get(point.label, _OTHER)
        for axes, cost in zip(panels, (point.queries, point.seconds), strict=True):
            x, mark = max(cost, 1e-9), marks[point.run]
            axes.plot(x, point.reached, mark, color=colour, ms=8, alpha=0.85)
    for run in runs:
        panels[1].plot([], [], marks[run], color="#999999", label=run)
    for label in dict.fromkeys(point.label for point in points):
        panels[1].plot([], [], "-", lw=4, color=COLOURS.get(label, _OTHER), label=label)
    legend(figure, loc="outside lower center", ncols=4, fontsize=8)
    return figure
