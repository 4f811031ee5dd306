"""Corrected rollouts of the unseen runs, how far off they are, and correctors as files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zopde.contracts import Domain, Solver
from zopde.data import Trajectories, save_trajectories
from zopde.hybrid import (
    ClimateError,
    CorrectedSolver,
    Loss,
    RolloutError,
    climate_error,
    rollout,
    rollout_error,
)
from zopde.hybrid.unrolled import repeated
from zopde.nets import Normalised
from zopde.nets.correctors import MESH, Inject, Padding
from zopde.nets.kinds import KINDS
from zopde.progress import Advance
from zopde.seeding import noise_seeds
from zopde.studies.correct.models import model_of
from zopde.studies.correct.network import body_of, in_precision
from zopde.studies.model_file import built, read_model, write_model
from zopde.validate import checked


@dataclass(frozen=True)
class Evaluation:
    """One network on all the test runs."""

    predicted: Tensor  # (simulation, time, channel, *space), the initial state included
    error: RolloutError  # against the reference, the initial state left out
    # Name -> (simulation,), what a loss or a metric of the user's choice says of it
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    climate: ClimateError | None = None  # of all these runs together


def evaluate(
    solver: Solver,
    test: Trajectories,
    network: nn.Module | None,
    advance: Advance | None = None,
    judges: Mapping[str, Loss] | None = None,
    every: int = 1,
) -> Evaluation:
    """Roll every test run out, from its first reference state; no network corrects nothing.

    Of the test runs there are the states that follow a correction; see `Trajectories.strided`.
    """
    forcing = test.forcing
    if network is None:
        solver = repeated(solver, every)
    else:
        solver = CorrectedSolver(solver, network, every=every)
    predicted = rollout(
        solver,
        test.states[:, 0],
        test.steps,
        None if forcing is None else lambda t: forcing[:, t],
        progress=advance,
        seeds=noise_seeds(0, 0, test.steps),
    )
    runs = predicted[:, 1:], test.states[:, 1:]
    with torch.no_grad():
        judged = {name: _said(judge, *runs, test.grid) for name, judge in (judges or {}).items()}
    error, climate = rollout_error(*runs, grid=test.grid), climate_error(*runs, test.grid)
    return Evaluation(predicted, error, judged, climate)


def _said(judge: Loss, predicted: Tensor, reference: Tensor, grid: Domain) -> Tensor:
    """What a loss says of each run; not a number where it cannot judge one that diverged."""
    try:
        return judge(predicted, reference, grid)
    except Exception:  # a user's function may raise anything
        if bool(predicted.isfinite().all()):
            raise
        return predicted.new_full((len(predicted),), math.nan)


def save_states(states: Tensor, test: Trajectories, path: Path) -> None:
    """States of the test runs, predicted or not, as NetCDF, laid out as the reference data."""
    whole: Any = test.grid
    units = {k: unit for k, unit in whole.units.items() if k not in whole.forcing_channels}
    grid = replace(whole, forcing_channels=(), units=units)
    settings = {k: v for k, v in test.settings.items() if k in ("skip", "every")}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_trajectories(Trajectories(grid, states, None, settings), path)


def summary(evaluations: list[Evaluation], grid: Domain) -> dict[str, Any]:
    """Errors of one label over seeds and test runs, in plain values.

    `mean` and `std` are over the test runs, each first averaged over time and seeds;
    `std_over_seeds` is of the seeds' means. A mean with a diverged run in it is None. That of
    `nrmse` is over the channels, too, as are those of `climate_error`, over seeds. `loss` is there
    where `training.loss` is no default, `own` where there are `run.metrics`.
    """
    mae = torch.stack([e.error.mean_mae for e in evaluations]).double()
    relative = torch.stack([e.error.over_time(e.error.relative) for e in evaluations]).double()
    per_run = mae.mean(dim=0)
    nrmse = torch.stack([e.error.nrmse for e in evaluations]).mean(dim=(0, 1))
    correlated = torch.stack([e.error.steps_correlated() for e in evaluations]).double()
    times = grid.dt * correlated.mean(dim=0)
    diverged = torch.stack([e.error.diverged for e in evaluations])
    climates = [e.climate for e in evaluations if e.climate is not None]
    judged = {
        name: finite(torch.stack([e.judged[name] for e in evaluations]).double().mean())
        for name in evaluations[0].judged
    }
    return {
        **({"loss": judged.pop("loss")} if "loss" in judged else {}),
        **({"own": judged} if judged else {}),
        "mae": {
            "mean": finite(per_run.mean()),
            "std": finite(per_run.std(correction=0)),
            "std_over_seeds": finite(mae.mean(dim=1).std(correction=0)),
            "runs": [[finite(value) for value in seed] for seed in mae],
        },
        "relative_error": {"mean": finite(relative.mean())},
        "nrmse": _of_channels(nrmse, grid),
        "climate_error": {
            name: _of_channels(torch.stack(of).mean(dim=0), grid)
            for name, of in zip(ClimateError._fields, zip(*climates, strict=True), strict=False)
        },
        "correlation_time": {"mean": float(times.mean()), "std": float(times.std(correction=0))},
        "diverged": int(diverged.sum()),
        "diverged_share": float(diverged.double().mean()),
    }


def _of_channels(errors: Tensor, grid: Domain) -> dict[str, Any]:
    """Of each channel, and their mean."""
    channels = dict(zip(grid.channels, map(finite, errors), strict=True))
    return {"mean": finite(errors.nanmean()), "channels": channels}


def error_curve(evaluations: list[Evaluation]) -> tuple[Any, Any, Any]:
    """Mean over seeds and test runs of the MAE at each step, its spread over the runs, the steps.

    Of a reference that was measured in part these are the steps, from 1, at which it was, and the
    mean is over the runs in which it was.
    """
    mae = torch.stack([e.error.mae for e in evaluations]).double().cpu().mean(dim=0)
    seen = evaluations[0].error.seen.cpu()
    steps = seen.any(dim=0).nonzero().flatten()
    mean, spread = mae.mean(dim=0), mae.std(dim=0, correction=0)
    if not bool(seen.all()):
        runs = [mae[seen[:, t], t] for t in steps]
        mean = torch.stack([run.mean() for run in runs])
        spread = torch.stack([run.std(correction=0) for run in runs])
    return mean.numpy(), spread.numpy(), steps.numpy() + 1


def finite(value: Tensor | float) -> float | None:
    """A number as JSON has it: None where it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None


