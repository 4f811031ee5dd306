"""What every label had reached after so many solver steps, and after so many seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zopde.report.panels import COLOURS, legend, short_ticks

_MARKS = "os^Dv<>pP*Xhd8"
_OTHER = "#882255"  # of a label that has no colour
_ROOM = 1.25  # above the largest error that must be seen, and below the least
_WIDTH = 40  # letters of a line of the legend
_SPAN = 1000.0  # of the axis of seconds


@dataclass(frozen=True)
class Race:
    """The error of one label along its training."""

    label: str
    solver_steps: Float[np.ndarray, " look"]  # so far, mean over the seeds
    seconds: Float[np.ndarray, " look"]  # likewise
    # By the best weights so far; not finite where a run diverged
    errors: Float[np.ndarray, "seed look"]

    @property
    def stayed(self) -> bool:
        """Whether no seed found anything better than its start."""
        return bool((self.errors == self.errors[:, :1]).all())


def draw_race(races: Sequence[Race], free: Mapping[str, Sequence[float]]) -> Figure:
    """Draw error against solver steps and seconds: means, and at the end what seeds reach.

    Args:
        races: A line with marks each; those that end as they began share a dotted line.
        free: Label that takes no solver step -> the error of every seed: a dashed line.
    """
    figure = Figure(figsize=(10.0, 5.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    panels[0].set(xlabel="solver steps, without tuning and validation", yscale="log")
    panels[1].set(xlabel="seconds of training", xscale="log")
    panels[0].set_ylabel("mean absolute error of the unseen runs")
    moved = [race for race in races if not race.stayed]
    for axes in panels:
        axes.grid(alpha=0.25)
        for label, values in free.items():
            colour = COLOURS.get(label, _OTHER)
            axes.axhline(np.mean(values), color=colour, ls="--", lw=1.4, label=f"{label}, no step")
        for start, labels in _stayed(races).items():
            told = f"no better than the start: {', '.join(labels)}"
            axes.axhline(
                start, color="0.6", ls=":", lw=1.4, label=fill(told, _WIDTH, break_on_hyphens=False)
            )
    for number, race in enumerate(moved):
        colour, mean = COLOURS.get(race.label, _OTHER), race.errors.mean(axis=0)
        style = {"drawstyle": "steps-post", "marker": _MARKS[number % len(_MARKS)], "ms": 4}
        reach = np.abs(
            np.array([[race.errors[:, -1].min()], [race.errors[:, -1].max()]]) - mean[-1]
        )
        for axes, cost in zip(panels, (race.solver_steps, race.seconds), strict=True):
            axes.plot(cost, mean, color=colour, lw=1.5, label=race.label, **style)
            axes.errorbar(
                cost[-1:], mean[-1:], yerr=reach, color=colour, lw=1, capsize=3, alpha=0.6
            )
    _limit(panels, moved or races, free)
    handles = panels[0].get_legend_handles_labels()[0]
    legend(figure, handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _stayed(races: Sequence[Race]) -> dict[float, list[str]]:
    """Error at the start -> the labels that never found anything better."""
    found: dict[float, list[str]] = {}
    for race in races:
        if race.stayed:
            found.setdefault(float(race.errors.mean(axis=0)[0]), []).append(race.label)
    return found


def _limit(panels: Any, races: Sequence[Race], free: Mapping[str, Sequence[float]]) -> None:  # noqa: ANN401
    """Show what has a number, no error far above where somebody ended, no second before a few."""
    ends = [
        *(v for values in free.values() for v in values),
        *(r.errors[:, -1].max() for r in races),
    ]
    known = [float(end) for end in ends if np.isfinite(end) and end > 0]
    least = [float(np.nanmin(race.errors)) for race in races if np.isfinite(race.errors).any()]
    if known:
        panels[0].set_ylim(min([*known, *least]) / _ROOM, _ROOM * max(known))
    last = max((float(race.seconds[-1]) for race in races), default=0.0)
    if last > 0:
        panels[1].set_xlim(max(last / _SPAN, 1e-3), 1.1 * last)
    panels[0].set_xlim(0, None)
    for axes in panels:
        short_ticks(axes)
