"""A whole run of any study: its folder, its trainings, its figures, written once for all."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from zopde.data import ImageData
from zopde.doctor import versions
from zopde.files import digest_of
from zopde.memory import keep_freed_memory
from zopde.progress import Progress, watching
from zopde.report.page import Section
from zopde.studies.budget import Budget
from zopde.studies.folder import (
    CHECKSUMS,
    METRICS,
    Job,
    RunFolder,
    check_folder,
    locked,
    open_folder,
)
from zopde.studies.price import Price
from zopde.studies.workers import Workers
from zopde.training import Fitted
from zopde.training.callbacks import Callback, Event, check_callbacks
from zopde.training.history import Row
from zopde.validate import check_folder_writable

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a run writes, who watches it, and who evaluates its probes."""

    folder: RunFolder  # the run folder
    progress: Progress  # who is watching
    pool: Executor | None = None  # worker processes; None is this process
    callbacks: Sequence[Callback] = ()  # who hears of every iteration

    def of(self, label: str, seed: int) -> Path:
        """Folder of one training: its checkpoint, history, model."""
        return self.folder.of(label, seed)

    def tell(self, event: Event) -> None:
        """Let the callbacks hear of an event."""
        for callback in self.callbacks:
            callback(event)

    def done(self, label: str, seed: int, cost: Fitted, **scores: float) -> None:
        """Say in a line that a training has ended, and let the callbacks hear of it.

        So the rows of the table appear one by one, while others are still trained.
        """
        steps = f", {cost.all_steps:,} solver steps" if cost.all_steps else ""
        reached = ", ".join(f"{of.replace('_', ' ')} {score:.4g}" for of, score in scores.items())
        self.progress.note(f"{label}, seed {seed}: {reached}{steps}, {cost.seconds:.0f} s")
        self.tell(
            Event("training", label, seed, {**vars(cost), "all_steps": cost.all_steps, **scores})
        )

    def telling(self, label: str, seed: int) -> Callable[[Fitted, Row], None] | None:
        """What `fit` calls after each iteration of a training; nothing where nobody listens."""
        if not self.callbacks:
            return None

        def tell(cost: Fitted, row: Row) -> None:
            figures = {**vars(row), "all_steps": cost.all_steps}
            self.tell(Event("iteration", label, seed, figures))

        return tell


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """What a study opens if it trains every label with every seed."""

    labels: tuple[str, ...]  # rows of the table
    seeds: tuple[int, ...]  # of the trainings
    workers: Workers = field(default_factory=Workers)  # who evaluates probes
    every_seconds: float = 30.0  # time between two checkpoints
    hours: float = 0.0  # that a start may take; 0: any
    step_limit: int = 0  # solver steps of all trainings; 0: any

    @property
    def trainings(self) -> list[tuple[str, int]]:
        """Seed by seed, so that an interrupted run compares like with like."""
        return [(label, seed) for seed in self.seeds for label in self.labels]

    @property
    def priced(self) -> Sequence[str]:
        """What a dry run prices."""
        return self.labels


def records_of(data: ImageData) -> dict[str, tuple[str, str]]:
    """The record of some images: a resumption must see the same."""
    parts = data.train, data.test
    digest = digest_of(values for part in parts for values in (part.pixels, part.labels))
    return {"data.sha256": (digest, "reference data")}


@dataclass(frozen=True)
class Table:
    """The table of a finished run, shown by the command and on its page."""

    title: str  # what it is of
    columns: Sequence[str]  # their heads
    rows: Sequence[Sequence[str]]  # as many cells each
    notes: Sequence[str] = ()  # what the table cannot say by itself, line by line
    also: Table | None = None  # the same rows in other columns


@dataclass(frozen=True)
class Page:
    """What a report shows of one run."""

    lead: str  # HTML under the heading
    sections: Sequence[Section]  # the rest
    animation: Callable[[], bytes] | None = None  # a GIF of the run, where there is one
    # (folder) -> VTK files of the unseen run that it shows, where there is one
    vtk: Callable[[Path], list[Path]] | None = None


