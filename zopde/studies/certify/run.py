"""The certification job: one line per image, then what they add up to."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from zopde.data import ImageData
from zopde.doctor import versions
from zopde.memory import keep_freed_memory
from zopde.progress import Progress, Silent
from zopde.report.certification import Certified, save_certified_accuracy
from zopde.smoothing import CertifiedShare, certified_accuracy, largest_radius
from zopde.studies.certificates import FILE, Certificates, Row, certified, check_order, read_rows
from zopde.studies.certify.problem import Problem, problem_of
from zopde.studies.certify.settings import CertifyConfig
from zopde.studies.classifiers import ClassifierSettings, identity_of
from zopde.studies.folder import RunFolder, RunKind, check_run, claimed, open_run
from zopde.studies.settings import build, read_toml
from zopde.validate import check_not_negative

Metrics = dict[str, Any]
PICTURE = "certified_accuracy.png"
RADII = (0.0, 0.25, 0.5, 0.75)
CERTIFICATION = RunKind(
    CertifyConfig,
    (
        *(FILE, PICTURE, "metrics.json", "attack.json", "attack.tsv", "data.sha256"),
        *("model.digest", "report.html"),
    ),
    free=("data",),
)
_POINTS = 400  # of a curve


def run_certification(
    config: CertifyConfig,
    folder: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    images: ImageData | None = None,
    beside: Sequence[Path | str] = (),
    at: Sequence[float] = RADII,
) -> Metrics:
    """Certify a model on images, one flushed line per image in `certificates.tsv`.

    The noise of an image is a function of (seed, index), so a run that was killed and resumed
    writes the same table, its column `seconds` aside.

    Args:
        config: The settings.
        folder: The run folder.
        resume: Go on with an interrupted run of the same settings, model and images.
        overwrite: Delete an earlier run in `folder` first.
        progress: Who is watching; nobody by default.
        images: Data of your own; None reads `config.data`.
        beside: Run folders of other certifications, whose curves are drawn in the same picture.
        at: Radii of `certified_accuracy` in the result, >= 0.

    Returns:
        The content of the folder's `metrics.json`: `certified_accuracy` at some radii with its
        band, `largest_radius`, and what is needed to repeat the run.

    Raises:
        InputError: On settings, a model, images or a folder that will not do.
    """
    keep_freed_memory()
    watcher, root = progress or Silent(), Path(folder)
    for radius in at:
        check_not_negative("radius", radius)
    others = [read_curve(Path(other)) for other in beside]
    new = not root.exists()
    check_run(root, config, CERTIFICATION, resume, overwrite)
    with claimed(root, new):
        problem = problem_of(config, images)
        run = open_run(root, config, CERTIFICATION, resume, overwrite)
        run.check_data(problem.digest(), what="images")
        check_model(run, config)
        rows = _certify(config, problem, root / FILE, watcher)
        metrics = _metrics(config, problem, rows, at)
        curves = [_curve(root.resolve().name, config, rows), *others]
        save_certified_accuracy(root / PICTURE, curves)
        run.write_json("metrics.json", metrics)
    return metrics


def read_certification(path: Path) -> tuple[CertifyConfig, list[Row]]:
    """Settings and certificates of a run, of its folder or of the table in it.

    Raises:
        InputError: If there are none.
    """
    folder = path.parent if path.is_file() else path
    rows = read_rows(folder / FILE)
    return build(CertifyConfig, read_toml(folder / "config.toml")), rows


def read_curve(path: Path) -> Certified:
    """Certified accuracy over the radius of a run, of its folder or of the table in it.

    Raises:
        InputError: If there is no run.
    """
    root = path.parent if path.is_file() else path
    return _curve(root.resolve().name, *read_certification(root))


def check_model(run: RunFolder, config: CertifyConfig) -> None:
    """Require that the model's file is what it was when the run began."""
    found = identity_of(ClassifierSettings(spec=config.model), None)
    run.check_data(found, "model.digest", f"model {config.model}")


def _certify(config: CertifyConfig, problem: Problem, path: Path, progress: Progress) -> list[Row]:
    with closing(Certificates(path)) as table:
        check_order(path, table.rows, [(i, problem.label(i)) for i in problem.chosen])
        left = problem.chosen[len(table.rows) :]
        if table.rows and left:
            progress.note(f"{len(table.rows)} images are certified, {len(left)} are left")
        right = sum(row.correct for row in table.rows)
        with progress.stage("certified images", len(left)) as advance:
            for index in left:
                x, label = problem.inputs(index), problem.label(index)
                row = certified(problem.smooth, x, index, label, config.seed, config)
                table.add(row)
                right += row.correct
                advance(text=f"{100 * right / len(table.rows):.1f} % right")
    return table.rows


def _shares(rows: Sequence[Row], at: Sequence[float]) -> list[CertifiedShare]:
    return certified_accuracy([r.radius for r in rows], [r.correct for r in rows], at)


def _metrics(
    config: CertifyConfig, problem: Problem, rows: list[Row], at: Sequence[float]
) -> Metrics:
    found = _shares(rows, at)
    return {
        "model": config.model,
        "data": problem.name,
        "part": config.part,
        "images": len(rows),
        "sigma": config.sigma,
        "n0": config.n0,
        "n": config.n,
        "alpha": config.alpha,
        # The units of sigma and of every radius.
        "input": f"pixels of the file over {problem.scale:g}",
        "certified_accuracy": [
            {
                "radius": each.radius,
                "percent": 100 * each.share,
                "band": [100 * each.low, 100 * each.high],
            }
            for each in found
        ],
        "abstained": sum(row.prediction < 0 for row in rows),
        "mean_radius": fmean(row.radius * row.correct for row in rows),
        "largest_radius": largest_radius(config.sigma, config.n, config.alpha),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "versions": versions(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def _curve(name: str, config: CertifyConfig, rows: Sequence[Row]) -> Certified:
    most = largest_radius(config.sigma, config.n, config.alpha)
    radii = np.linspace(0, 1.001 * most or config.sigma, _POINTS)
    found = _shares(rows, radii.tolist())
    return Certified(
        f"{name}, sigma {config.sigma:g}",
        radii,
        np.array([each.share for each in found]),
        np.array([each.low for each in found]),
        np.array([each.high for each in found]),
    )
