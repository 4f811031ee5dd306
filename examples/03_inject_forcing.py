"""Learn a source term through a solver that nobody can differentiate.

    python examples/03_inject_forcing.py

The flow loses momentum to a drag that the solver was never told about. A network of 442 weights
looks at the state and adds what is missing to the solver's forcing: u' = S(u, f + C(u, f)). Its
answer reaches the loss through the solver alone, so without the solver's derivative there is
nothing to train with. Here queries of the solver give that derivative (ZO-interface); SOL
back-propagates through a differentiable twin, which a black box does not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    load_solver,
    rollout,
    rollout_error,
)
from zopde.hybrid import InjectForcing
from zopde.interface import PullbackByVariable, measure_radius

STEPS, UNROLL = 40, 6


def drag(state: Tensor, forcing: Tensor | None) -> Tensor:
    """What the network has to find: -0.4 |u| u."""
    return -0.4 * state.norm(dim=1, keepdim=True) * state


def reference(seed: int) -> Trajectories:
    """Six flows with the drag, after 30 steps from rest."""
    solver = load_solver("burgers").at((16, 16))
    scenario = solver.scenario(6, torch.Generator().manual_seed(seed))
    forcing = torch.stack([scenario.forcing(t).float() for t in range(30 + STEPS + 1)], dim=1)
    truth = CorrectedSolver(solver, drag, InjectForcing())
    states = rollout(truth, scenario.initial, 30 + STEPS, lambda t: forcing[:, t])
    return Trajectories(solver.grid, states[:, 30:], forcing[:, 30:])


def by_queries(solver: Solver, data: Trajectories) -> InterfaceSolver:
    """The black box, with a backward pass that asks it."""
    state, forcing = data.states[:, 0], data.forcing[:, 0]
    reach = measure_radius(solver, state, forcing)
    of_state = ColouredPullback(solver.grid, reach)
    of_forcing = ColouredPullback(solver.grid, (0, 0))  # a force acts where it is
    return InterfaceSolver(solver, PullbackByVariable(of_state, of_forcing))


def train(solver: Solver, data: Trajectories) -> Normalised:
    """The same training whatever steps the states."""
    torch.manual_seed(0)
    body = ConvCorrector(inputs=4, outputs=2, width=8, depth=2)
    scales = data.state_scale(), data.forcing_scale()
    network = Normalised(body, *scales, inject="forcing")
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    for iteration in range(100):
        start = (7 * iteration) % (STEPS - UNROLL)
        window = Window(
            stepped=None,  # with a network in the forcing, the first step is not known before
            targets=data.states[:3, start + 1 : start + 1 + UNROLL],
            forcing=data.forcing[:3, start : start + UNROLL],
            initial=data.states[:3, start],
        )
        objective = UnrolledObjective(solver, window, scales[0], InjectForcing())
        optimizer.zero_grad()
        objective(network)[0].backward()
        optimizer.step()
    return network


def error(solver: Solver, data: Trajectories) -> float:
    """Mean absolute error over the runs that were not seen."""
    unseen, forcing = data.states[3:], data.forcing[3:]
    predicted = rollout(solver, unseen[:, 0], STEPS, lambda t: forcing[:, t])
    return float(rollout_error(predicted, unseen).mae.mean())


def main() -> dict[str, float]:
    """Train both ways, judge on three other flows."""
    data, solver = reference(seed=0), load_solver("burgers").at((16, 16))
    errors = {"SRC": error(solver, data)}
    ways = {"ZO-interface": by_queries(solver, data), "SOL": solver.differentiable_twin()}
    for label, way in ways.items():
        network = train(way, data)
        errors[label] = error(CorrectedSolver(solver, network), data)  # it knows its place
    return errors


if __name__ == "__main__":
    for label, value in main().items():
        print(f"{label:<12} mean absolute error {value:.4f}")
