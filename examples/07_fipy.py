"""A FiPy model in the loop, unchanged: a finite-volume solver from the package index.

    pip install fipy && python examples/07_fipy.py

A tracer is carried and spread by FiPy's implicit solver on 15 x 15 cells, through `callable`:
thirty lines are all that is new. The reference is the same model on 45 x 45 cells. FiPy solves a
linear system per step, so that every cell answers to every other, but little to those far away:
2.6 % of a response lies beyond the neighbours, and the coloured interface is allowed that bias.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from zopde import (
    ColouredPullback,
    ConvCorrector,
    CorrectedSolver,
    Grid,
    InterfaceSolver,
    Normalised,
    Solver,
    Trajectories,
    UnrolledObjective,
    Window,
    downsample,
    load_solver,
    rollout,
    rollout_error,
)

STEPS, UNROLL = 12, 2


class Tracer:
    """The user's model, as it was before anybody thought of training through it."""

    def __init__(self, cells: int) -> None:
        import fipy

        width = 15.0 / cells
        mesh = fipy.PeriodicGrid2D(nx=cells, ny=cells, dx=width, dy=width)
        self.tracer = fipy.CellVariable(mesh=mesh)
        wind = fipy.UpwindConvectionTerm(coeff=(1.0, 0.6))
        self.equation = fipy.TransientTerm() + wind == fipy.DiffusionTerm(coeff=0.02)

    def advance(self, field: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(1, y, x) -> the same, 0.2 later."""
        self.tracer.setValue(field.ravel())
        self.equation.solve(var=self.tracer, dt=0.2)
        return np.array(self.tracer.value).reshape(field.shape)


def plugged_in(cells: int) -> Solver:
    """The model as a solver."""
    grid = Grid(shape=(cells, cells), extent=(15.0, 15.0), dt=0.2, channels=("tracer",))
    return load_solver("callable", {"grid": grid, "function": Tracer(cells).advance})


def reference(blobs: int, seed: int) -> Trajectories:
    """Round blobs, by the model on a grid 3 x finer, brought to 15 x 15."""
    fine = plugged_in(45)
    centres = torch.tensor(fine.grid.centres(0))
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    cy, cx = 5 + 5 * torch.rand(2, blobs, 1, 1, generator=torch.Generator().manual_seed(seed))
    initial = torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 6)[:, None]
    states = rollout(fine, initial, STEPS)
    kept = downsample(states.flatten(0, 1), (15, 15)).unflatten(0, states.shape[:2])
    return Trajectories(fine.grid.with_shape((15, 15)), kept)


def train(solver: Solver, data: Trajectories) -> CorrectedSolver:
    """Adam on two corrected steps, back-propagated through the model's interface by queries."""
    torch.manual_seed(0)
    body = ConvCorrector(inputs=1, outputs=1, width=5, depth=3)
    network = Normalised(body, data.state_scale(), data.forcing_scale())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    # A bias beyond this is found out; the tracer is near 1, and so mu is in its own units.
    accepted = ColouredPullback(solver.grid, radius=(1, 1), bias=0.026, scale=1.0)
    through = InterfaceSolver(solver, accepted)
    for iteration in range(30):
        first = iteration % (STEPS - UNROLL)
        targets = data.states[:, first + 1 : first + 1 + UNROLL]
        window = Window(solver.step(data.states[:, first]), targets)
        optimizer.zero_grad()
        UnrolledObjective(through, window, data.state_scale())(network, 1).sum().backward()
        optimizer.step()
    return CorrectedSolver(solver, network)


def main() -> dict[str, float]:
    """Train on two blobs, judge on another."""
    if find_spec("fipy") is None:
        print("skipped: FiPy is not installed (pip install fipy)")
        return {}
    solver, data, test = plugged_in(15), reference(2, seed=0), reference(1, seed=1)
    errors = {}
    for label, stepper in (("SRC", solver), ("ZO-interface", train(solver, data))):
        predicted = rollout(stepper, test.states[:, 0], STEPS)
        errors[label] = float(rollout_error(predicted, test.states).mae.mean())
    return errors


if __name__ == "__main__":
    for label, error in main().items():
        print(f"{label:<13} mean absolute error {error:.4f}")
