"""A py-pde model in the loop, unchanged: waves that turn, break up and never settle.

    pip install py-pde jax && python examples/12_pypde.py # a minute; seeds may follow

The complex Ginzburg-Landau equation by py-pde's own Runge-Kutta stepper, through `callable`: the
first thirty lines are all that is new. 20 x 20 cells are corrected towards 60 x 60. The two
channels turn into each other during a step, whose derivative is thus neither zero (NOG) nor the
identity (ID). `auto` takes the tangent, a network that learns the derivative: a step reaches some
cells, so that colours would take many solver steps, and so would ten Jacobians of 800 entries.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from zopde import (
    Trajectories,
    downsample,
    load_config,
    load_solver,
    rollout,
    run_correction,
    save_trajectories,
)

Array = np.ndarray[Any, Any]
COARSE, FINE = 20, 60
GRID = {"shape": [COARSE] * 2, "extent": [40.0] * 2, "dt": 0.4, "channels": ["real", "imaginary"]}


class Waves:
    """The user's model, as it was before anybody thought of training through it."""

    def __init__(self, cells: int) -> None:
        import pde

        grid = pde.CartesianGrid([[0, 40.0]] * 2, cells, periodic=True)
        self.field = pde.ScalarField(grid, dtype=complex)
        equation = pde.PDE({"a": "a + (1 + 1.5j) * laplace(a) - (1 - 0.8j) * Abs(a)**2 * a"})
        self.stepper = pde.RungeKuttaSolver(equation, backend="jax").make_stepper(self.field, 0.05)

    def advance(self, state: Array) -> Array:
        """(2, y, x) -> the same, 0.4 later."""
        self.field.data[...] = state[0] + 1j * state[1]
        self.stepper(self.field, 0.0, 0.4)
        return np.stack([self.field.data.real, self.field.data.imag])


coarse = cache(lambda: Waves(COARSE))


def advance(state: Array) -> Array:
    """What `callable` calls: the coarse model, built at the first step."""
    return coarse().advance(state)


def reference(path: Path, runs: int = 8, skip: int = 50, steps: int = 40) -> None:
    """Runs on the fine grid from random waves, brought to the coarse one."""
    grid = {**GRID, "shape": [FINE] * 2}
    fine = load_solver("callable", {"function": Waves(FINE).advance, "grid": grid})
    start = torch.randn(runs, 2, 10, 10, generator=torch.Generator().manual_seed(1))
    start = torch.nn.functional.interpolate(start, size=(FINE, FINE), mode="bicubic")
    states = rollout(fine, start, skip + steps)[:, skip:]
    kept = downsample(states.flatten(0, 1), (COARSE, COARSE)).unflatten(0, states.shape[:2])
    save_trajectories(Trajectories(fine.grid.with_shape((COARSE, COARSE)), kept), path)


def compare(folder: Path, labels: list[str], seeds: list[int], iterations: int) -> dict[str, Any]:
    """What `zopde correct` does with these settings; the last two runs are unseen."""
    options = {"function": f"{__file__}:advance", "grid": GRID}
    settings = {
        "solver": {"spec": "callable", "options": options},
        "data": {"path": str(folder / "data.nc"), "train": 6, "test": 2},
        "training": {"length": f"{iterations} iterations", "batch": 2, "unroll": 8, "lr": 3e-3},
        "run": {"labels": labels, "seeds": seeds},
    }
    return run_correction(load_config(tables=settings), folder / f"run-{iterations}")


def main(seeds: list[int]) -> dict[str, tuple[float, float, int]]:
    """Label -> error, its spread over seeds, solver steps; NOG again with as many as ZO took."""
    if find_spec("pde") is None or find_spec("jax") is None:
        print("skipped: py-pde or JAX is not installed (pip install py-pde jax)")
        return {}
    with TemporaryDirectory() as name:
        folder, short = Path(name), 150
        reference(folder / "data.nc")
        found = compare(folder, ["SRC", "NON", "NOG", "ID", "ZO-interface"], seeds, short)
        steps = {k: n + found["checking"][k] for k, n in found["solver_steps"].items()}
        longer = round(short * steps["ZO-interface"] / steps["NOG"])
        again = compare(folder, ["SRC", "NOG"], seeds, longer)
    rows = {label: (found["mae"][label], count) for label, count in steps.items()}
    rows["NOG, longer"] = again["mae"]["NOG"], again["solver_steps"]["NOG"]
    return {k: (mae["mean"], mae["std_over_seeds"], count) for k, (mae, count) in rows.items()}


if __name__ == "__main__":
    for label, (error, spread, count) in main([int(seed) for seed in sys.argv[1:]] or [0]).items():
        print(f"{label:<13} MAE {error:.4f} +- {spread:.4f}, {count:,} solver steps")
