"""What a step costs beyond the solver's own: a run's wrappers round a solver that does nothing.

    python benchmarks/wrappers.py --json

`bare_us`: microseconds of a step of a solver that returns its input. `wrapped_us`: the same step
as a run takes it, its noise seed handed down by an `UnrolledObjective` at every step, the states
counted, failed states stepped again, and what goes in and comes out checked
(`CountedSolver(Retrying(BlackBox(solver)))`). `over_us` is the difference. Medians over the
steps, each timed for itself; one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from zopde import Grid, Retrying, UnrolledObjective, Window
from zopde.blackbox import BlackBox, CountedSolver


class Identity:
    """Returns its input."""

    grid = Grid((32, 32), (1.0, 1.0), 0.1, ("velocity_y", "velocity_x"), ("force_y", "force_x"))

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """The state as it is."""
        del forcing
        return state


def microseconds(step: Callable[[int], Tensor], steps: int) -> float:
    """The median time of `step(k)` for k = 0, ..., steps - 1."""
    times = []
    for k in range(steps):
        began = perf_counter()
        step(k)
        times.append(perf_counter() - began)
    return 1e6 * median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=2000, help="how many are timed")
    parser.add_argument("--batch", type=int, default=4, help="states of 2 x 32 x 32 in a step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    state, forcing = torch.randn(2, options.batch, *Identity.grid.state_shape)
    bare, targets = Identity(), state[:, None].expand(-1, options.steps, -1, -1, -1)
    objective = UnrolledObjective(
        CountedSolver(Retrying(BlackBox(bare))),
        Window(None, targets, initial=state),
        torch.ones(2),
        seeds=list(range(options.steps)),
    )

    def wrapped(k: int) -> Tensor:
        return objective.solver_at(k).step(state, forcing)

    microseconds(wrapped, options.steps)  # to warm up
    found = {
        "bare_us": microseconds(lambda _: bare.step(state, forcing), options.steps),
        "wrapped_us": microseconds(wrapped, options.steps),
    }
    found["over_us"] = found["wrapped_us"] - found["bare_us"]
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name} {value:.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