def save_corrector(
    network: Normalised, kind: str, sizes: dict[str, int], spec: str, path: Path
) -> None:
    """Write weights and normalisation as safetensors, the architecture in its metadata.

    Args:
        network: What is written.
        kind: "conv", "residual", "graph", "package.module:Class" or "file.py:Class".
        sizes: Of the network.
        spec: The solver that it corrects.
        path: The file.
    """
    scale = network.output_scale
    plan = {
        "kind": kind,
        "sizes": sizes,
        "inputs": len(network.input_scale),  # of state and forcing alone
        "outputs": len(network.state_scale if scale is None else scale),
        "padding": getattr(network.body, "padding", None) if kind in KINDS else None,
        "inject": network.inject,
        "solver": spec,
        **({"every": network.every} if network.every > 1 else {}),  # else as files ever were
        **({"told": list(network.told)} if network.told else {}),
        **({"history": network.history} if network.history else {}),
    }
    write_model(path, "corrector", plan, network.state_dict())


@checked
def load_corrector(path: Path | str) -> Normalised:
    """Load the corrector of a `model.safetensors`, ready for `CorrectedSolver`.

    Args:
        path: A file that a correction run wrote; or the run's folder: then of the label that errs
            least without a gradient of the solver, first seed.

    Returns:
        The network in eval mode, with the precision it was trained in; its `inject` and `every`
        tell `CorrectedSolver` where the correction belongs, and how often.

    Raises:
        InputError: If the file is missing or no model of zopde; if it names a network of your own
            that is not found. A "file.py:Class" is looked for from the working folder.

    Example:
        >>> from zopde import CorrectedSolver, load_corrector, load_solver
        >>> def corrected(run):
        ...     network = load_corrector(run / "ZO-weights" / "seed-0" / "model.safetensors")
        ...     return CorrectedSolver(load_solver("burgers"), network)
    """
    path = model_of(Path(path)).path if Path(path).is_dir() else path
    words = {"kind": str, "padding": Padding | None, "inject": Inject | None}
    types = {"sizes": dict[str, int], "inputs": int, "outputs": int, "solver": str}
    added = {"every": int | None, "told": list[str] | None, "history": int | None}
    plan, state = read_model(path, "corrector", {**types, **words, **added})
    inject: Inject = plan["inject"] or "after"  # as every file before there was a choice

    def make() -> Normalised:
        scale = state["state_scale"]  # (channel, 1, 1): it tells the dimensions, too
        dims = scale.dim() - 1
        land, fixed = (state.get("mask"), state.get("nearest")), state.get("fixed")
        inputs = plan["inputs"] + ("mask" in state) + (0 if fixed is None else len(fixed))
        shape = (inputs, plan["outputs"], plan["padding"], plan["sizes"], dims)
        mesh = {name: state[name] for name in MESH if name in state}
        told, history = dict.fromkeys(plan["told"] or (), 0.0), plan["history"] or 0
        forcing_scale = scale.new_ones(plan["inputs"] - len(scale) * (1 + history))
        body, every = body_of(plan["kind"], *shape, mesh), plan["every"]
        what = dims, inject, *land, mesh, 1 if every is None else every, fixed, told, history
        network = Normalised(body, scale, forcing_scale, *what)
        return in_precision(network, scale.dtype)

    return built(path, make, state, plan["kind"] in KINDS)