@dataclass(frozen=True, kw_only=True)
class Study(Job):
    """What sets a job apart. All the rest of a run is `run_study`."""

    # (settings, root, progress) -> opened: data are checked, plain objects built; the settings go
    # no further. It writes nothing in the folder `root`. What it gives has `trainings`, the (label,
    # seed) of each in order; `priced`, the labels and what else a dry run prices; `workers`, who
    # evaluate probes; `records`, file name -> (digest, what it is of): a resumption must find the
    # same
    open: Callable[..., Any]
    # (opened, label, seed, place) -> what became of a training, its `cost` a `Fitted`: from scratch
    # or from a checkpoint, and judged
    train: Callable[..., Any]
    # (opened, {label: results by seed}) -> the figures of a finished run
    metrics: Callable[..., Metrics]
    # (opened, {label: results by seed}, place): the pictures of a finished run
    draw: Callable[..., None]
    table: Callable[[Mapping[str, Any]], Table]  # metrics -> the table of results
    page: Callable[[Any], Page]  # (`FoundRun`) -> the page of one run, finished or not
    # What a label has reached, for its price: what it is, and (metrics -> by label)
    reached: tuple[str, Callable[[Mapping[str, Any]], dict[str, float | None]]] | None = None
    # (`FoundRun`) -> HTML of one picture, for a page of several runs
    glimpse: Callable[[Any], str] = lambda _: ""
    # ([`FoundRun`]) -> HTML of one picture of all of them
    together: Callable[[Sequence[Any]], str] = lambda _: ""
    # Names of its embedded settings; a job without any has no dry run either
    presets: tuple[str, ...] = ()
    presets_of: Callable[[str], Sequence[str]] | None = None  # subject -> its own; None: all
    load: Callable[..., Any] | None = None  # (preset, file, changes, tables) -> settings
    # (opened, label, place) -> `Price` of one label; nothing is trained
    price: Callable[..., Price] | None = None
    price_of: str = "one seed"  # what the figures of a `Price` cover
    # What stands in for `open` in a dry run; None: `open` itself
    sample: Callable[..., Any] | None = None
    # (opened, progress) -> rows of a dry run's second table, one per cut
    more_prices: Callable[..., Sequence[Any]] | None = None
    # (opened, place, resume) -> opened, with what is found once, before any training
    begin: Callable[..., Any] = lambda opened, *_: opened
    labels_key: str = "run.methods"  # the setting that lists the rows of the table
    subject: str = ""  # the setting that the command takes as its argument, a solver or a model
    # Pattern of the files from which an interrupted run goes on
    resumes_from: str = "*/seed-*/checkpoint.pt"


# Name of a job, and command -> where its `STUDY` is
STUDIES = {
    **{
        name: f"zopde.studies.{name}.study"
        for name in ("correct", "classify", "defend", "certify", "prompt")
    },
    "compare": "zopde.studies.correct.compare.study",
}


def study_named(name: str) -> Study:
    """The study of a command, loaded when it is needed."""
    study: Study = import_module(STUDIES[name]).STUDY
    return study


