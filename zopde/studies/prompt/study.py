"""`zopde prompt`: a frozen model that finds what a sentence tells of, adapted by prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zopde.data import VideoData
from zopde.nets.spans import THRESHOLDS
from zopde.progress import Progress
from zopde.studies.folder import METRICS
from zopde.studies.prompt import show
from zopde.studies.prompt.labels import LABELS
from zopde.studies.prompt.open import open_prompting
from zopde.studies.prompt.price import price
from zopde.studies.prompt.settings import PRESETS, PromptConfig, load_prompting
from zopde.studies.prompt.train import MODEL, begin, train
from zopde.studies.run import Metrics, Study, run_study
from zopde.training.callbacks import Callback

STUDY = Study(
    name="prompt",
    settings=PromptConfig,
    files=(*LABELS, MODEL, "data.sha256", METRICS, *show.PICTURES, "report.html"),
    open=open_prompting,
    begin=begin,
    train=train,
    metrics=show.metrics_of,
    draw=show.draw,
    table=show.table_of,
    page=show.page_of,
    reached=(f"R@1 at {THRESHOLDS[show.RANKING]:g} [%]", show.reached),
    presets=PRESETS,
    load=load_prompting,
    price=price,
    price_of="one seed, the model in every row",
    free=("data.base", "data.other", "run.checkpoint_seconds", "run.hours"),
    by_content={"data.base": "data.sha256", "data.other": "data.sha256"},
)


def run_prompting(
    config: PromptConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    base: VideoData | None = None,
    other: VideoData | None = None,
    callbacks: Sequence[Callback] = (),
) -> Metrics:
    """Adapt a frozen model to other videos by prompts, found in every configured way.

    The `config` is from `load_prompting`; `base` are videos of your own that the model learns from,
    `other` those that the prompts adapt it to, and None reads `data.base` and `data.other`.
    The other arguments and errors are those of `run_correction`.

    Returns:
        The content of the folder's `metrics.json`: `recall` at three thresholds, `gain` as a share
        of the white box's, `queries`, `answers`, `seconds` by method, and what is needed to repeat
        the run.
    """
    study = replace(STUDY, open=partial(open_prompting, base=base, other=other))
    return run_study(study, config, folder, resume, overwrite, progress, callbacks)
