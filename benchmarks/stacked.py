"""One CGE gradient of the quick corrector: stacked probes against one rollout at a time.

    python benchmarks/stacked.py --json

Both sides ask the same solver for the same objective at the same coordinates in the same
run. `ratio` is with PhiFlow as anybody calls it; `compiled_ratio` with zopde's recorded form
of the same PhiFlow step, where the loop no longer pays PhiFlow's Python at every call. The
loop is timed on a sample of coordinates, in turns with the stacked side, and scaled up.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch
from torch import Tensor, nn

from zopde import ConvCorrector, Normalised, UnrolledObjective, WeightOracle, Window, load_solver
from zopde.memory import keep_freed_memory


def build(compiled: bool, batch: int, unroll: int) -> tuple[nn.Module, UnrolledObjective]:
    """The quick corrector on random, smooth fields."""
    torch.manual_seed(0)
    solver = load_solver("burgers", {"compiled": compiled})
    network = Normalised(ConvCorrector(4, 2), torch.ones(2), torch.ones(2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    window = Window(
        torch.randn(batch, 2, 32, 32),
        torch.randn(batch, unroll, 2, 32, 32),
        torch.randn(batch, unroll, 2, 32, 32),
    )
    return network, UnrolledObjective(solver, window, torch.ones(2))


@torch.no_grad()
def loop(network: nn.Module, objective: UnrolledObjective, indices: Tensor, mu: float) -> Tensor:
    """Perturb one coordinate, roll out, restore: what a plain implementation does."""
    theta = nn.utils.parameters_to_vector(network.parameters())
    losses = []
    for i in indices:
        moved = theta.clone()
        moved[i] += mu
        nn.utils.vector_to_parameters(moved, network.parameters())
        losses.append(objective(network, 1)[0])
    nn.utils.vector_to_parameters(theta, network.parameters())
    return torch.stack(losses)


def measure(compiled: bool, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of both sides, and their ratio."""
    network, objective = build(compiled, options.batch, options.unroll)
    oracle = WeightOracle(network, objective, chunk=options.chunk)
    every = torch.arange(oracle.num_coordinates)
    some = every[:: max(1, len(every) // options.sample)]
    stacked_losses = oracle.coordinates(every, options.mu)  # also warms up
    difference = (loop(network, objective, some, options.mu) - stacked_losses[some]).abs().max()
    stacked_times, loop_times = [], []
    for _ in range(options.repeat):
        began = time.perf_counter()
        oracle.coordinates(every, options.mu)
        middle = time.perf_counter()
        loop(network, objective, some, options.mu)
        stacked_times.append(middle - began)
        loop_times.append((time.perf_counter() - middle) * len(every) / len(some))
    return {
        "coordinates": len(every),
        "stacked_seconds": median(stacked_times),
        "loop_seconds": median(loop_times),
        "ratio": median(loop_times) / median(stacked_times),
        "largest_difference": float(difference),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--batch", type=int, default=4, help="windows side by side")
    parser.add_argument("--unroll", type=int, default=4, help="corrected steps in the loss")
    parser.add_argument("--chunk", type=int, default=64, help="probes per pass")
    parser.add_argument("--sample", type=int, default=50, help="coordinates the loop is timed on")
    parser.add_argument("--repeat", type=int, default=3, help="turns of both sides")
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
