"""OpenFOAM's icoFoam, unmodified: a coarse cavity corrected towards a finer one.

    apt install openfoam                        # or any OpenFOAM whose etc/bashrc is sourced
    python examples/05_openfoam.py              # half a minute, too short to pass NON
    python examples/05_openfoam.py runs/openfoam --size full --seeds 0 1 2   # 5 min a seed
    python examples/05_openfoam.py runs/large --size large --seeds 0         # 40 min a seed

A lid stirs vortices. icoFoam starts anew for every state. ZO-interface measures icoFoam's
derivative by runs side by side: on small meshes whole Jacobians, which it looks up; on the large
one, of 8,192 velocities, it trains a tangent. Judged on vortices never seen.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zopde

LABELS = ("SRC", "NON", "NOG", "ID", "ZO-interface")
# Cells a side, times as many in the reference, icoFoam's steps in 0.1 s, runs, steps of each,
# iterations, unrolled steps, how the derivative is measured
SIZES: dict[str, Any] = {
    "short": (8, 4, 2, 8, 8, 20, 4, {"way": "bank", "snapshots": 2}),
    "full": (16, 4, 2, 16, 20, 150, 8, {"way": "bank", "snapshots": 6}),
    "large": (64, 2, 8, 12, 20, 100, 8, {"way": "tangent"}),
}


def options(cells: int, substeps: int) -> dict[str, Any]:
    """The same case on any mesh; icoFoam takes `substeps` steps in a tenth of a second."""
    case = str(Path(__file__).parent / "cavity")
    own = {"case": case, "shape": [cells, cells], "fields": ["U"], "dt": 0.1}
    return {**own, "substeps": substeps, "concurrency": os.cpu_count()}


def vortices(cells: int, count: int) -> Tensor:
    """Random stream functions that vanish at the walls, as velocities at the cell centres."""
    generator = torch.Generator().manual_seed(1)  # 0 served to choose the settings
    amplitudes = 0.05 * torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    nodes = torch.linspace(0, torch.pi, cells + 1, dtype=torch.float64)
    waves = torch.cos(torch.arange(3)[:, None] * nodes) * nodes.sin() ** 2
    psi = torch.einsum("sjk,jy,kx->syx", amplitudes, waves, waves)
    along_y, along_x = psi.diff(dim=1) * cells, psi.diff(dim=2) * cells
    u, v = along_y[:, :, 1:] + along_y[:, :, :-1], -along_x[:, 1:] - along_x[:, :-1]
    return torch.stack([u, v], dim=1) / 2


def reference(cells: int, finer: int, substeps: int, runs: int, steps: int) -> zopde.Trajectories:
    """icoFoam on a finer mesh, with smaller steps, brought to the coarse one."""
    fine = zopde.load_solver("openfoam", options(finer * cells, finer * substeps))
    states = zopde.rollout(fine, vortices(finer * cells, runs), steps)
    kept = zopde.downsample(states.flatten(0, 1), (cells, cells)).unflatten(0, states.shape[:2])
    return zopde.Trajectories(fine.grid.with_shape((cells, cells)), kept)


def picture(place: Path, coarse: zopde.Trajectories) -> None:
    """Speed at the end of the last unseen run, and every label's error over time; one seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    shown = {"finer mesh": coarse.states[-1, -1]}
    for label in LABELS:
        (first, *_) = sorted((place / "run" / label).glob("seed-*/rollout.nc"))
        found = zopde.load_trajectories(first, coarse.grid).states
        shown[label], error = found[-1, -1], (found - coarse.states).abs().mean(dim=(0, 2, 3, 4))
        axes[3].plot([0.1 * k for k in range(len(error))], error, label=label)
    axes[3].set(title="mean absolute error", xlabel="time, s", ylabel="m/s", ylim=(0, None))
    axes[3].legend(loc="upper left")
    for ax, name in zip(axes, ("finer mesh", "SRC", "ZO-interface"), strict=False):
        image = ax.imshow(shown[name].norm(dim=0).numpy(), origin="lower", vmin=0, vmax=0.7)
        ax.set(title=name, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes[:3], label="speed, m/s")
    figure.savefig(place / "openfoam.png", dpi=120)


def main(place: Path, name: str = "short", *seeds: int) -> dict[str, float]:
    """Reference data, training in every way, and the unseen runs; errors by label."""
    if shutil.which("icoFoam") is None:
        print("skipped: no icoFoam here (Debian, Ubuntu: apt install openfoam)")
        return {}
    cells, finer, substeps, runs, steps, length, unroll, interface = SIZES[name]
    unseen = runs // 4
    data = reference(cells, finer, substeps, runs + unseen, steps)
    zopde.save_trajectories(data, place / "cavity.nc")
    tables: dict[str, Any] = {
        "solver": {"spec": "openfoam", "options": options(cells, substeps)},
        "data": {"path": str(place / "cavity.nc"), "train": runs, "test": unseen},
        "non": {"length": "800 iterations", "batch": 32},
        "training": {"length": f"{length} iterations", "unroll": unroll},
        "interface": interface,
        "run": {"labels": list(LABELS), "seeds": list(seeds or [0]), "dtype": "float64"},
    }
    metrics = zopde.run_correction(zopde.load_config(tables=tables), place / "run")
    picture(place, data.take(slice(runs, None)))
    print("label         error, m/s   +- seeds   icoFoam runs   seconds")
    for label in LABELS:
        error, spread = (metrics["mae"][label][name] for name in ("mean", "std_over_seeds"))
        cost = f"{metrics['solver_steps'][label]:14,} {metrics['seconds'][label]:9,.0f}"
        print(f"{label:<12} {error:11.5f} {spread:10.5f} {cost}")
    print(f"everything, with openfoam.png: {place}")
    return {label: metrics["mae"][label]["mean"] for label in LABELS}


if __name__ == "__main__":
    torch.set_num_threads(1)  # the cores are icoFoam's
    parser = ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    main(given.folder or Path(tempfile.mkdtemp()), given.size, *given.seeds)
