"""The sections of a certification."""

from __future__ import annotations

import json
from collections.abc import Sequence

from zopde.report.certification import save_certified_accuracy
from zopde.report.page import Section, drawn, picture, table, text
from zopde.studies.certificates import FILE, read_rows
from zopde.studies.certify import read_curve
from zopde.studies.report.common import again_section, asked_section, state_lead
from zopde.studies.report.runs import FoundRun
from zopde.studies.tables import CERTIFY_COLUMNS, certify_rows


def certification_report(run: FoundRun) -> tuple[str, list[Section]]:
    """(lead, sections) of one run."""
    sections = [
        asked_section(run),
        Section("Result", _result(run)),
        Section("Certified accuracy", curves_picture([run])),
        Section("Attack", _attack(run)),
        again_section(run),
    ]
    return state_lead(run) + _lead(run), sections


def curves_picture(runs: Sequence[FoundRun]) -> str:
    """Certified accuracy of some runs over the radius, as far as they are."""
    curves = [read_curve(run.root) for run in runs if _images(run)]
    if not curves:
        return ""
    return picture(
        drawn(lambda path: save_certified_accuracy(path, curves)),
        "Certified accuracy over the radius",
        "Share of the images that are answered rightly with a certificate of that radius or more.",
    )


def _images(run: FoundRun) -> int:
    path = run.root / FILE
    return len(read_rows(path)) if path.exists() else 0


def _lead(run: FoundRun) -> str:
    metrics = run.metrics
    if metrics is None:
        return ""
    return text(
        f"{metrics['data']}: {metrics['images']:,} {metrics['part']} images, noise of "
        f"{metrics['sigma']:g}, in units of the model's input, {metrics['input']}; n = "
        f"{metrics['n']:,}, each certificate wrong with probability {metrics['alpha']:g} at most. "
        f"The largest radius that allows is {metrics['largest_radius']:.4g}; the model abstained "
        f"{metrics['abstained']:,} times.",
        "lead",
    )


def _result(run: FoundRun) -> str:
    if run.metrics is None:
        return text(f"{_images(run):,} images are certified so far.")
    return table(CERTIFY_COLUMNS, certify_rows(run.metrics))


def _attack(run: FoundRun) -> str:
    path = run.root / "attack.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    return text(
        f"{found['points']:,} certified points, attacked within {found['reach']:g} times their "
        f"radius by {found['steps']} steps of projected gradient descent: {found['changed']:,} "
        f"answers changed, where alpha allows {found['expected']:.3g} inside the radius on "
        f"average; no answer at {found['no_answer']:,}."
    )
