"""Where the derivative of the solver pays, for a correction after its step: NOG beside SOL.

    python benchmarks/derivative.py --json

The wake, 128 x 64 brought to 64 x 32, six Reynolds numbers seen and five unseen, the quick preset's
corrector of 3,058 weights. All start from NON, trained on single steps, and go on for the same
number of iterations: NOG, which takes the solver's Jacobian for zero, ZO-interface with a bank of
Jacobians measured once, and SOL, back-propagation through the solver's twin. The cases vary the
number of unrolled corrections, the solver steps between two corrections, and whether the loss
looks at every state or at the last one alone. `mae` is the mean absolute error of rollouts of
300 steps from unseen starts; `lookups` compares the ways of using the bank.

(With the correction before the step NOG has no gradient at all; see docs/results.md.)
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from cuts import bank_of
from torch import Tensor, nn

from zopde import (
    BankPullback,
    ConvCorrector,
    CorrectedSolver,
    InterfaceSolver,
    Normalised,
    Solver,
    UnrolledObjective,
    Window,
    downsample,
    load_solver,
    rollout,
    rollout_error,
    simulate,
)
from zopde.blackbox import BlackBox
from zopde.data import Trajectories, Windows, first_steps
from zopde.interface import LOOKUPS, Bank, JacobianStore, Key, Step
from zopde.memory import keep_freed_memory
from zopde.training import cosine

SEEN, UNSEEN, SKIP, STEPS = 6, 5, 300, 300
SNAPSHOTS, MU = 12, 1e-3


@dataclass(frozen=True)
class Case:
    """What is varied: corrections in the loss, solver steps to each, states that count."""

    unroll: int
    every: int = 1
    last_only: bool = False

    def __str__(self) -> str:
        name = f"{self.unroll} corrections, {self.every} steps each"
        return f"{name}, last state only" if self.last_only else name


CASES = (
    Case(4),
    Case(8),
    Case(16),
    Case(32),
    Case(8, every=4),
    Case(16, last_only=True),
)


class Repeated:
    """Some steps of a solver as one, the forcing held."""

    def __init__(self, solver: Solver, times: int) -> None:
        self._solver, self._times = solver, times
        self.grid = replace(solver.grid, dt=times * solver.grid.dt)

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """See `zopde.Solver.step`."""
        for _ in range(self._times):
            state = self._solver.step(state, forcing)
        return state


class LastState:
    """The mean squared error of a window's last state alone."""

    def __init__(self, solver: Solver, window: Window, scale: Tensor) -> None:
        self._solver, self._window, self._scale = solver, window, scale

    def __call__(self, network: nn.Module, num_probes: int = 1) -> Tensor:
        """One loss, all that back-propagation needs; see `zopde.contracts.Objective`."""
        assert num_probes == 1
        window, solver = self._window, CorrectedSolver(self._solver, network)
        state = window.stepped + network(window.stepped, window.forcing[:, 0])
        for k in range(1, window.targets.shape[1]):
            state = solver.step(state, window.forcing[:, k])
        error = (state - window.targets[:, -1]) / self._scale[:, None, None]
        return error.square().mean()[None]


