"""A quasi-geostrophic model in the loop, unchanged: pyqg-jax, two layers of ocean eddies.

    pip install pyqg-jax && python examples/13_quasi_geostrophic.py # minutes; seeds may follow

Days of the model by its own Adams-Bashforth steps, through `callable`: the first thirty lines are
all that is new. 32 x 32 cells of 31 km hardly see eddies of 30 km and are corrected towards
64 x 64. The flow follows from the potential vorticity by a Fourier transform, so every cell answers
to every other: colours save nothing, ten Jacobians of 2,048 entries would take 20,480 solver steps,
and `auto` takes the tangent, a network that learns the derivative from 1,280.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
COARSE, FINE, DAY = 32, 64, 86400.0
GRID = {"shape": [COARSE] * 2, "extent": [1e6] * 2, "dt": DAY, "channels": ["upper", "lower"]}


@cache
def model(cells: int) -> Callable[[Array], Array]:
    """The user's model: (2, y, x) of potential vorticity in 1e-5 / s -> the same, a day later."""
    import jax
    from pyqg_jax.qg_model import QGModel
    from pyqg_jax.state import Precision
    from pyqg_jax.steppers import AB3Stepper, SteppedModel

    jax.config.update("jax_enable_x64", True)
    steps = 6 * cells // COARSE
    layers = QGModel(nx=cells, rd=3e4, precision=Precision.DOUBLE)
    stepped = SteppedModel(layers, AB3Stepper(dt=DAY / steps))
    blank = stepped.create_initial_state(jax.random.key(0)).state

    @jax.jit
    def day(state: Any) -> Any:  # noqa: ANN401
        begin = stepped.initialize_stepper_state(blank.update(q=1e-5 * state))
        end = jax.lax.fori_loop(0, steps, lambda _, now: stepped.step_model(now), begin)
        return 1e5 * end.state.q

    return lambda state: np.asarray(day(state))


def advance(state: Array) -> Array:
    """What `callable` calls: the coarse model."""
    return model(COARSE)(state)


def reference(path: Path, runs: int = 8, skip: int = 30, steps: int = 40) -> None:
    """Runs on the fine grid from random eddies, brought to the coarse one."""
    fine = load_solver("callable", {"function": model(FINE), "grid": {**GRID, "shape": [FINE] * 2}})
    waves = torch.fft.fftfreq(FINE, 1 / FINE)
    ring = torch.exp(-((torch.hypot(waves, waves[:, None]) - 5) ** 2) / 4)
    noise = torch.randn(runs, 2, FINE, FINE, generator=torch.Generator().manual_seed(1))
    eddies = torch.fft.ifft2(torch.fft.fft2(noise) * ring).real
    start = eddies / eddies.std((2, 3), keepdim=True) * torch.tensor([1.0, 0.2])[:, None, None]
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
    if find_spec("pyqg_jax") is None:
        print("skipped: pyqg-jax is not installed (pip install pyqg-jax)")
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
