"""What one gradient costs on this machine, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from zopde.recipes.config import CorrectionConfig
from zopde.recipes.oracles import probes_per_pass, side_by_side, threads_of_a_worker
from zopde.recipes.train import Stage
from zopde.seeding import generator
from zopde.training import ZerothOrder
from zopde.zo import WeightOracle, cge

_SAMPLE_PROBES = 32


def cost_per_iteration(
    config: CorrectionConfig, stage: Stage, network: torch.nn.Module
) -> tuple[float, int]:
    """(seconds, queries) of one gradient, from as few probes as tell."""
    objective = stage.objective_at(0)
    if not isinstance(stage.gradient, ZerothOrder):
        return median_seconds(lambda: stage.gradient(network, objective, 0)), 1
    active = stage.gradient.masks.active
    chunk = probes_per_pass(config, active)
    oracle = WeightOracle(network, objective, chunk)
    probes = min(active, chunk, _SAMPLE_PROBES)
    indices = torch.randperm(oracle.num_coordinates, generator=generator(0, "mask"))[:probes]
    with threads_of_a_worker(config):
        base = median_seconds(oracle.base)
        probing = median_seconds(lambda: cge(oracle, indices, config.zo.mu, config.zo.scheme))
    both = 2 if config.zo.scheme == "central" else 1
    if config.zo.scheme == "forward":
        probing -= base
    seconds = base + probing * active / probes / side_by_side(config)
    return seconds, active * both + (2 - both)


def median_seconds(work: Callable[[], object], repeat: int = 3, enough: float = 2.0) -> float:
    """Median of a few calls after one to warm up; of fewer where they take long."""
    work()
    times: list[float] = []
    while len(times) < repeat and sum(times) < enough:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
