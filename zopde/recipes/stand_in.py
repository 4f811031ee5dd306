"""Coarse runs that stand in for reference data that nobody has made yet."""

from __future__ import annotations

from dataclasses import replace

from zopde.data import Trajectories, simulate
from zopde.protocols import ReferenceSolver
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.costs import median_seconds
from zopde.seeding import generator

_SAMPLE_STEPS = 4


def stand_in_runs(
    config: CorrectionConfig, solver: ReferenceSolver, count: int, kept: int, seconds: float
) -> Trajectories:
    """Coarse runs as long as the data's, or as time allows; their last steps.

    How far a step reaches depends on how fast the flow is, so they must not end at the start.

    Args:
        config: The run that is planned.
        solver: The coarse solver.
        count: Runs.
        kept: Steps at their end that are kept.
        seconds: What they may take, about.
    """
    wanted = config.data.skip + config.data.steps - kept

    def run(skip: int, steps: int) -> Trajectories:
        draw = generator(config.data.seed, "data")
        return simulate(solver, lambda u: u, solver.grid, count, skip, steps, draw, config.dtype)

    each = median_seconds(lambda: run(0, _SAMPLE_STEPS)) / _SAMPLE_STEPS
    skip = max(2, min(wanted, int(seconds / each)))
    return replace(run(skip, kept), settings={"skip": skip})
