"""The sections of a defence run."""

from __future__ import annotations

from zopde.report.certification import save_certified
from zopde.report.page import Section, drawn, picture, table, text
from zopde.studies.certificates import FILE, Row, read_rows
from zopde.studies.report.common import (
    again_section,
    asked_section,
    failures_section,
    kept_picture,
    losses_picture,
    ratios_section,
    state_lead,
)
from zopde.studies.report.runs import FoundRun
from zopde.studies.tables import DEFEND_COLUMNS, defend_rows

Found = dict[str, dict[int, list[Row]]]
AT = 1  # of the radii of the table, the one by which methods are ranked: the first that is not 0


def defence_report(run: FoundRun) -> tuple[str, list[Section]]:
    """(lead, sections) of one run."""
    found = _certificates(run)
    losses = losses_picture(run, "queries are images that the classifier sees.")
    sections = [
        asked_section(run),
        Section("Result", _result(run, found)),
        Section("Certified accuracy", _certified(run, found)),
        Section("Images", _images(run)),
        Section("Learning", losses),
        ratios_section(run),
        failures_section(run),
        again_section(run),
    ]
    return state_lead(run) + _lead(run), sections


def certified_picture(run: FoundRun) -> str:
    """Certified accuracy of every method over the radius."""
    return _certified(run, _certificates(run))


def _certificates(run: FoundRun) -> Found:
    """Method -> seed -> the images that were certified so far; nothing is left empty."""
    found: Found = {}
    for label in run.labels:
        for seed in run.seeds:
            path = run.of(label, seed) / FILE
            rows = read_rows(path) if path.exists() else []
            if rows:
                found.setdefault(label, {})[seed] = rows
    return found


def _lead(run: FoundRun) -> str:
    metrics = run.metrics
    if metrics is None:
        return ""
    radius = metrics["radii"][AT]
    shares = {name: metrics["certified"][name][AT]["mean"] for name in metrics["methods"]}
    best = max(shares, key=lambda name: shares[name])
    return text(
        f"{metrics['data']}: {metrics['certified_images']} test images, n = {metrics['n']:,}, "
        f"noise of {metrics['sigma']:g} of pixels in [0, 1], seeds "
        f"{', '.join(map(str, run.seeds))}; without noise the classifier is right on "
        f"{metrics['clean_accuracy']:.1f} %. Within radius {radius:g} {best} certifies most: "
        f"{shares[best]:.1f} %.",
        "lead",
    )


def _result(run: FoundRun, found: Found) -> str:
    if run.metrics is not None:
        caption = (
            "Certified accuracy [%] within radius r; costs of one seed, the mean over the seeds. A "
            "query is an image that the classifier sees in training; certificates take "
            f"{run.metrics['queries_of_certification']:,} more."
        )
        return table(DEFEND_COLUMNS, defend_rows(run.metrics), caption)
    rows = [
        [method, f"{seed}", f"{len(each)}", f"{100 * sum(r.correct for r in each) / len(each):.1f}"]
        for method, by_seed in found.items()
        for seed, each in by_seed.items()
    ]
    columns = ("method", "seed", "images so far", "certified at r = 0 [%]")
    return table(columns, rows) if rows else text("No image is certified yet.")


def _certified(run: FoundRun, found: Found) -> str:
    if not found:
        return ""
    curves = {
        method: [([r.radius for r in rows], [r.correct for r in rows]) for rows in by_seed.values()]
        for method, by_seed in found.items()
    }
    sigma = float(run.settings["defence"]["sigma"])
    return picture(
        drawn(lambda path: save_certified(path, curves, sigma)),
        "Certified accuracy of every method over the radius",
        "Mean over the seeds, as far as they are certified.",
    )


def _images(run: FoundRun) -> str:
    if run.metrics is None:
        return ""
    return kept_picture(
        run,
        "images.png",
        "Some test images: clean, noisy, and as each defence restores them",
        "Above each what the classifier takes it for, red where that is wrong.",
    )
