"""One CGE gradient of the quick corrector: stacked probes against one rollout at a time.

    python benchmarks/stacked.py --json

The loop is what a plain implementation does: perturb one coordinate, roll the corrected solver
out from the initial states, compare, restore. The stacked side answers the same losses of the
same objective at the same coordinates, in the same run: probes side by side, the solver's first
step, which no weight can change, made once. `ratio` is with PhiFlow as anybody calls it,
`compiled_ratio` with zopde's recorded form of the same PhiFlow step, where the loop no longer
pays PhiFlow's Python at every call. The loop is timed on a sample of the coordinates and scaled
up; the two sides take turns.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch
from torch import Tensor, nn

from zopde import (
    ConvCorrector,
    CorrectedSolver,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
    load_solver,
)
from zopde.memory import keep_freed_memory


class Case:
    """A corrector, a solver and random data."""

    def __init__(self, compiled: bool, batch: int, unroll: int) -> None:
        torch.manual_seed(0)
        self.solver = load_solver("burgers", {"compiled": compiled})
        self.network = Normalised(ConvCorrector(4, 2), torch.ones(2), torch.ones(2))
        for parameter in self.network.parameters():
            nn.init.normal_(parameter, std=0.2)
        self.initial = torch.randn(batch, 2, 32, 32)
        self.targets = torch.randn(batch, unroll, 2, 32, 32)
        self.forcing = torch.randn(batch, unroll, 2, 32, 32)
        self.total = sum(p.numel() for p in self.network.parameters())

    def stacked(self, indices: Tensor, mu: float, chunk: int) -> Tensor:
        """Losses of all probes, by zopde."""
        stepped = self.solver.step(self.initial, self.forcing[:, 0])
        window = Window(stepped, self.targets, self.forcing)
        objective = UnrolledObjective(self.solver, window, torch.ones(2))
        return WeightOracle(self.network, objective, chunk).coordinates(indices, mu)

    @torch.no_grad()
    def loop(self, indices: Tensor, mu: float) -> Tensor:
        """The same losses, one rollout at a time."""
        hybrid = CorrectedSolver(self.solver, self.network)
        theta = nn.utils.parameters_to_vector(self.network.parameters())
        losses = []
        for i in indices:
            moved = theta.clone()
            moved[i] += mu
            nn.utils.vector_to_parameters(moved, self.network.parameters())
            state, total = self.initial, torch.zeros(())
            for k in range(self.targets.shape[1]):
                state = hybrid.step(state, self.forcing[:, k])
                total = total + (state - self.targets[:, k]).square().mean()
            losses.append(total / self.targets.shape[1])
        nn.utils.vector_to_parameters(theta, self.network.parameters())
        return torch.stack(losses)


def measure(compiled: bool, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of both sides, their ratio, and how far their losses are apart."""
    case = Case(compiled, options.batch, options.unroll)
    every = torch.arange(case.total)
    some = every[:: max(1, len(every) // options.sample)]
    apart = case.stacked(every, options.mu, options.chunk)[some] - case.loop(some, options.mu)
    stacked_times, loop_times = [], []
    for _ in range(options.repeat):
        began = time.perf_counter()
        case.stacked(every, options.mu, options.chunk)
        middle = time.perf_counter()
        case.loop(some, options.mu)
        stacked_times.append(middle - began)
        loop_times.append((time.perf_counter() - middle) * len(every) / len(some))
    return {
        "coordinates": len(every),
        "stacked_seconds": median(stacked_times),
        "loop_seconds": median(loop_times),
        "ratio": median(loop_times) / median(stacked_times),
        "largest_difference": float(apart.abs().max()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--batch", type=int, default=4, help="windows side by side")
    parser.add_argument("--unroll", type=int, default=4, help="corrected steps in the loss")
    parser.add_argument("--chunk", type=int, default=513, help="probes per pass")
    parser.add_argument("--sample", type=int, default=50, help="coordinates the loop is timed on")
    parser.add_argument("--repeat", type=int, default=5, help="turns of both sides")
    parser.add_argument("--mu", type=float, default=1e-3, help="finite-difference step")
    options = parser.parse_args()
    keep_freed_memory()
    plain, compiled = measure(False, options), measure(True, options)
    result = {
        **plain,
        "compiled_stacked_seconds": compiled["stacked_seconds"],
        "compiled_loop_seconds": compiled["loop_seconds"],
        "compiled_ratio": compiled["ratio"],
        "threads": torch.get_num_threads(),
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<26} {value:.4g}")


if __name__ == "__main__":
    main()
