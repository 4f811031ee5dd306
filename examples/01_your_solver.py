"""Plug in a solver of your own: NumPy code that nobody can differentiate.

    python examples/01_your_solver.py

A scalar is carried around a periodic box by a known wind, with first-order upwind differences:
cheap, robust, and far too diffusive. A network of 326 weights learns to put back what the
coarse grid loses. The loss runs through four steps of the NumPy code; its gradient comes from
queries alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zopde import (
    ConvCorrector,
    CorrectedSolver,
    Grid,
    Normalised,
    OneAtATime,
    Trajectories,
    UnrolledObjective,
    WeightOracle,
    Window,
    cge,
    downsample,
    rollout,
    rollout_error,
)

WIND = (0.6, 1.0)  # cells of a 16 x 16 grid per unit of time, along y and x


class Upwind:
    """All that zopde asks of a solver: a grid, and a step from one state to the next."""

    def __init__(self, cells: int) -> None:
        self.grid = Grid(shape=(cells, cells), extent=(16.0, 16.0), dt=0.2, channels=("tracer",))

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """One state at a time, as most codes are."""
        field = state[0, 0].numpy()
        change = np.zeros_like(field)
        for axis, speed in enumerate(WIND):
            change -= speed * (field - np.roll(field, 1, axis)) / self.grid.spacing[axis]
        return torch.from_numpy(field + self.grid.dt * change)[None, None]


def reference(blobs: int, seed: int) -> Trajectories:
    """Round blobs in the wind, on a grid 4 x finer with smaller steps, brought to 16 x 16."""
    fine, coarse = Upwind(64), Upwind(16)
    y, x = np.meshgrid(fine.grid.centres(0), fine.grid.centres(1), indexing="ij")
    places = np.random.default_rng(seed).uniform(5, 11, (blobs, 2))
    states = [np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 6) for cy, cx in places]
    initial = torch.from_numpy(np.stack(states)).float()[:, None]
    steps = rollout(OneAtATime(fine), initial, 24)
    kept = downsample(steps.flatten(0, 1), (16, 16)).unflatten(0, (blobs, 25))
    return Trajectories(coarse.grid, kept)


def objective(solver: OneAtATime, data: Trajectories, start: int) -> UnrolledObjective:
    """Four corrected steps from step `start`, against the reference."""
    window = Window(
        stepped=solver.step(data.states[:, start]),
        targets=data.states[:, start + 1 : start + 5],
    )
    return UnrolledObjective(solver, window, data.state_scale())


def main() -> dict[str, float]:
    """Train on four blobs, judge on two others."""
    torch.manual_seed(0)
    solver = OneAtATime(Upwind(16))
    train, test = reference(4, seed=0), reference(2, seed=1)
    body = ConvCorrector(inputs=1, outputs=1, width=5, depth=3)
    network = Normalised(body, train.state_scale(), train.forcing_scale())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for iteration in range(40):
        loss = objective(solver, train, start=iteration % 20)
        oracle = WeightOracle(network, loss, chunk=128)
        estimate = cge(oracle, mu=1e-3)
        oracle.set_gradient(estimate.gradient)
        optimizer.step()
    errors = {}
    for name, stepper in (("SRC", solver), ("ZO-weights", CorrectedSolver(solver, network))):
        predicted = rollout(stepper, test.states[:, 0], 24)
        errors[name] = float(rollout_error(predicted, test.states).mae.mean())
    return errors


if __name__ == "__main__":
    for label, error in main().items():
        print(f"{label:<11} mean absolute error {error:.4f}")
