"""One gradient of the published corrector: what each cut asks the solver for, and how well.

    python benchmarks/cuts.py --json
    python benchmarks/cuts.py --solver wake --batch 4 --snapshots 6

Burgers at 32 x 32, the residual corrector of 261,154 weights, 16 unrolled steps, on data like the
quick preset's (10 runs of 200 steps of a 128 x 128 reference, of which the gradient's windows and
the bank's snapshots are part). The corrector is first trained a little on single steps: untrained,
its last layer is zero and no other has a gradient. `cosine` and `error` compare a gradient with
autograd through PhiFlow (SOL); `solver_calls_per_state_step` counts solver steps per state and
unrolled step in the backward pass, `setup_solver_steps` what was asked once, before. The weight
cut is not run: its line is what DeepZero's 90 % sparse estimate would ask, one rollout for every
active weight. The wake (64 x 32, of a 128 x 64 reference, six Reynolds numbers) is not local: there
is no coloured line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from zopde import (
    BankPullback,
    ColouredPullback,
    CorrectedPullback,
    DensePullback,
    InterfaceSolver,
    Normalised,
    ResidualCorrector,
    Solver,
    UnrolledObjective,
    Window,
    downsample,
    load_solver,
    simulate,
)
from zopde.blackbox import BlackBox, CountedSolver
from zopde.interface import (
    LOOKUPS,
    Bank,
    JacobianStore,
    Key,
    Probing,
    Step,
    coloured_for,
    farthest_points,
)
from zopde.memory import keep_freed_memory

STEPS = 200


@dataclass(frozen=True)
class Flow:
    """What a gradient is taken of."""

    coarse: tuple[int, int]
    fine: tuple[int, int]
    runs: int
    skip: int
    padding: str


FLOWS = {
    "burgers": Flow((32, 32), (128, 128), 10, 30, "periodic"),
    "wake": Flow((64, 32), (128, 64), 6, 300, "zero"),
}


class Case:
    """Corrector, solver, reference data, and the gradient that all others are compared with."""

    def __init__(self, options: argparse.Namespace) -> None:
        flow = FLOWS[options.solver]
        solver, draw = load_solver(options.solver), torch.Generator().manual_seed(options.seed)
        self.solver = solver.at(flow.coarse)

        def by_cells(fine: Tensor) -> Tensor:
            return downsample(fine, flow.coarse)

        self.data = simulate(
            solver.at(flow.fine),
            getattr(self.solver, "downsample", by_cells),
            self.solver.grid,
            simulations=max(flow.runs, options.batch),
            skip=flow.skip,
            steps=STEPS,
            generator=draw,
            coarse_forcing=by_cells,
        )
        self.scale, grid = self.data.state_scale(), self.solver.grid
        torch.manual_seed(options.seed)
        inputs, outputs = len(grid.channels + grid.forcing_channels), len(grid.channels)
        body = ResidualCorrector(inputs, outputs, padding=flow.padding)
        self.network = Normalised(body, self.scale, self.data.forcing_scale())
        self.weights = sum(p.numel() for p in self.network.parameters())
        self.options = options
        states, forcing = self.data.states[:, :-1].flatten(0, 1), self.data.forcing[:, :-1]
        forcing = forcing.flatten(0, 1)
        self.stored = Step(self.solver, states, forcing, self.solver.step(states, forcing))
        self.train(options.train)
        self.look(options.unroll)

    def look(self, unroll: int) -> None:
        """Take windows of so many steps, and the gradient that others are compared with."""
        self.options.unroll = unroll
        self.window = self.windows(100 + STEPS * torch.arange(self.options.batch), unroll)
        self.sol = self.gradient(self.solver.differentiable_twin())

    def windows(self, rows: Tensor, unroll: int) -> Window:
        """Stretches of the data from some of its states on."""
        run, times = (rows // STEPS)[:, None], (rows % STEPS)[:, None] + torch.arange(unroll)
        stepped = self.stored.stepped[rows]
        return Window(stepped, self.data.states[run, times + 1], self.data.forcing[run, times])

    def train(self, iterations: int) -> None:
        """NON, for a gradient in every layer."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        draw = torch.Generator().manual_seed(self.options.seed)
        for _ in range(iterations):
            window = self.windows(torch.randint(len(self.stored.state), (8,), generator=draw), 1)
            optimizer.zero_grad()
            UnrolledObjective(self.solver, window, self.scale)(self.network, 1)[0].backward()
            optimizer.step()

    def gradient(self, solver: Solver) -> Tensor:
        """Of all weights, by back-propagation through `solver` as far as it lets it pass."""
        self.network.zero_grad()
        UnrolledObjective(solver, self.window, self.scale)(self.network, 1)[0].backward()
        return torch.cat([p.grad.flatten() for p in self.network.parameters()])

    def report(self, make: Callable[[Solver], tuple[Solver, int]]) -> dict[str, Any]:
        """Cosine, solver steps and seconds of one way."""
        counter = CountedSolver(BlackBox(self.solver))
        solver, setup = make(counter)
        before, found = counter.steps, self.gradient(solver)
        per_state = self.options.batch * (self.options.unroll - 1)
        asked = (counter.steps - before) / per_state - 1
        times = []
        for _ in range(self.options.repeat):
            began = time.perf_counter()
            self.gradient(solver)
            times.append(time.perf_counter() - began)
        error = (found - self.sol).double().norm() / self.sol.double().norm()
        cosine = torch.cosine_similarity(found.double(), self.sol.double(), dim=0)
        return {
            "cosine": float(cosine),
            "error": float(error),
            "solver_calls_per_state_step": max(0.0, asked),
            "setup_solver_steps": setup,
            "seconds": median(times),
        }

    def bank(self, solver: Solver, count: int, store: JacobianStore) -> Bank:
        """Jacobians at a few stored states, some of every Reynolds number where there are any."""
        varies = self.options.solver == "wake"
        key = Key(self.scale, self.data.forcing_scale() if varies else None)
        groups = torch.arange(self.data.simulations).repeat_interleave(STEPS) if varies else None
        step = replace(self.stored, solver=solver)
        return bank_of(step, key, count, self.options.mu, store, groups)


