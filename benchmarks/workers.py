"""One gradient of the Burgers corrector: two worker processes against one.

    python benchmarks/workers.py --json

Every worker has one thread. Both pools answer the same coordinates of the same objective in
the same chunks, in turns, after a gradient to warm up (a worker imports PhiFlow and records its
step once); `speedup` is the ratio of the medians. `serial_seconds` is the same gradient in this
process with one thread, `efficiency` the share of a core-for-core speedup that is reached.
The gradients of all three must be the same, bit for bit.
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
    ExecutorOracle,
    Normalised,
    Oracle,
    UnrolledObjective,
    WeightOracle,
    Window,
    WorkerPool,
    cge,
    load_solver,
)
from zopde.memory import keep_freed_memory


def problem(batch: int, unroll: int) -> tuple[nn.Module, UnrolledObjective, object]:
    """The corrector of 1,026 weights, its loss on random data, and the solver inside."""
    torch.manual_seed(0)
    network = Normalised(ConvCorrector(4, 2), torch.ones(2), torch.ones(2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    solver = load_solver("burgers")
    fields = torch.randn(2, batch, unroll, 2, 32, 32)
    window = Window(torch.randn(batch, 2, 32, 32), fields[0], fields[1])
    return network, UnrolledObjective(solver, window, torch.ones(2)), solver


def timed(oracle: Oracle, mu: float) -> tuple[float, Tensor]:
    """Seconds of a gradient, and the gradient."""
    began = time.perf_counter()
    gradient = cge(oracle, mu=mu).gradient
    return time.perf_counter() - began, gradient


def turns(oracles: list[Oracle], mu: float, repeat: int) -> list[float]:
    """Median seconds of each oracle; they take turns."""
    times: list[list[float]] = [[] for _ in oracles]
    first = timed(oracles[0], mu)[1]
    for oracle in oracles[1:]:
        assert torch.equal(first, timed(oracle, mu)[1]), "the gradients differ"
    for _ in range(repeat):
        for oracle, kept in zip(oracles, times, strict=True):
            kept.append(timed(oracle, mu)[0])
    return [median(kept) for kept in times]


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds with one worker, with several, and in this process."""
    network, objective, solver = problem(options.batch, options.unroll)
    count = options.workers

    def on(pool: WorkerPool) -> ExecutorOracle:
        return ExecutorOracle(network, objective, pool, options.chunk, kept=(solver,))

    with WorkerPool(1) as single, WorkerPool(count) as several:
        serial: Oracle = WeightOracle(network, objective, options.chunk)
        one, many, here = turns([on(single), on(several), serial], options.mu, options.repeat)
    return {
        "speedup": one / many,
        "efficiency": one / many / count,
        "workers": count,
        "one_worker_seconds": one,
        "workers_seconds": many,
        "serial_seconds": here,
        "coordinates": serial.num_coordinates,
        "chunk": options.chunk,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--workers", type=int, default=2, help="processes of the larger pool")
    parser.add_argument("--batch", type=int, default=4, help="windows side by side")
    parser.add_argument("--unroll", type=int, default=4, help="corrected steps in the loss")
    parser.add_argument("--chunk", type=int, default=128, help="probes per task")
    parser.add_argument("--repeat", type=int, default=7, help="turns")
    parser.add_argument("--mu", type=float, default=1e-3, help="finite-difference step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<20} {value:.4g}")


if __name__ == "__main__":
    main()
