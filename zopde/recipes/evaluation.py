"""Corrected rollouts of the unseen runs, and how far off they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zopde.data import Trajectories, to_dataset
from zopde.data.store import write_netcdf
from zopde.hybrid import CorrectedSolver, rollout, rollout_error
from zopde.hybrid.metrics import RolloutError
from zopde.progress import Advance
from zopde.recipes.problem import Problem
from zopde.seeding import noise_seeds


@dataclass(frozen=True)
class Evaluation:
    """One network on all the test runs.

    Args:
        predicted: (simulation, time, channel, *space), the initial state included.
        error: Against the reference, the initial state left out.
    """

    predicted: Tensor
    error: RolloutError


def evaluate(problem: Problem, network: nn.Module | None, advance: Advance) -> Evaluation:
    """Roll every test run out, from its first reference state to its last."""
    test = problem.test
    forcing = test.forcing
    solver = problem.solver if network is None else CorrectedSolver(problem.solver, network)
    predicted = rollout(
        solver,
        test.states[:, 0],
        test.steps,
        None if forcing is None else lambda t: forcing[:, t],
        progress=advance,
        seeds=noise_seeds(0, 0, test.steps),
    )
    return Evaluation(predicted, rollout_error(predicted[:, 1:], test.states[:, 1:]))


def save_states(states: Tensor, test: Trajectories, path: Path) -> None:
    """States of the test runs, predicted or not, as NetCDF, laid out as the reference data."""
    grid = test.grid.without_forcing()
    settings = {k: test.settings[k] for k in ("skip",) if k in test.settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_netcdf(to_dataset(Trajectories(grid, states, None, settings)), path)


def summary(evaluations: list[Evaluation]) -> dict[str, Any]:
    """Errors of one label over seeds and test runs, in plain values.

    `mean` and `std` are over the test runs, each first averaged over time and seeds;
    `std_over_seeds` is of the seeds' means. A mean with a diverged run in it is None.
    """
    mae = torch.stack([e.error.mean_mae for e in evaluations]).double()
    relative = torch.stack([e.error.relative.mean(dim=1) for e in evaluations]).double()
    per_run = mae.mean(dim=0)
    return {
        "mae": {
            "mean": _finite(per_run.mean()),
            "std": _finite(per_run.std(correction=0)),
            "std_over_seeds": _finite(mae.mean(dim=1).std(correction=0)),
            "runs": [[_finite(value) for value in seed] for seed in mae],
        },
        "relative_error": {"mean": _finite(relative.mean())},
        "diverged": int(sum(int(e.error.diverged.sum()) for e in evaluations)),
    }


def error_curve(evaluations: list[Evaluation]) -> tuple[Any, Any]:
    """Mean over seeds and test runs of the MAE at each step, and its spread over the runs."""
    mae = torch.stack([e.error.mae for e in evaluations]).double().cpu().mean(dim=0)
    return mae.mean(dim=0).numpy(), mae.std(dim=0, correction=0).numpy()


def _finite(value: Tensor) -> float | None:
    return float(value) if torch.isfinite(value) else None
