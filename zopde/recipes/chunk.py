"""How many probes of the weight cut share a pass, where the settings leave it open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zopde.errors import InputError
from zopde.progress import Progress
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.oracles import threads_of_a_worker
from zopde.recipes.problem import Problem, first_objective, new_corrector
from zopde.zo import WeightOracle


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
            path.write_text(f"{chunk}\n", encoding="utf-8")
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
