"""The classification job: every method beside the others."""

from __future__ import annotations

import platform
import resource
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from zopde.data import ImageData, load_images
from zopde.doctor import versions
from zopde.memory import keep_freed_memory
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress, Silent
from zopde.report.classification import save_confusion, save_layer_ratios
from zopde.report.learning import CostCurve, save_learning_curves
from zopde.studies.classify.problem import Point, Problem, new_classifier, problem_of
from zopde.studies.classify.settings import METHODS, ClassificationConfig
from zopde.studies.classify.train import Trained, Trainer
from zopde.studies.folder import RunFolder, RunKind, check_run, claimed, open_run
from zopde.studies.workers import worker_pool

Metrics = dict[str, Any]
CLASSIFICATION = RunKind(
    ClassificationConfig,
    (
        *METHODS,
        "data.sha256",
        "metrics.json",
        "learning_curves.png",
        "confusion.png",
        "layer_ratios.png",
        "report.html",
    ),
)


def run_classification(
    config: ClassificationConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    images: ImageData | None = None,
) -> Metrics:
    """Train a classifier from scratch by every configured method and compare them.

    Args:
        config: From `load_classification`.
        folder: The run folder.
        resume: Go on with an interrupted run of the same settings.
        overwrite: Delete an earlier run in `folder` first.
        progress: Who is watching; nobody by default.
        images: Data of your own, for example by `Images.from_dataset`; None reads `data.path`.

    Returns:
        The content of the folder's `metrics.json`: `accuracy`, `loss`, `queries`, `seconds` and
        `confusion` by method, and what is needed to repeat the run.

    Raises:
        InputError: On settings, images or a folder that will not do; nothing is overwritten.
    """
    keep_freed_memory()
    watcher, root = progress or Silent(), Path(folder)
    new = not root.exists()
    check_run(root, config, CLASSIFICATION, resume, overwrite)
    with claimed(root, new):
        return _run(config, root, resume, overwrite, watcher, images)


def _run(
    config: ClassificationConfig,
    root: Path,
    resume: bool,
    overwrite: bool,
    watcher: Progress,
    images: ImageData | None,
) -> Metrics:
    problem = problem_of(config, images or load_images(config.data.path))
    weights = Coordinates(new_classifier(config, problem, config.run.seeds[0])).total
    run = open_run(root, config, CLASSIFICATION, resume, overwrite)
    run.check_data(problem.digest())
    if resume and not any(root.glob("*/seed-*/checkpoint.pt")):
        watcher.note(f"nothing to resume in {root}: starting")
    found: dict[str, list[Trained]] = {name: [] for name in config.run.methods}
    with worker_pool(config) as pool:
        trainer = Trainer(config, problem, run, watcher, pool)
        # Seed by seed, so that an interrupted run compares like with like.
        for seed in config.run.seeds:
            for name in config.run.methods:
                found[name].append(trainer.train(name, seed))
    metrics = _metrics(config, problem, found, weights)
    _draw(run, problem, found)
    run.write_json("metrics.json", metrics)
    return metrics


def _metrics(
    config: ClassificationConfig, problem: Problem, found: dict[str, list[Trained]], weights: int
) -> Metrics:
    first = found.get("FO")
    metrics: Metrics = {
        "methods": list(found),
        "seeds": list(config.run.seeds),
        "data": problem.data.name,
        "train_images": len(problem.data.train),
        "test_images": len(problem.data.test),
        "parameters": weights,
    }
    for name, trained in found.items():
        right = [each.verdict.accuracy for each in trained]
        gaps = [a - b.verdict.accuracy for a, b in zip(right, first or (), strict=bool(first))]
        row: Metrics = {
            "accuracy": {
                "mean": fmean(right),
                "std": stdev(right) if len(right) > 1 else None,
                "seeds": right,
            },
            "points_from_fo": fmean(gaps) if gaps else None,
            "loss": fmean(each.verdict.loss for each in trained),
            "confusion": _summed(trained).tolist(),
            # Costs are of one seed, the mean over the seeds.
            **{
                cost: round(fmean(getattr(each.cost, cost) for each in trained), 3)
                for cost in ("iterations", "queries", "seconds")
            },
            "stopped_early": "; ".join(each.cost.stopped for each in trained if each.cost.stopped),
        }
        for key, value in row.items():
            metrics.setdefault(key, {})[name] = value
    metrics["versions"] = versions()
    metrics["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
    metrics["workers"] = config.run.workers
    kib = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    metrics["peak_memory_mib"] = {"here": kib[0] // 1024, "worker": kib[1] // 1024}
    return metrics


def mean_curve(name: str, points: Sequence[Sequence[Point]]) -> CostCurve | None:
    """A method's accuracy along its training, mean over the seeds, as far as all of them got."""
    length = min((len(each) for each in points), default=0)
    if not length:
        return None
    return CostCurve(
        name,
        [points[0][i].queries for i in range(length)],
        [fmean(each[i].seconds for each in points) for i in range(length)],
        [fmean(each[i].accuracy for each in points) for i in range(length)],
    )


def _summed(trained: list[Trained]) -> Tensor:
    return torch.stack([each.verdict.confusion for each in trained]).sum(dim=0)


def _draw(run: RunFolder, problem: Problem, found: dict[str, list[Trained]]) -> None:
    drawn = {name: [each.points for each in trained] for name, trained in found.items()}
    curves = [curve for curve in map(mean_curve, drawn, drawn.values()) if curve]
    save_learning_curves(run.root / "learning_curves.png", curves)
    matrices = {name: _summed(trained) for name, trained in found.items()}
    save_confusion(run.root / "confusion.png", matrices, problem.data.classes)
    kept = {name: trained[0].ratios for name, trained in found.items()}
    shares = {
        name: {layer.name: 1 - layer.sparsity for layer in ratios.layers if layer.maskable}
        for name, ratios in kept.items()
        if ratios is not None
    }
    if shares:
        save_layer_ratios(run.root / "layer_ratios.png", shares)
