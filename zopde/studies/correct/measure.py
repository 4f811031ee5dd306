"""What one gradient costs on this machine, measured.

How many probes of the weight cut share a pass, where the settings leave it open.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from zopde.errors import InputError
from zopde.files import write_text
from zopde.oracle import WeightOracle
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.studies.correct.problem import Problem, first_objective, new_corrector
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import Stage
from zopde.studies.workers import probes_per_pass, side_by_side, threads_of_a_worker
from zopde.timing import median_seconds
from zopde.training import ZerothOrder
from zopde.zo import cge

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


def with_chunk(
    config: CorrectionConfig, problem: Problem, progress: Progress, path: Path | None = None
) -> CorrectionConfig:
    """The settings with `zo.chunk` found, if it is 0.

    Measured on the first batch, with as many threads as the gradients will have. The queries
    that it takes belong to no label.

    Args:
        config: The run's settings.
        problem: Solver and data.
        progress: Is told what was found.
        path: Keeps the finding, so that a resumed run computes the same numbers; None for a
            dry run.

    Raises:
        InputError: If `path` holds something else.
    """
    if config.zo.chunk:
        return config
    if path and path.exists():
        chunk = _read(path)
    else:
        with threads_of_a_worker(config):
            chunk = _measure(config, problem)
        progress.note(f"{chunk} probes per pass, measured; zo.chunk={chunk} repeats it")
        if path:
            write_text(path, f"{chunk}\n")
    return replace(config, zo=replace(config.zo, chunk=chunk))


def _measure(config: CorrectionConfig, problem: Problem) -> int:
    seed = config.run.seeds[0]
    objective = first_objective(config, problem, problem.solver, seed)
    return WeightOracle(new_corrector(config, problem, seed), objective).calibrate(config.zo.mu)


def _read(path: Path) -> int:
    text = path.read_text(encoding="utf-8").strip()
    if not text.isdecimal() or int(text) < 1:
        raise InputError(
            str(path), got=repr(text), expected="probes per pass", remedy="start over (--overwrite)"
        )
    return int(text)