def bank_of(
    step: Step,
    key: Key,
    count: int,
    mu: float,
    store: JacobianStore,
    groups: Tensor | None = None,
) -> Bank:
    """Jacobians at `count` of a step's states that are far apart, some of every group."""
    at = farthest_points(key(step.state, step.forcing).flatten(1), count, groups)
    bank = Bank(count, key, probing=Probing(mu), store=store)
    bank.add(Step(step.solver, step.state[at], step.forcing[at], step.stepped[at]))
    return bank


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every way, by name."""
    case, mu = Case(options), options.mu
    kept: list[Bank] = []

    def from_bank(lookup: str) -> Callable[[Solver], tuple[Solver, int]]:
        def make(counter: CountedSolver) -> tuple[Solver, int]:
            kept.append(kept[0] if kept else case.bank(counter, options.snapshots, JacobianStore()))
            setup = options.snapshots * case.stored.state[0].numel()
            return InterfaceSolver(counter, BankPullback(kept[0], lookup)), setup

        return make

    def coloured(counter: CountedSolver) -> tuple[Solver, int]:
        stored, some = case.stored, slice(0, None, 37)
        step = Step(counter, stored.state[some], stored.forcing[some], stored.stepped[some])
        return InterfaceSolver(counter, coloured_for(step, mu=mu, probes=64)), 64

    def wide(counter: CountedSolver) -> tuple[Solver, int]:
        return InterfaceSolver(counter, ColouredPullback(counter.grid, (2, 2), mu)), 0

    def random(counter: CountedSolver) -> tuple[Solver, int]:
        draw = torch.Generator().manual_seed(1)
        return InterfaceSolver(counter, CorrectedPullback(draw, 64, mu=mu)), 0

    local = options.solver == "burgers"
    ways = {
        "SOL": lambda _: (case.solver.differentiable_twin(), 0),
        "NOG": lambda counter: (counter, 0),
        **({"coloured": wide, "coloured, measured radius": coloured} if local else {}),
        **{f"bank, {name}": from_bank(name) for name in LOOKUPS},
        "random": random,
    }
    if options.dense:
        ways["dense"] = lambda counter: (InterfaceSolver(counter, DensePullback(mu)), 0)
    found = {name: case.report(make) for name, make in ways.items()}
    active = round(0.1 * case.weights)
    found["weights, 90 % sparse"] = {"solver_calls_per_state_step": active}
    best = found["coloured" if local else "bank, nearest"]
    return {
        **{key: best[key] for key in ("cosine", "solver_calls_per_state_step", "seconds")},
        "weights": case.weights,
        "cuts": found,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--solver", choices=FLOWS, default="burgers")
    parser.add_argument("--batch", type=int, default=1, help="windows side by side")
    parser.add_argument("--unroll", type=int, default=16, help="corrected steps in the loss")
    parser.add_argument("--train", type=int, default=100, help="NON iterations beforehand")
    parser.add_argument("--snapshots", type=int, default=10, help="Jacobians in the bank")
    parser.add_argument("--mu", type=float, default=1e-3, help="finite-difference step")
    parser.add_argument("--repeat", type=int, default=3, help="timed gradients")
    parser.add_argument("--seed", type=int, default=0, help="of data and weights")
    parser.add_argument("--dense", action="store_true", help="the yardstick, too: slow")
    options = parser.parse_args()
    keep_freed_memory()
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for name, figures in result["cuts"].items():
        print(name, " ".join(f"{key} {value:.6g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
