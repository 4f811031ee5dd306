"""`zopde certify`: randomized smoothing of any classifier, one line per image, then their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zopde.data import ImageData
from zopde.progress import Progress
from zopde.studies.certificates import FILE, Row, certify_images
from zopde.studies.certify import show
from zopde.studies.certify.open import DATA, MODEL, Opened, open_certification
from zopde.studies.certify.settings import CertifyConfig
from zopde.studies.folder import METRICS
from zopde.studies.run import Metrics, Place, Study, run_study
from zopde.validate import checked


def _certify(opened: Opened, label: str, seed: int, place: Place) -> list[Row]:  # noqa: ARG001
    return certify_images(
        place.folder.root / FILE,
        opened.smooth,
        [(index, int(opened.images.labels[index])) for index in opened.chosen],
        opened.inputs,
        opened.sampling,
        seed,
        place.progress,
        "certified images",
    )


STUDY = Study(
    name="certify",
    settings=CertifyConfig,
    files=(FILE, show.PICTURE, METRICS, "attack.json", "attack.tsv", DATA, MODEL, "report.html"),
    open=open_certification,
    train=_certify,
    metrics=show.metrics_of,
    draw=show.draw,
    table=show.table_of,
    page=show.page_of,
    together=show.curves_picture,
    subject="model",
    resumes_from=FILE,
    free=(),
    by_content={"data": DATA, "model": MODEL},
)


@checked
def run_certification(
    config: CertifyConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    images: ImageData | None = None,
    beside: Sequence[Path | str] = (),
    at: Sequence[float] = (),
) -> Metrics:
    """Certify a model on images, one flushed line per image in `certificates.tsv`.

    The noise of an image is a function of (seed, index), so a run that was killed and resumed
    writes the same table, its column `seconds` aside.

    `images` are data of your own, and None reads `config.data`. The curves of the runs in the
    folders `beside` are drawn in the same picture; `at` holds the radii, >= 0, of
    `certified_accuracy`: () are `config.decide`, whose radii alone can be shown where there are
    some, or `RADII`. The other arguments and errors are those of `run_correction`.

    Returns:
        The content of the folder's `metrics.json`: `certified_accuracy` at some radii with its
        band, `largest_radius`, and what is needed to repeat the run. Where radii were decided, also
        `verdicts`, how often each was given, and `answers`, what an image took; `largest_radius`
        is the largest of them then.
    """
    curves = [show.read_curve(Path(other)) for other in beside]
    study = replace(
        STUDY,
        open=partial(open_certification, data=images, at=at),
        draw=partial(show.draw, beside=curves),
    )
    return run_study(study, config, folder, resume, overwrite, progress)
