"""OpenFOAM's icoFoam, unmodified: a coarse cavity corrected towards a four times finer one.

    apt install openfoam                        # or any OpenFOAM whose etc/bashrc is sourced
    python examples/05_openfoam.py              # a minute
    python examples/05_openfoam.py --full runs/openfoam

Vortices are stirred by a moving lid. icoFoam starts anew for every state; ZO-interface measures
its Jacobians once, by runs side by side, and looks them up. Judged on vortices never seen.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zopde import (
    InputError,
    Trajectories,
    downsample,
    load_config,
    load_solver,
    load_trajectories,
    rollout,
    run_correction,
    save_trajectories,
)

LABELS = ("SRC", "NON", "NOG", "ZO-interface")
SHORT = {"cells": 10, "train": 3, "test": 1, "steps": 10, "snapshots": 2, "iterations": 30}
FULL = {"cells": 16, "train": 6, "test": 3, "steps": 30, "snapshots": 6, "iterations": 150}


def options(cells: int, substeps: int) -> dict[str, Any]:
    """The same case on any mesh; icoFoam takes `substeps` steps in a tenth of a second."""
    case = str(Path(__file__).parent / "cavity")
    own = {"case": case, "shape": [cells, cells], "dt": 0.1, "substeps": substeps}
    return {**own, "fields": ["U"], "concurrency": os.cpu_count() or 1}


def vortices(cells: int, count: int) -> Tensor:
    """Random stream functions that vanish at the walls, as velocities at the cell centres."""
    generator = torch.Generator().manual_seed(0)
    amplitudes = torch.randn(count, 3, 3, 1, 1, generator=generator, dtype=torch.float64)
    nodes = torch.linspace(0, torch.pi, cells + 1, dtype=torch.float64)
    waves = torch.stack([torch.cos(mode * nodes) for mode in range(3)])
    pattern = (amplitudes * waves[:, None, :, None] * waves[None, :, None, :]).sum(dim=(1, 2))
    psi = 0.05 * pattern * (nodes.sin()[:, None] * nodes.sin()) ** 2
    along_y, along_x = psi.diff(dim=1) * cells, psi.diff(dim=2) * cells
    u = (along_y[:, :, 1:] + along_y[:, :, :-1]) / 2
    v = -(along_x[:, 1:] + along_x[:, :-1]) / 2
    return torch.stack([u, v], dim=1)


def reference(path: Path, cells: int, simulations: int, steps: int) -> None:
    """icoFoam on a mesh four times finer, with smaller steps, brought to the coarse one."""
    fine = load_solver("openfoam", options(4 * cells, substeps=8))
    states = rollout(fine, vortices(4 * cells, simulations), steps)
    kept = downsample(states.flatten(0, 1), (cells, cells)).unflatten(0, states.shape[:2])
    save_trajectories(Trajectories(fine.grid.with_shape((cells, cells)), kept), path)


def picture(path: Path, folder: Path, data: Path, cells: int, test: int) -> None:
    """Speed at the end of the last unseen run, and the error of every label over time."""
    import matplotlib.pyplot as plt

    grid = load_solver("openfoam", options(cells, substeps=2)).grid
    truth = load_trajectories(data, grid).states[-test:]
    rows = {f"icoFoam {4 * cells} x {4 * cells}": truth}
    for label in LABELS:
        found = load_trajectories(folder / label / "seed-0" / "rollout.nc", grid)
        rows[f"{cells} x {cells}" if label == "SRC" else label] = found.states
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    shown = [name for name in rows if name not in ("NON", "NOG")]
    speeds = {name: rows[name][-1, -1].norm(dim=0) for name in shown}
    for ax, (name, speed) in zip(axes, speeds.items(), strict=False):
        image = ax.imshow(speed, origin="lower", vmin=0, vmax=speeds[shown[0]].max())
        ax.set(title=name, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes[:3], label="speed, m/s", shrink=0.9)
    for name, states in list(rows.items())[1:]:
        error = (states - truth).abs().mean(dim=(0, 2, 3, 4))
        axes[3].plot([0.1 * k for k in range(len(error))], error, label=name)
    axes[3].set(title="mean absolute error", xlabel="time, s", ylabel="m/s")
    axes[3].legend()
    figure.savefig(path, dpi=120)


def main(size: dict[str, int], place: Path) -> dict[str, float]:
    """Reference data, training in every way, and the unseen runs; errors by label."""
    cells, data, run = size["cells"], place / "cavity.nc", place / "run"
    reference(data, cells, size["train"] + size["test"], size["steps"])
    tables: dict[str, Any] = {
        "solver": {"spec": "openfoam", "options": options(cells, substeps=2)},
        "data": {"path": str(data), "train": size["train"], "test": size["test"]},
        "training": {"length": f"{size['iterations']} iterations", "batch": 4, "unroll": 4},
        "interface": {"kind": "amortised", "snapshots": size["snapshots"]},
        "run": {"labels": list(LABELS), "dtype": "float64"},
    }
    metrics = run_correction(load_config(tables=tables), run)
    picture(place / "openfoam.png", run, data, cells, size["test"])
    print("label         error, m/s   icoFoam runs   seconds")
    for label in LABELS:
        cost = f"{metrics['solver_steps'][label]:14,} {metrics['seconds'][label]:9,.0f}"
        print(f"{label:<12} {metrics['mae'][label]['mean']:11.5f} {cost}")
    return {label: metrics["mae"][label]["mean"] for label in LABELS}


if __name__ == "__main__":
    given = [Path(text) for text in sys.argv[1:] if text != "--full"]
    target = given[0] if given else Path(tempfile.mkdtemp(prefix="zopde-openfoam-"))
    try:
        load_solver("openfoam", options(4, substeps=2))
    except InputError as error:
        sys.exit(print(f"skipped: {error}"))
    main(FULL if "--full" in sys.argv else SHORT, target)
