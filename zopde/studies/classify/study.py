"""`zopde classify`: image classifiers from scratch, with and without back-propagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zopde.data import ImageData
from zopde.progress import Progress
from zopde.studies.classify import show
from zopde.studies.classify.labels import LABELS
from zopde.studies.classify.open import NETWORK, open_classification
from zopde.studies.classify.price import price
from zopde.studies.classify.settings import PRESETS, ClassificationConfig, load_classification
from zopde.studies.classify.train import train
from zopde.studies.folder import METRICS
from zopde.studies.run import Metrics, Study, run_study
from zopde.training.callbacks import Callback

STUDY = Study(
    name="classify",
    settings=ClassificationConfig,
    files=(*LABELS, "data.sha256", NETWORK, METRICS, *show.PICTURES, "report.html"),
    open=open_classification,
    train=train,
    metrics=show.metrics_of,
    draw=show.draw,
    table=show.table_of,
    page=show.page_of,
    glimpse=show.glimpse,
    reached=("test accuracy [%]", show.reached),
    presets=PRESETS,
    load=load_classification,
    price=price,
    by_content={"data.path": "data.sha256", "network.kind": NETWORK},
)


def run_classification(
    config: ClassificationConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    images: ImageData | None = None,
    callbacks: Sequence[Callback] = (),
) -> Metrics:
    """Train a classifier from scratch by every configured method and compare them.

    The `config` is from `load_classification`; `images` are data of your own, for example by
    `Images.from_dataset`, and None reads `data.path`.
    The other arguments and errors are those of `run_correction`.

    Returns:
        The content of the folder's `metrics.json`: `accuracy`, `loss`, `queries`, `seconds` and
        `confusion` by method, and what is needed to repeat the run.
    """
    study = replace(STUDY, open=partial(open_classification, data=images))
    return run_study(study, config, folder, resume, overwrite, progress, callbacks)
