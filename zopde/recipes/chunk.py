"""How many probes of the weight cut share a pass, where the settings leave it open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from zopde.data import Windows
from zopde.errors import InputError
from zopde.hybrid import UnrolledObjective
from zopde.progress import Progress
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.labels import WAYS
from zopde.recipes.problem import Problem, new_corrector
from zopde.zo import WeightOracle


def with_chunk(
    config: CorrectionConfig, problem: Problem, progress: Progress, path: Path | None = None
) -> CorrectionConfig:
    """The settings with `zo.chunk` found, if it is 0 and some label needs it.

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
    if config.zo.chunk or all(WAYS[label].gradient != "zo" for label in config.run.labels):
        return config
    if path and path.exists():
        chunk = _read(path)
    else:
        before = torch.get_num_threads()
        torch.set_num_threads(config.run.threads if config.run.workers else before)
        try:
            chunk = _measure(config, problem)
        finally:
            torch.set_num_threads(before)
        progress.note(f"{chunk} probes per pass, measured; zo.chunk={chunk} repeats it")
        if path:
            path.write_text(f"{chunk}\n", encoding="utf-8")
    return replace(config, zo=replace(config.zo, chunk=chunk))


def _measure(config: CorrectionConfig, problem: Problem) -> int:
    training, seed = config.training, config.run.seeds[0]
    windows = Windows(problem.train, problem.stepped, training.unroll, training.batch, seed)
    objective = UnrolledObjective(problem.solver, windows.batch(0), problem.scale)
    return WeightOracle(new_corrector(config, problem, seed), objective).calibrate(config.zo.mu)


def _read(path: Path) -> int:
    text = path.read_text(encoding="utf-8").strip()
    if not text.isdecimal() or int(text) < 1:
        raise InputError(
            str(path), got=repr(text), expected="probes per pass", remedy="start over (--overwrite)"
        )
    return int(text)
