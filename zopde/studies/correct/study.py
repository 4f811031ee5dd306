"""`zopde correct`: a corrector of a PDE solver, trained in every way and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zopde.progress import Progress
from zopde.studies.correct import page, show
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.open import open_correction, open_sample
from zopde.studies.correct.parameter import GUESS
from zopde.studies.correct.pictures import FOLDER
from zopde.studies.correct.price import begin_sample, price, price_cuts
from zopde.studies.correct.settings import PRESETS, CorrectionConfig, load_config, presets_of
from zopde.studies.correct.table import table_of
from zopde.studies.correct.train import CHUNK, REFERENCE, START, begin, train
from zopde.studies.correct.ways import WAY
from zopde.studies.folder import METRICS
from zopde.studies.run import Metrics, Study, run_study
from zopde.training.callbacks import Callback

_PICTURES = ("error_over_time.png", "fields.png", "vorticity.png", "parameter.png", FOLDER)


STUDY = Study(
    name="correct",
    settings=CorrectionConfig,
    files=(
        *(*LABELS, START, "data.sha256", "solver.digest", "imports.digest", "network.digest"),
        *(CHUNK, WAY, REFERENCE, GUESS, METRICS),
        *("error_over_time.csv", "report.html", *_PICTURES),
    ),
    open=open_correction,
    train=train,
    metrics=show.metrics_of,
    draw=show.draw,
    table=table_of,
    page=page.page_of,
    glimpse=page.glimpse,
    reached=("mean absolute error", show.reached),
    presets=PRESETS,
    presets_of=presets_of,
    load=load_config,
    sample=lambda *given: begin_sample(open_sample(*given), given[-1]),
    price=price,
    price_of="all seeds",
    more_prices=price_cuts,
    begin=begin,
    labels_key="run.labels",
    subject="solver.spec",
    free=(
        "data.path",
        "run.checkpoint_seconds",
        "run.metrics",  # rollouts are judged again by every start
        "run.pictures",  # and drawn again
        "run.hours",
        "run.solver_steps",
        "run.scratch",
        "run.failures",  # whoever was stopped by one may go on in another way
        "run.retries",
        "run.failure_limit",
        "run.timeout",
        "run.store",
        "run.store_gib",
    ),
    found={"interface.way": "auto", "corrector.kind": "auto", "corrector.sizes": {}},
    by_content={
        "solver.spec": "solver.digest",
        "data.path": "data.sha256",
        "data.coarse": "solver.digest",  # the grid is a part of it
        "corrector.kind": "network.digest",
    },
)


def run_correction(
    config: CorrectionConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> Metrics:
    """Train a corrector in every configured way and compare them on unseen runs.

    Args:
        config: From `load_config`.
        folder: The run folder; docs/tutorial.md lists its files.
        resume: Go on with an interrupted run of the same settings.
        overwrite: Delete an earlier run in `folder` first.
        progress: Who is watching; by default bars are drawn on a terminal, and lines in a notebook.
        callbacks: Who hears of each iteration, see `zopde.training.Callback`.

    Returns:
        The content of the folder's `metrics.json`: `mae`, `relative_error`, `nrmse`,
        `correlation_time`, `diverged`, `queries`, `solver_steps`, `seconds` by label, `gradient`
        (label -> mean `cosine`, `error`, `variance` of its looks), and what is needed to repeat the
        run.

    Raises:
        InputError: On settings, data or a folder that will not do; nothing is overwritten.
        SolverError: If the solver fails.
        PausedError: If `run.hours` or `run.solver_steps` are spent; resume goes on.
    """
    return run_study(STUDY, config, folder, resume, overwrite, progress, callbacks)
