"""One step of the cylinder's wake: zopde's direct projection against PhiFlow's CG.

    python benchmarks/wake_step.py --json

Both sides take the same stages (viscosity, semi-Lagrangian advection, projection) on a staggered
grid of 64 x 32 cells in float32, from the same flow, taking turns. zopde steps `--batch` states;
PhiFlow as many as it does best with, found by trying the sizes of `--phiflow-batch` in turn, its
CG started from the last pressure and stopped at its usual 1e-5. PhiFlow weighs the faces that
the cylinder covers in part, where zopde closes them, so the flows are similar and not the same.

The goal is 0.2 ms a state on two cores. `floor_ms_per_state` is what no arrangement of this step
goes below: the four matrix products of the pressure and the two bilinear look-ups, bare, on
parts of the batch that fit the cache: 0.011 ms where the step took 0.042 (two cores of an EPYC;
0.020 and 0.063 on one). The rest is passes over the fields, in slices of 2^17 cells.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from phi.torch.flow import (
    Box,
    Obstacle,
    Solve,
    Sphere,
    StaggeredGrid,
    advect,
    batch,
    diffuse,
    dual,
    extrapolation,
    fluid,
    math,
    spatial,
    vec,
    wrap,
)
from torch import Tensor
from torch.nn.functional import grid_sample

from zopde import load_solver
from zopde.memory import keep_freed_memory

SHAPE = (64, 32)
OUR_STEPS = 5  # in a turn; one is too short to time
CYLINDER = Obstacle(Sphere(y=50, x=50, radius=10))


def phiflow_field(v: Tensor, u: Tensor) -> Any:  # noqa: ANN401 - a PhiFlow field
    """PhiFlow's staggered field of (batch, y, x) and (batch, y, x + 1) face velocities.

    A stream of 1 enters at y = 0; the other sides are open.
    """
    free = extrapolation.BOUNDARY
    sides = extrapolation.combine_sides(y=(vec(y=1.0, x=0.0), free), x=free)
    values = [wrap(part, batch("states"), spatial("y,x")) for part in (v, u)]
    both = math.stack(dict(zip("yx", values, strict=True)), dual("vector"))
    return StaggeredGrid(both, sides, Box(y=200, x=100), y=v.shape[1], x=v.shape[2])


def phiflow_step(
    field: Any,  # noqa: ANN401
    reynolds: float,
    obstacles: tuple[Any, ...],
    solve: Any,  # noqa: ANN401
) -> tuple[Any, Any]:
    """(velocity, pressure) a time of 1 later."""
    field = diffuse.explicit(field, 20 / reynolds, 1.0, 1)
    return fluid.make_incompressible(advect.semi_lagrangian(field, field, 1.0), obstacles, solve)


class OurSide:
    """zopde's step, again and again."""

    def __init__(self, count: int) -> None:
        self.solver = load_solver("wake", {"shape": SHAPE})
        scenario = self.solver.scenario(count, torch.Generator().manual_seed(0))
        self.state, self.forcing = scenario.initial, scenario.forcing(0)
        for _ in range(5):
            self()

    def __call__(self) -> None:
        """One step."""
        self.state = self.solver.step(self.state, self.forcing)


class PhiFlowSide:
    """PhiFlow's step, again and again, from zopde's flow."""

    def __init__(self, state: Tensor) -> None:
        v, u = state[:, 0], state[:, 1]
        self.field = phiflow_field(v, torch.cat([u[..., :1], u], dim=2))
        self.pressure = None
        for _ in range(2):
            self()

    def __call__(self) -> None:
        """One step."""
        solve = Solve("CG", 1e-5, 1e-5, x0=self.pressure)
        self.field, self.pressure = phiflow_step(self.field, 195.3, (CYLINDER,), solve)


class Floor:
    """The matrix products and look-ups of a step, and nothing else."""

    def __init__(self) -> None:
        rows, columns = SHAPE
        self.field = torch.randn(64, rows, columns)
        self.along_y, self.along_x = torch.randn(rows, rows), torch.randn(columns, columns)
        self.where = 2 * torch.rand(64, rows, columns, 2) - 1

    def __call__(self) -> None:
        """What 64 states take."""
        modes = self.along_y @ (self.field @ self.along_x)
        _ = self.along_y @ (modes @ self.along_x)
        for _ in range(2):
            grid_sample(self.field[:, None], self.where, padding_mode="border", align_corners=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a state and step of both sides."""
    ours = OurSide(options.batch)
    theirs = {count: PhiFlowSide(ours.state[:count]) for count in options.phiflow_batch}
    floor = Floor()
    our_times, floor_times, their_times = [], [], {count: [] for count in theirs}
    for _ in range(options.repeat):
        ours()  # PhiFlow's turn left the caches full of its own
        our_times.append(seconds(lambda: [ours() for _ in range(OUR_STEPS)]) / OUR_STEPS)
        floor()
        floor_times.append(seconds(lambda: [floor() for _ in range(40)]) / 40)
        for count, side in theirs.items():
            their_times[count].append(seconds(side))
    best = {count: 1e3 * median(times) / count for count, times in their_times.items()}
    count = min(best, key=best.__getitem__)
    milliseconds = 1e3 * median(our_times) / options.batch
    return {
        "ms_per_state": milliseconds,
        "phiflow_ms_per_state": best[count],
        "ratio": best[count] / milliseconds,
        "floor_ms_per_state": 1e3 * median(floor_times) / 64,
        "ms_per_state_slowest": 1e3 * max(our_times) / options.batch,
        "batch": options.batch,
        "phiflow_batch": count,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--batch", type=int, default=512, help="states side by side")
    parser.add_argument("--phiflow-batch", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--repeat", type=int, default=7, help="turns of both sides")
    options = parser.parse_args()
    keep_freed_memory()
    # PhiFlow's sparse matrices make torch warn of its own beta state.
    warnings.filterwarnings("ignore", category=UserWarning)
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<22} {value:.4g}")


if __name__ == "__main__":
    main()
