"""Correct a coarse solver, and compare what different gradients make of it.

    python examples/02_burgers.py

Forced Burgers flow by PhiFlow on 16 x 16 cells, corrected towards 64 x 64 by a network of 1,026
weights. SRC: not corrected. NON: trained on stored data, one step at a time. ZO-interface: goes
on from NON through eight steps of the solver, whose derivative comes from queries. SOL: likewise
through a differentiable twin, which a black box does not have. `zopde correct burgers` is this in
earnest, with more labels and a folder of results.
"""

from __future__ import annotations

from copy import deepcopy

import torch

from zopde import (
    ColouredPullback,
    ConvCorrector,
    CorrectedSolver,
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
    simulate,
)
from zopde.interface import measure_radius

STEPS, UNROLL, SEEN = 80, 8, 6


def reference(solver: Solver, seed: int) -> Trajectories:
    """Nine runs on the fine grid, brought to the coarse one."""
    draw = torch.Generator().manual_seed(seed)
    fine = load_solver("burgers").at((64, 64))
    return simulate(fine, lambda u: downsample(u, (16, 16)), solver.grid, 9, 30, STEPS, draw)


def train(
    network: Normalised, solver: Solver, data: Trajectories, unroll: int, iterations: int, lr: float
) -> None:
    """Follow the reference for `unroll` steps at a time, in all runs that may be seen."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for iteration in range(iterations):
        start = (7 * iteration) % (STEPS - unroll)
        window = Window(
            stepped=None,
            targets=data.states[:SEEN, start + 1 : start + 1 + unroll],
            forcing=data.forcing[:SEEN, start : start + unroll],
            initial=data.states[:SEEN, start],
        )
        objective = UnrolledObjective(solver, window, data.state_scale())
        optimizer.zero_grad()
        objective(network)[0].backward()
        optimizer.step()


def error(solver: Solver, data: Trajectories) -> float:
    """Mean absolute error over the runs that were not seen."""
    unseen, forcing = data.states[SEEN:], data.forcing[SEEN:]
    predicted = rollout(solver, unseen[:, 0], STEPS, lambda t: forcing[:, t])
    return float(rollout_error(predicted, unseen).mae.mean())


def main() -> dict[str, float]:
    """Train three correctors, judge on three other runs."""
    torch.manual_seed(0)
    solver = load_solver("burgers").at((16, 16))
    data = reference(solver, seed=0)
    errors = {"SRC": error(solver, data)}
    start = Normalised(ConvCorrector(4, 2), data.state_scale(), data.forcing_scale())
    train(start, solver, data, unroll=1, iterations=300, lr=1e-2)
    errors["NON"] = error(CorrectedSolver(solver, start), data)
    reach = measure_radius(solver, data.states[:SEEN, -1], data.forcing[:SEEN, -1])
    ways = {
        "ZO-interface": InterfaceSolver(solver, ColouredPullback(solver.grid, reach)),
        "SOL": solver.differentiable_twin(),
    }
    for label, way in ways.items():
        network = deepcopy(start)
        train(network, way, data, UNROLL, iterations=60, lr=2e-3)
        errors[label] = error(CorrectedSolver(solver, network), data)
    return errors


if __name__ == "__main__":
    for label, value in main().items():
        print(f"{label:<12} mean absolute error {value:.4f}")
