"""`zopde compare`: every way of training a corrector, with the same number of solver steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zopde.progress import Progress
from zopde.studies.correct.compare import show
from zopde.studies.correct.compare.open import Compared, open_comparison
from zopde.studies.correct.compare.plan import PLAN, planned
from zopde.studies.correct.compare.settings import CompareConfig, load_comparison
from zopde.studies.correct.compare.train import train
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.open import open_correction, open_sample
from zopde.studies.correct.price import begin_sample, steps_validating
from zopde.studies.correct.price import price as price_of_label
from zopde.studies.correct.study import STUDY as CORRECTION
from zopde.studies.correct.train import begin as begin_correction
from zopde.studies.price import Price
from zopde.studies.run import Metrics, Place, run_study
from zopde.training.callbacks import Callback


def begin(opened: Compared, place: Place, resume: bool) -> Compared:
    """What a correction does once, and the iterations that the budget pays."""
    begun = planned(_same(begin_correction(opened, place, resume)), place)
    _tell(begun, place.progress)
    return begun


def sample(config: CompareConfig, root: Path, progress: Progress) -> Compared:
    """The same for a dry run, which writes nothing."""
    opened = open_comparison(config, root, progress, open_sample)
    for label, why in opened.skipped.items():
        progress.note(f"{label}: left out, {why}")
    begun = planned(_same(begin_sample(opened, progress)))
    _tell(begun, progress)
    return begun


def price(opened: Compared, name: str, place: Place) -> Price:
    """What one label will cost: all its trainings, rollouts of all looks, and what tunes them.

    The steps that tune, with one seed, have a column of their own; their seconds are in `seconds`.
    """
    if name == "data" or not LABELS[name].trained:
        return price_of_label(opened, name, place)
    plan, compare, seeds = opened.plans[name], opened.compare, len(opened.seeds)
    whole = price_of_label(opened.lasting(plan.iterations, opened.rate), name, place)
    looks = compare.looks * seeds * opened.rollout_seconds
    tries = compare.rates if compare.rates > 1 and not LABELS[name].by_residuals else 0
    more = 1 + tries * compare.share / seeds
    iterations = compare.trial_of(plan.iterations)
    validating = steps_validating(opened.lasting(iterations, opened.rate), iterations)
    tuning = tries * (plan.trial + validating)
    return replace(whole, seconds=more * whole.seconds + looks, tuning=tuning)


def _same(opened: object) -> Compared:
    assert isinstance(opened, Compared), "nothing else was begun"
    return opened


def _tell(opened: Compared, progress: Progress) -> None:
    for label, steps in opened.unpaid.items():
        progress.note(f"{label}: not trained, one iteration takes {steps:,} solver steps")


STUDY = replace(
    CORRECTION,
    name="compare",
    settings=CompareConfig,
    files=(*CORRECTION.files, PLAN, show.PICTURE, show.CURVES, *show.TABLES),
    open=partial(open_comparison, opening=open_correction),
    begin=begin,
    train=train,
    metrics=show.metrics_of,
    draw=show.draw,
    table=show.table_of,
    page=show.page_of,
    load=load_comparison,
    sample=sample,
    price=price,
    more_prices=None,
    resumes_from="**/checkpoint.pt",
)


def run_comparison(
    config: CompareConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> Metrics:
    """Train a corrector in every way with the same number of solver steps, and compare them.

    Args:
        config: From `load_comparison`.
        folder: The run folder: of a correction, and in it plan.json, comparison.png, the table as
            comparison.md and .csv, and the points of the picture as curves.csv.
        resume: Go on with an interrupted run of the same settings.
        overwrite: Delete an earlier run in `folder` first.
        progress: Who is watching; by default bars are drawn on a terminal, and lines in a notebook.
        callbacks: Who hears of each iteration, see `zopde.training.Callback`.

    Returns:
        The content of the folder's `metrics.json`: that of `run_correction`, and `budget`,
        `learning_rate`, `tuning` (solver steps), `tuning_seconds` and `unpaid` by label.

    Raises:
        InputError: On settings, data or a folder that will not do; nothing is overwritten.
        SolverError: If the solver fails.
        PausedError: If `run.hours` or `run.solver_steps` are spent; resume goes on.
    """
    return run_study(STUDY, config, folder, resume, overwrite, progress, callbacks)