def run_study(
    study: Study,
    settings: Any,  # noqa: ANN401 - of the study's class
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> Metrics:
    """Do a whole job in a folder, from the settings to `metrics.json`, whose content it returns."""
    check_callbacks(callbacks)
    keep_freed_memory()
    watcher, root = progress or watching(), Path(folder)
    with _new_folders(root):
        if not root.is_file():
            check_folder_writable("run folder", root)
        with locked(root):
            # A folder that is taken must be known now, and not after minutes of data.
            settings = check_folder(root, study, settings, resume, overwrite)
            began = time.monotonic()
            opened = study.open(settings, root, watcher)
            run = open_folder(root, study, settings, overwrite)
            goes_on = resume and any(root.glob(study.resumes_from))
            for name, (digest, what) in opened.records.items():
                if not run.check_record(name, digest, what) and goes_on:
                    watcher.note(f"{what}: not compared, {root} has no {name} of an earlier start")
            if resume and not goes_on:
                watcher.note(f"nothing to resume in {root}: starting")
            limited = opened.hours or opened.step_limit
            budget = [Budget(opened.hours, opened.step_limit, began)] if limited else []
            place = Place(run, watcher, callbacks=(*callbacks, *budget))
            return _run(study, study.begin(opened, place, resume), place)


def _run(study: Study, opened: Any, place: Place) -> Metrics:  # noqa: ANN401 - of the study's class
    run = place.folder
    # A kill between the figures and their checksums must not leave those of before.
    (run.root / CHECKSUMS).unlink(missing_ok=True)
    results: dict[str, list[Any]] = {label: [] for label, _ in opened.trainings}
    with opened.workers.pool() as pool:
        place = replace(place, pool=pool)
        for label, seed in opened.trainings:
            results[label].append(study.train(opened, label, seed, place))
    # What is needed to repeat the run elsewhere.
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    packages = versions("phiflow", "numpy", "xarray")
    metrics = {**study.metrics(opened, results), "versions": packages, "machine": machine}
    study.draw(opened, results, place)
    run.write_json(METRICS, metrics)
    run.write_checksums()
    place.tell(Event("run", figures=metrics))
    return metrics


def price_study(study: Study, opened: Any, progress: Progress) -> list[Price]:  # noqa: ANN401
    """What every label of a run will cost, after a measured sample; nothing is written."""
    assert study.price is not None
    keep_freed_memory()
    with opened.workers.pool() as pool:
        place = Place(RunFolder(Path()), progress, pool)
        with progress.stage("measuring a sample", len(opened.priced)) as advance:
            prices = []
            for label in opened.priced:
                prices.append(study.price(opened, label, place))
                advance(1, label)
    return prices


def mean_costs(
    results: Mapping[str, Sequence[Any]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Costs of one seed, the rounded mean over the seeds, by name and label."""

    def mean(name: str, of_label: Sequence[Any]) -> float:
        costs = [getattr(result.cost, name) for result in of_label]
        rounded = round(sum(costs) / len(costs), 3)
        whole = rounded == int(rounded) and isinstance(costs[0], int)
        return int(rounded) if whole else rounded

    return {
        name: {label: mean(name, of_label) for label, of_label in results.items()} for name in names
    }


def over_seeds(values: Sequence[float]) -> Metrics:
    """A figure of every seed, their mean and, where there are several, their spread."""
    spread = stdev(values) if len(values) > 1 else None
    return {"mean": fmean(values), "std": spread, "seeds": list(values)}


def stopped_early(results: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Label -> why trainings stopped early; "" where none did."""
    return {
        label: "; ".join(result.cost.stopped for result in of_label if result.cost.stopped)
        for label, of_label in results.items()
    }


def total_cost(costs: Sequence[Fitted]) -> Fitted:
    """What several stretches of one training cost together."""
    return Fitted(
        sum(cost.iterations for cost in costs),
        sum(cost.queries for cost in costs),
        sum(cost.solver_steps for cost in costs),
        sum(cost.seconds for cost in costs),
        next((cost.stopped for cost in costs if cost.stopped), ""),
        dict(sum((Counter(cost.failures) for cost in costs), Counter[str]())),
        sum(cost.skipped for cost in costs),
        dict(sum((Counter(cost.checked) for cost in costs), Counter[str]())),
        next((cost.best for cost in costs if cost.best is not None), None),
        next((cost.validation for cost in costs if cost.validation is not None), None),
        sum(cost.validating for cost in costs),
    )


@contextmanager
def _new_folders(root: Path) -> Iterator[None]:
    """Take away again the folders that a run which never began has made."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # it holds something: the run has begun
            for folder in missing:
                folder.rmdir()
