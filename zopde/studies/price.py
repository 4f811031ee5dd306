"""What a run will cost: a sample of its own work is timed, and scaled up. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zopde.contracts import Oracle
from zopde.oracle.state import is_due
from zopde.seeding import generator
from zopde.timing import median_seconds

_PASSES = 12  # of probes that are timed, spread over the layers
_ENOUGH = 10.0  # seconds of that
_START = 10.0  # seconds that workers take to start


@dataclass(frozen=True)
class Price:
    """What one label is expected to cost."""

    label: str  # its name; "data" for reference data that has to be made
    iterations: int  # updates of the weights
    queries: int  # evaluations of the objective; of a defence, images that the classifier sees
    seconds: float  # all of it
    solver_steps: int = 0  # in states
    seconds_per_iteration: float = 0.0  # of training alone
    seconds_per_epoch: float = 0.0  # likewise
    money: float = 0.0  # of the queries, in the currency of `classifier.price`
    certification: int = 0  # images that the classifier sees for the certificates
    # Evaluations that verify stacked probes, as many as the sample took, and look at the estimate;
    # of labels that back-propagate, solver steps that compare products and look at gradients
    checking: int = 0
    validating: int = 0  # solver steps of the validation, in the whole training
    tuning: int = 0  # solver steps that find the learning rate, with those of the validation


def seconds_of_a_probe(
    ask: Callable[[Tensor, float], Tensor], passes: list[Tensor], mu: float
) -> float:
    """Time of one probe, the mean over samples that are spread over all passes alike.

    A probe of a late layer costs a fraction of an early one's. `ask` is `coordinates` of an oracle,
    or `units`, and `passes` are the coordinates, or the units, of each pass.
    """
    ask(passes[0], mu)  # makes what all passes share
    stride = max(1, len(passes) // _PASSES)
    seconds, probes = 0.0, 0
    # Middle of the stretches first: one sample may well be all.
    for start in [*range(stride // 2, stride), *range(stride // 2)]:
        sample = torch.cat(passes[start::stride])
        began = time.perf_counter()
        ask(sample, mu).sum().item()  # a GPU has answered only now
        seconds += time.perf_counter() - began
        probes += len(sample)
        if seconds > _ENOUGH:
            break
    return seconds / probes


def seconds_of_directions(oracle: Oracle, count: int, most: int) -> float:
    """Time of `count` random directions, from at most `most` of them."""
    sample = min(count, most)
    rows = torch.randn(sample, oracle.num_coordinates, generator=generator(0, "probes"))
    return median_seconds(lambda: oracle.directions(rows, 1e-3), 1) * count / sample


def wait_for_workers(oracle: Oracle, mu: float) -> None:
    """Keep workers busy until all of them have started: one that imports slows the others."""
    began = time.monotonic()
    while time.monotonic() - began < _START:
        oracle.coordinates(torch.arange(1), mu)


def comparisons(gradients: int) -> int:
    """How often so many gradients verify their probes, the first included."""
    return sum(n == 1 or is_due(n) for n in range(1, gradients + 1))
