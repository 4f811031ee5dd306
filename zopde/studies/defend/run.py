"""A whole defence run: classifier, start, methods, certificates, one folder."""

from __future__ import annotations

import platform
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, final

import torch

from zopde.blackbox import Store
from zopde.data import ImageData, load_images
from zopde.doctor import versions
from zopde.memory import keep_freed_memory
from zopde.progress import Progress, Silent
from zopde.studies.classifiers import (
    Classifier,
    ClassifierSettings,
    as_vendor,
    identity_of,
    named_classifier,
    to_device,
)
from zopde.studies.classify import run_classification
from zopde.studies.defend.blackbox import BlackBox, Ledger
from zopde.studies.defend.budget import iterations_of
from zopde.studies.defend.judge import RADII, Verdict, certify_images, clean_accuracy, draw
from zopde.studies.defend.networks import Defended, save_defended
from zopde.studies.defend.problem import Problem, problem_of
from zopde.studies.defend.settings import METHODS, DefenceConfig
from zopde.studies.defend.starts import AUTOENCODER, DENOISER
from zopde.studies.defend.train import Trained, Trainer, check_white
from zopde.studies.folder import RunFolder, RunKind, check_run, claimed, open_run

Metrics = dict[str, Any]
VENDOR = "classifier"  # folder of the one that is trained in the run
_SHOWN = ("certified_accuracy.png", "images.png", "report.html")
DEFENCE = RunKind(
    DefenceConfig,
    (*METHODS, VENDOR, DENOISER, AUTOENCODER, "data.sha256", "metrics.json", *_SHOWN),
    (
        "data.path",
        "run.checkpoint_seconds",
        "run.store",
        "run.store_gib",
        "classifier.price",
        "classifier.timeout",
        "classifier.retries",
    ),
)


def run_defence(
    config: DefenceConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    images: ImageData | None = None,
    classifier: Classifier | None = None,
) -> Metrics:
    """Make a classifier certifiably robust by every configured method and compare them.

    Args:
        config: From `load_defence`.
        folder: The run folder.
        resume: Go on with an interrupted run of the same settings.
        overwrite: Delete an earlier run in `folder` first.
        progress: Who is watching; nobody by default.
        images: Data of your own; None reads `data.path`.
        classifier: The classifier, pixels (n, channel, y, x) in [0, 1] to what
            `classifier.answers` says; None is the one that `classifier.spec` names.

    Returns:
        The content of the folder's `metrics.json`: `certified` accuracy at four radii, `queries`,
        `price`, `seconds` and so on by method, and what is needed to repeat the run.

    Raises:
        InputError: On settings, images, a classifier or a folder that will not do.
        SolverError: If the classifier fails; what was trained before is kept.
    """
    keep_freed_memory()
    watcher, root = progress or Silent(), Path(folder)
    problem = problem_of(config, images or load_images(config.data.path))
    for name in config.run.methods:
        iterations_of(problem, name)
    if config.classifier.spec and classifier is None:
        named_classifier(config.classifier, problem.scale)  # before anything is written
    new = not root.exists()
    check_run(root, config, DEFENCE, resume, overwrite)
    with claimed(root, new):
        return _Run(problem, root, watcher, classifier).all(resume, overwrite)


