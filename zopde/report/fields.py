"""States of one unseen run, label beside label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zopde.grid import Grid
from zopde.report.panels import draw, field_panels, label_axes, lies_down, save, time_of, unit

# Share of the reference that the colours of vorticity tell apart; thin layers at a wall exceed it.
SHOWN = 0.99


def save_fields(
    path: Path, states: Mapping[str, Tensor], grid: Grid, step: int, run: int = 0
) -> None:
    """States of one unseen run at one time, beside their errors against the first of them.

    The states share one colour scale, the errors another; what is far above the others has the
    scale's last colour. Of a vector the magnitude is shown, of its error likewise: |u - r|.

    Args:
        path: PNG to write.
        states: Label -> (channel, y, x); the first entry is the reference.
        grid: Where the states live.
        step: Step of the rollout, for the title.
        run: Number of the unseen run, from 0, for the title.
    """
    fields = {name: state.detach().cpu().double().numpy() for name, state in states.items()}
    reference = next(iter(fields.values()))
    magnitudes = {name: np.linalg.norm(field, axis=0) for name, field in fields.items()}
    errors = {n: np.linalg.norm(f - reference, axis=0) for n, f in list(fields.items())[1:]}
    # Panels that lie down form two columns, others two rows.
    flat = lies_down(grid)
    figure, panels = field_panels(grid, *((len(fields), 2) if flat else (2, len(fields))))
    pairs = panels if flat else panels.T
    highest = _limit(magnitudes, 20), _limit(errors, 3)
    for (above, below), name in zip(pairs, fields, strict=True):
        top = draw(above, magnitudes[name], grid, (0, highest[0]), "viridis")
        above.set_title(name, fontsize=10)
        if name in errors:
            low = draw(below, errors[name], grid, (0, highest[1]), "magma")
            below.set_title(f"error, mean {float(errors[name].mean()):.3f}", fontsize=9)
        else:
            below.axis("off")
    of_space = unit(grid, grid.channels[0])
    # A bar below takes a share of all rows together: a thin one is enough.
    bar: dict[str, Any] = (
        {"location": "bottom", "fraction": 0.02} if flat else {"location": "right"}
    )
    for drawn, row, text in (
        (top, pairs[:, 0], f"|u| [{of_space}]"),
        (low, pairs[:, 1], f"|u - reference| [{of_space}]"),
    ):
        figure.colorbar(drawn, ax=row, label=text, shrink=0.9, extend="max", **bar)
    figure.suptitle(_moment(grid, step, run), fontsize=10)
    save(figure, path)


def save_vorticity(
    path: Path, fields: Mapping[str, Tensor], grid: Grid, step: int, run: int = 0
) -> None:
    """Vorticity of one unseen run at one time, one panel per label, one colour scale for all.

    Args:
        path: PNG to write.
        fields: Label -> (y, x), NaN where there is no fluid; the first entry is the reference,
            whose values decide the scale.
        grid: Where they live.
        step: Step of the rollout, for the title.
        run: Number of the unseen run, from 0, for the title.
    """
    shown = {name: field.detach().cpu().double().numpy() for name, field in fields.items()}
    limit = float(np.nanquantile(np.abs(next(iter(shown.values()))), SHOWN)) or 1.0
    columns = 2 if lies_down(grid) else 4
    figure, panels = field_panels(grid, -(-len(shown) // columns), columns)
    for axes, (name, values) in zip(panels.flat, shown.items(), strict=False):
        drawn = draw(axes, values, grid, (-limit, limit), "RdBu_r")
        diverged = "" if np.isfinite(values).any() else " (diverged)"
        axes.set_title(f"{name}{diverged}", fontsize=10)
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    label_axes(panels[(len(shown) - 1) // columns, 0], grid)
    speed, space = grid.unit(grid.channels[0]), grid.unit("space")
    of = "-" if speed == space == "1" else f"{speed} / {space}"
    figure.colorbar(drawn, ax=panels, label=f"vorticity [{of}]", shrink=0.8, extend="both")
    figure.suptitle(_moment(grid, step, run), fontsize=10)
    save(figure, path)


def _moment(grid: Grid, step: int, run: int) -> str:
    return f"Unseen run {run + 1} after {step} steps ({time_of(grid, step)})"


def _limit(fields: Mapping[str, Any], most: float) -> float:
    """Common top of a colour scale, not spoilt by one `most` times above the least."""
    peaks = [float(np.max(f)) for f in fields.values()]
    finite = [p for p in peaks if np.isfinite(p)]
    least = min(finite, default=1.0)
    return max([p for p in finite if p <= most * least] or [1.0])
