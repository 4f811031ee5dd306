"""`zopde defend`: a black-box classifier, made certifiably robust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zopde.data import ImageData
from zopde.progress import Progress
from zopde.studies.certificates import RADII
from zopde.studies.classifiers import Classifier
from zopde.studies.defend import show
from zopde.studies.defend.labels import LABELS
from zopde.studies.defend.open import AUTOENCODER, CONTENT, DENOISER, open_defence
from zopde.studies.defend.price import price
from zopde.studies.defend.settings import PRESETS, DefenceConfig, load_defence
from zopde.studies.defend.train import CLASSIFIER, begin, train
from zopde.studies.folder import METRICS
from zopde.studies.run import Metrics, Study, run_study
from zopde.training.callbacks import Callback

STUDY = Study(
    name="defend",
    settings=DefenceConfig,
    files=(
        *(*LABELS, CLASSIFIER, DENOISER, AUTOENCODER, "data.sha256", CONTENT, METRICS),
        *(*show.PICTURES, "report.html"),
    ),
    open=open_defence,
    begin=begin,
    train=train,
    metrics=show.metrics_of,
    draw=show.draw,
    table=show.table_of,
    page=show.page_of,
    glimpse=show.glimpse,
    reached=(f"certified accuracy at r = {RADII[show.RANKING]:g} [%]", show.reached),
    presets=PRESETS,
    load=load_defence,
    price=price,
    price_of="one seed, the start in every row",
    free=(
        *("data.path", "run.checkpoint_seconds", "run.hours", "run.store", "run.store_gib"),
        *("classifier.price", "classifier.timeout", "classifier.retries"),
    ),
    by_content={"classifier.spec": CONTENT, "data.path": "data.sha256"},
)


def run_defence(
    config: DefenceConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    images: ImageData | None = None,
    classifier: Classifier | None = None,
    callbacks: Sequence[Callback] = (),
) -> Metrics:
    """Make a classifier certifiably robust by every configured method and compare them.

    The `config` is from `load_defence`; `images` are data of your own, and None reads `data.path`.
    A `classifier` maps pixels (n, channel, y, x) in [0, 1] to what `classifier.answers` says; None
    is the one that `classifier.spec` names. If it fails, what was trained before is kept.
    The other arguments and errors are those of `run_correction`.

    Returns:
        The content of the folder's `metrics.json`: `certified` accuracy at four radii, `queries`,
        `price`, `seconds` and so on by method, and what is needed to repeat the run.
    """
    study = replace(STUDY, open=partial(open_defence, data=images, classifier=classifier))
    return run_study(study, config, folder, resume, overwrite, progress, callbacks)