class Study:
    """Data, and a start for every number of steps between two corrections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        wake = load_solver("wake")
        self.solver = wake.at((64, 32))
        self.reference = simulate(
            wake.at((128, 64)),
            self.solver.downsample,
            self.solver.grid,
            simulations=SEEN + UNSEEN,
            skip=SKIP,
            steps=STEPS,
            generator=torch.Generator().manual_seed(options.seed),
            coarse_forcing=lambda fine: downsample(fine, (64, 32)),
        )

    def run(self) -> list[dict[str, Any]]:
        """Every case, one row each."""
        rows, starts = [], {}
        for case in CASES:
            began = time.perf_counter()
            if case.every not in starts:
                starts[case.every] = _Start(self, case.every)
            rows.append({"case": str(case), **starts[case.every].compare(case)})
            print(f"{case}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        return rows


class _Start:
    """A solver that is corrected every so many steps, its data, its bank, and NON."""

    def __init__(self, study: Study, every: int) -> None:
        self.options = study.options
        self.solver = Repeated(study.solver, every)
        self.twin = Repeated(study.solver.differentiable_twin(), every)
        states, forcing = study.reference.states[:, ::every], study.reference.forcing[:, ::every]
        whole = Trajectories(self.solver.grid, states, forcing)
        self.seen, self.unseen = whole.take(slice(SEEN)), whole.take(slice(SEEN, None))
        self.scale = self.seen.state_scale()
        self.stepped = first_steps(self.solver, self.seen)
        torch.manual_seed(self.options.seed)
        body = ConvCorrector(3, 2, width=16, depth=3, kernel=3, padding="zero")
        self.network = Normalised(body, self.scale, self.seen.forcing_scale())
        windows = Windows(self.seen, self.stepped, 1, 16, self.options.seed)
        self._train(self.network, self.solver, windows, UnrolledObjective, self.options.non, 1e-2)
        self.bank = self._bank()

    def compare(self, case: Case) -> dict[str, Any]:
        """MAE of every way, and by how much less than NOG's that with the derivative is."""
        black_box = BlackBox(self.solver)
        ways: dict[str, Solver] = {"NOG": black_box}
        for lookup in LOOKUPS if self.options.lookups else ("nearest",):
            ways[lookup] = InterfaceSolver(black_box, BankPullback(self.bank, lookup))
        ways["SOL"] = self.twin
        loss = LastState if case.last_only else UnrolledObjective
        mae = {"NON": self._judge(self.network)}
        for name, solver in ways.items():
            network = copy.deepcopy(self.network)
            windows = Windows(self.seen, self.stepped, case.unroll, 2, self.options.seed)
            self._train(network, solver, windows, loss, self.options.iterations, 1e-3)
            mae[name] = self._judge(network)
        return {"mae": mae, "derivative_saves": 1 - mae["SOL"] / mae["NOG"]}

    def _train(
        self,
        network: nn.Module,
        solver: Solver,
        windows: Windows,
        loss: Callable[..., Any],
        iterations: int,
        lr: float,
    ) -> None:
        optimizer = torch.optim.Adam(network.parameters(), lr)
        for i in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = lr * cosine(i, iterations, warmup=10)
            optimizer.zero_grad()
            loss(solver, windows.batch(i), self.scale)(network, 1)[0].backward()
            optimizer.step()

    def _judge(self, network: nn.Module) -> float:
        forcing = self.unseen.forcing
        solver = CorrectedSolver(self.solver, network)
        start, steps = self.unseen.states[:, 0], self.unseen.steps
        found = rollout(solver, start, steps, lambda t: forcing[:, t])
        return float(rollout_error(found[:, 1:], self.unseen.states[:, 1:]).mean_mae.mean())

    def _bank(self) -> Bank:
        seen, solver = self.seen, BlackBox(self.solver)
        states, forcing = seen.states[:, :-1].flatten(0, 1), seen.forcing[:, :-1].flatten(0, 1)
        step = Step(solver, states, forcing, self.stepped.flatten(0, 1))
        key = Key(self.scale, seen.forcing_scale())
        groups = torch.arange(seen.simulations).repeat_interleave(seen.steps)
        return bank_of(step, key, SNAPSHOTS, MU, JacobianStore(), groups)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=1, help="of data, weights and order")
    parser.add_argument("--non", type=int, default=600, help="NON iterations beforehand")
    parser.add_argument("--iterations", type=int, default=200, help="of every other way")
    parser.add_argument("--lookups", action="store_true", help="every way of using the bank")
    options = parser.parse_args()
    keep_freed_memory()
    rows = Study(options).run()
    if options.json:
        print(json.dumps({"cases": rows, "threads": torch.get_num_threads()}))
        return
    for row in rows:
        figures = " ".join(f"{name} {value:.4f}" for name, value in row["mae"].items())
        print(
            f"{row['case']}: {figures}; the derivative saves {100 * row['derivative_saves']:.1f} %"
        )


if __name__ == "__main__":
    main()
