"""The main job: correct a coarse solver, every label beside the others."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zopde.blackbox import Dropping, failures_of
from zopde.contracts import Vortical
from zopde.doctor import versions
from zopde.memory import keep_freed_memory
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress, Silent
from zopde.report.curves import Curve, save_error_over_time
from zopde.report.fields import save_fields, save_vorticity
from zopde.studies.correct.cut import check_interface
from zopde.studies.correct.evaluate import Evaluation, error_curve, evaluate, save_states, summary
from zopde.studies.correct.labels import WAYS, check_labels, injection_note
from zopde.studies.correct.measure import with_chunk
from zopde.studies.correct.problem import Problem, coarse_solver, data_path, new_corrector, prepare
from zopde.studies.correct.scoring import check_score
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import Trainer, starts_from_non
from zopde.studies.folder import (
    CHUNK,
    REFERENCE,
    START,
    RunFolder,
    RunKind,
    check_run,
    claimed,
    open_run,
)
from zopde.studies.workers import check_workers, worker_pool
from zopde.training import Fitted

Metrics = dict[str, Any]
_PICTURES = ("error_over_time.png", "fields.png", "vorticity.png")
_FILES = (CHUNK, REFERENCE, "metrics.json", "error_over_time.csv", "report.html", *_PICTURES)
# What may differ between a run and its resumption without changing a single number.
_FREE = (
    "data.path",
    "run.checkpoint_seconds",
    "run.scratch",
    "run.failures",  # whoever was stopped by one may go on in another way
    "run.retries",
    "run.failure_limit",
    "run.timeout",
    "run.store",
    "run.store_gib",
)
CORRECTION = RunKind(CorrectionConfig, (*WAYS, START, "data.sha256", *_FILES), _FREE)


def run_correction(
    config: CorrectionConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Metrics:
    """Train a corrector in every configured way and compare them on unseen runs.

    Args:
        config: From `load_config`.
        folder: The run folder; see README, "What a run leaves behind".
        resume: Go on with an interrupted run of the same settings.
        overwrite: Delete an earlier run in `folder` first.
        progress: Who is watching; nobody by default.

    Returns:
        The content of the folder's `metrics.json`: `mae`, `relative_error`, `queries`,
        `solver_steps`, `seconds` by label, and what is needed to repeat the run.

    Raises:
        InputError: On settings, data or a folder that will not do; nothing is overwritten.
        SolverError: If the solver fails.
    """
    keep_freed_memory()
    watcher = progress or Silent()
    check_labels(config.run.labels)
    check_workers(config, coarse_solver(config))  # a wrong solver must not leave a folder behind
    root = Path(folder)
    new = not root.exists()
    check_run(
        root, config, CORRECTION, resume, overwrite
    )  # a full folder, not after minutes of data
    with claimed(root, new):
        return _run(config, root, resume, overwrite, watcher)


def _run(
    config: CorrectionConfig, root: Path, resume: bool, overwrite: bool, watcher: Progress
) -> Metrics:
    problem = prepare(config, data_path(config, root.parent), watcher)
    check_score(config, problem)
    check_interface(config, problem)
    new_corrector(config, problem, config.run.seeds[0])
    run = open_run(
        root, config, CORRECTION, resume, overwrite
    )  # nor must data or sizes that will not do
    run.check_data(problem.digest())
    save_states(problem.test.states, problem.test, root / REFERENCE)
    if resume and not any(root.glob("*/seed-*/checkpoint.pt")):
        watcher.note(f"nothing to resume in {root}: starting")
    if injection_note(config.corrector.inject):
        watcher.note(injection_note(config.corrector.inject))
    if any(WAYS[label].gradient == "zo" for label in config.run.labels):
        config = with_chunk(config, problem, watcher, root / CHUNK)
    labels, skipped = _possible(config, problem)
    for label, reason in skipped.items():
        watcher.note(f"{label}: left out, {reason}")
    with worker_pool(config) as pool:
        trainer = Trainer(config, problem, run, watcher, pool)
        evaluations, costs, failed = _train_all(config, problem, run, labels, trainer, watcher)
    metrics = _metrics(config, problem, evaluations, costs, skipped)
    metrics["failures"] = {label: dict(reasons) for label, reasons in failed.items() if reasons}
    _draw(config, run, problem, evaluations)
    run.write_json("metrics.json", metrics)
    return metrics


def _train_all(
    config: CorrectionConfig,
    problem: Problem,
    run: RunFolder,
    labels: list[str],
    trainer: Trainer,
    watcher: Progress,
) -> tuple[dict[str, list[Evaluation]], dict[str, list[Fitted]], dict[str, Counter[str]]]:
    evaluations: dict[str, list[Evaluation]] = {}
    costs: dict[str, list[Fitted]] = {}
    failed: dict[str, Counter[str]] = {}
    for label in labels:
        evaluations[label], costs[label], failed[label] = [], [], Counter()
        for seed in config.run.seeds if WAYS[label].gradient != "none" else (0,):
            network = None
            if WAYS[label].gradient != "none":
                network, cost = trainer.train(label, seed)
                costs[label].append(cost)
                failed[label].update(cost.failures)
            before = failures_of(problem.solver)
            with watcher.stage(f"{label}, rollouts", problem.test.steps) as advance:
                evaluation = evaluate(_bearing(config, problem), network, advance)
            failed[label].update(failures_of(problem.solver) - before)
            place = run.of(label, seed) / "rollout.nc"
            save_states(evaluation.predicted, problem.test, place)
            evaluations[label].append(evaluation)
    return evaluations, costs, failed


def _bearing(config: CorrectionConfig, problem: Problem) -> Problem:
    """For rollouts: a step that fails again and again is a rollout that diverged."""
    if config.run.failures == "raise":
        return problem
    return replace(problem, solver=Dropping(problem.solver))


def _possible(config: CorrectionConfig, problem: Problem) -> tuple[list[str], dict[str, str]]:
    skipped = {
        label: "the solver has no differentiable twin"
        for label in config.run.labels
        if WAYS[label].twin and problem.twin is None
    }
    return [label for label in config.run.labels if label not in skipped], skipped


def _metrics(
    config: CorrectionConfig,
    problem: Problem,
    evaluations: dict[str, list[Evaluation]],
    costs: dict[str, list[Fitted]],
    skipped: dict[str, str],
) -> Metrics:
    metrics: Metrics = {"labels": list(evaluations), "seeds": list(config.run.seeds)}
    for label, found in evaluations.items():
        for name, value in summary(found).items():
            metrics.setdefault(name, {})[label] = value
    source = metrics["mae"]["SRC"]["mean"]
    metrics["percent_of_src"] = {
        label: 100 * (error["mean"] / source - 1) if error["mean"] and source else None
        for label, error in metrics["mae"].items()
    }
    # Costs are of one seed, the mean over the seeds.
    for name in ("iterations", "queries", "solver_steps", "seconds"):
        metrics[name] = {
            label: _mean([getattr(cost, name) for cost in costs[label]]) for label in evaluations
        }
    metrics["init"] = {
        label: "none"
        if WAYS[label].gradient == "none"
        else ("non" if starts_from_non(config, label) else "scratch")
        for label in evaluations
    }
    stopped = {label: [c.stopped for c in costs[label] if c.stopped] for label in costs}
    metrics["stopped_early"] = {label: "; ".join(why) for label, why in stopped.items() if why}
    metrics["skipped"] = skipped
    missed = {label: sum(cost.skipped for cost in costs[label]) for label in costs}
    metrics["skipped_iterations"] = {label: n for label, n in missed.items() if n}
    metrics["inject"] = config.corrector.inject
    metrics["stored_solver_steps"] = problem.train.simulations * problem.train.steps
    metrics["steps"] = problem.test.steps
    metrics["test_runs"] = problem.test.simulations
    network = new_corrector(config, problem, config.run.seeds[0])
    metrics["parameters"] = Coordinates(network).total
    metrics["versions"] = versions("phiflow", "numpy", "xarray")
    metrics["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
    metrics["workers"] = config.run.workers
    return metrics


def _mean(values: list[float]) -> float:
    if not values:
        return 0
    mean = round(sum(values) / len(values), 3)
    return int(mean) if mean == int(mean) and isinstance(values[0], int) else mean


def _draw(
    config: CorrectionConfig,
    run: RunFolder,
    problem: Problem,
    evaluations: dict[str, list[Evaluation]],
) -> None:
    grid = problem.solver.grid
    curves = []
    for label, found in evaluations.items():
        mean, spread = error_curve(found)
        curves.append(Curve(label, mean, spread))
    columns = {"time": [grid.dt * (t + 1) for t in range(problem.test.steps)]}
    columns.update({curve.label: curve.mean.tolist() for curve in curves})
    run.write_csv("error_over_time.csv", columns)
    save_error_over_time(run.root / "error_over_time.png", curves, grid)
    last, run_shown = problem.test.steps, problem.test.simulations // 2
    shown = {"reference": problem.test.states[run_shown, -1]}
    for label in evaluations:
        shown[label] = evaluations[label][0].predicted[run_shown, -1]
    save_fields(run.root / "fields.png", shown, grid, last, run_shown)
    solver = coarse_solver(config)
    if isinstance(solver, Vortical):
        fields = {label: solver.vorticity(state[None])[0] for label, state in shown.items()}
        save_vorticity(run.root / "vorticity.png", fields, grid, last, run_shown)
