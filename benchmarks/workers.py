"""One gradient of the Burgers corrector: two worker processes against one.

    python benchmarks/workers.py --json

Every worker has one thread. Both pools answer the same coordinates of the same objective in
the same chunks, in turns, after a gradient to warm up (a worker imports PhiFlow and records its
step once); `speedup` is the ratio of the medians. `ceiling` is what the machine allows: each
worker makes the whole gradient for itself, at once with the others and alone, and nothing is
shared but cache and memory. `reached` is the one over the other, `serial_seconds` the same
gradient in this process with one thread. All gradients must be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import wait
from functools import cache
from statistics import median

import torch
from torch import Tensor, nn

from zopde import (
    ConvCorrector,
    ExecutorOracle,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
    WorkerPool,
    cge,
    load_solver,
)
from zopde.contracts import Oracle
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


@cache
def whole_oracle(batch: int, unroll: int, chunk: int) -> WeightOracle:
    """A worker's own copy of everything."""
    network, objective, _ = problem(batch, unroll)
    return WeightOracle(network, objective, chunk)


def whole(batch: int, unroll: int, chunk: int, mu: float) -> None:
    """A gradient that a worker makes by itself."""
    cge(whole_oracle(batch, unroll, chunk), mu=mu)


def at_once(pool: WorkerPool, options: argparse.Namespace) -> float:
    """Seconds in which every worker of a pool makes a whole gradient."""
    began = time.perf_counter()
    task = (whole, options.batch, options.unroll, options.chunk, options.mu)
    wait([pool.submit(*task) for _ in range(pool.workers)])
    return time.perf_counter() - began


def timed(oracle: Oracle, mu: float) -> tuple[float, Tensor]:
    """Seconds of a gradient, and the gradient."""
    began = time.perf_counter()
    gradient = cge(oracle, mu=mu).gradient
    return time.perf_counter() - began, gradient


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Medians with one worker, with several, in this process, and of whole gradients at once."""
    network, objective, solver = problem(options.batch, options.unroll)
    count, mu, chunk = options.workers, options.mu, options.chunk
    times: list[tuple[float, ...]] = []
    with WorkerPool(1) as single, WorkerPool(count) as several:
        oracles: list[Oracle] = [
            ExecutorOracle(network, objective, pool, chunk, kept=(solver,))
            for pool in (single, several)
        ]
        oracles.append(WeightOracle(network, objective, chunk))
        first = timed(oracles[0], mu)[1]
        for oracle in oracles[1:]:
            assert torch.equal(first, timed(oracle, mu)[1]), "the gradients differ"
        for pool in (single, several, several):
            at_once(pool, options)
        for _ in range(options.repeat):
            turn = [timed(oracle, mu)[0] for oracle in oracles]
            times.append((*turn, at_once(single, options), at_once(several, options)))
    one, many, here, alone, together = (median(column) for column in zip(*times, strict=True))
    return {
        "speedup": one / many,
        "ceiling": count * alone / together,
        "reached": one / many / (count * alone / together),
        "workers": count,
        "one_worker_seconds": one,
        "workers_seconds": many,
        "serial_seconds": here,
        "coordinates": len(first),
        "chunk": chunk,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--workers", type=int, default=2, help="processes of the larger pool")
    parser.add_argument("--batch", type=int, default=4, help="windows side by side")
    parser.add_argument("--unroll", type=int, default=4, help="corrected steps in the loss")
    parser.add_argument("--chunk", type=int, default=86, help="probes per task")
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