@final
class _Run:
    """One run in its folder."""

    def __init__(
        self, problem: Problem, root: Path, progress: Progress, given: Classifier | None
    ) -> None:
        self._problem, self._config = problem, problem.config
        self._root, self._progress, self._given = root, progress, given
        run = self._config.run
        self._store = Store(Path(run.store), run.store_gib) if run.store else None

    def all(self, resume: bool, overwrite: bool) -> Metrics:
        """Train and certify; seed by seed, so that an interrupted run compares like with like."""
        config = self._config
        run = open_run(self._root, config, DEFENCE, resume, overwrite)
        run.check_data(self._problem.digest())
        if self._given is None and not config.classifier.spec:
            trained_classifiers(config, self._problem.data, self._root, resume, self._progress)
        trainer = Trainer(self._problem, run, self._progress, self._black_box)
        found: dict[str, list[tuple[Trained, Verdict]]] = {name: [] for name in config.run.methods}
        clean = []
        for seed in config.run.seeds:
            ledger = Ledger()
            for name in config.run.methods:
                check_white(name, self._black_box(seed, ledger))
            clean.append(clean_accuracy(self._problem, self._classifier(seed)))
            for name in config.run.methods:
                trained = trainer.train(name, seed)
                found[name].append((trained, self._judge(run, name, seed, trained)))
        metrics = self._metrics(found, clean)
        first = config.run.seeds[0]
        shown = {name: each[0][0].defence for name, each in found.items()}
        verdicts = {name: [verdict for _, verdict in each] for name, each in found.items()}
        draw(self._problem, self._root, verdicts, shown, self._classifier(first), first)
        run.write_json("metrics.json", metrics)
        return metrics

    def _classifier(self, seed: int) -> Classifier:
        if self._given is not None:
            return self._given
        settings = self._config.classifier
        if not settings.spec:
            settings = ClassifierSettings(spec=str(trained_file(self._root, seed)))
        found = to_device(named_classifier(settings, self._problem.scale), self._config.run.device)
        return found if self._config.classifier.spec else as_vendor(found, self._config.classifier)

    def _black_box(self, seed: int, ledger: Ledger) -> BlackBox:
        settings = self._config.classifier
        trained = None if settings.spec or self._given else trained_file(self._root, seed)
        return BlackBox(
            self._classifier(seed),
            len(self._problem.data.classes),
            ledger,
            settings.answers,
            settings.votes,
            settings.vote_sigma,
            self._store,
            identity_of(settings, trained),
        )

    def _judge(self, run: RunFolder, name: str, seed: int, trained: Trained) -> Verdict:
        problem, config, folder = self._problem, self._config, run.of(name, seed)
        classes, classifier = len(problem.data.classes), self._classifier(seed)
        if trained.defence is not None:
            spec = config.classifier.spec
            if self._given is None and not spec:
                up = folder.relative_to(self._root).parts
                inside = trained_file(self._root, seed).relative_to(self._root)
                spec = str(Path(*[".."] * len(up)) / inside)
            path = folder / "model.safetensors"
            save_defended(trained.defence, config, problem.scale, classes, spec, path)
        whole = Defended(trained.defence, classifier, config.defence.sigma, classes).eval()
        images = problem.judged()
        with self._progress.stage(f"certify {name}, seed {seed}", len(images)) as advance:
            return certify_images(problem, images, whole, seed, folder, advance)

    def _metrics(
        self, found: dict[str, list[tuple[Trained, Verdict]]], clean: list[float]
    ) -> Metrics:
        config, problem = self._config, self._problem
        images = len(problem.judged())
        metrics: Metrics = {
            "methods": list(found),
            "seeds": list(config.run.seeds),
            "data": problem.data.name,
            "sigma": config.defence.sigma,
            "pixels": f"[0, 1], file divided by {problem.scale:g}",
            "certified_images": images,
            "n": config.certify.n,
            "alpha": config.certify.alpha,
            "radii": list(RADII),
            "clean_accuracy": fmean(clean),
            "queries_of_certification": images * (config.certify.n0 + config.certify.n),
        }
        for name, each in found.items():
            for key, value in _row(each, config.classifier.price).items():
                metrics.setdefault(key, {})[name] = value
        metrics["versions"] = versions()
        metrics["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
        return metrics


def _row(each: list[tuple[Trained, Verdict]], price: float) -> Metrics:
    """What is said of one method; costs are of one seed, the mean over the seeds."""
    certified = []
    for radius in RADII:
        shares = [verdict.share(radius) for _, verdict in each]
        spread = stdev(shares) if len(shares) > 1 else None
        certified.append({"mean": fmean(shares), "std": spread, "seeds": shares})
    costs = [trained.cost for trained, _ in each]
    queries = fmean(cost.queries for cost in costs)
    return {
        "certified": certified,
        "abstained": fmean(verdict.abstained for _, verdict in each),
        "iterations": fmean(cost.iterations for cost in costs),
        "best_iteration": [trained.best for trained, _ in each],
        "queries": queries,
        "price": price * queries,
        "seconds": round(fmean(cost.seconds for cost in costs), 3),
        "stopped_early": "; ".join(cost.stopped for cost in costs if cost.stopped),
    }


def trained_classifiers(
    config: DefenceConfig, data: ImageData, root: Path, resume: bool, progress: Progress
) -> None:
    """Train the classifier of every seed on the clean images, by back-propagation."""
    folder = root / VENDOR
    resume = resume and (folder / "config.toml").exists()
    run_classification(config.vendor(), folder, resume, False, progress, data)


def trained_file(root: Path, seed: int) -> Path:
    """Where `trained_classifiers` put that of a seed."""
    return root / VENDOR / "FO" / f"seed-{seed}" / "model.safetensors"
