"""One page of one run, or of several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zopde.errors import InputError
from zopde.files import write_bytes
from zopde.report.page import page, write_page
from zopde.studies.report.certification import certification_report
from zopde.studies.report.classification import classification_report
from zopde.studies.report.comparison import comparison_report
from zopde.studies.report.correction import correction_report
from zopde.studies.report.defence import defence_report
from zopde.studies.report.runs import find_run
from zopde.validate import check_folder_writable

_REPORTS = {
    "classify": classification_report,
    "defend": defence_report,
    "certify": certification_report,
}


def write_report(
    runs: Sequence[Path | str], out: Path | str | None = None, animation: Path | str | None = None
) -> Path:
    """Write what run folders hold as one self-contained HTML page.

    Args:
        runs: Folders of `run_correction`, `run_classification`, `run_defence` or
            `run_certification`, finished or not; several of one kind are compared.
        out: The page; `report.html` in the first folder by default.
        animation: Also a GIF of the unseen run that the page shows, of one correction run.

    Returns:
        Where the page is.

    Raises:
        InputError: If a folder holds no run, the runs are of different kinds, or `animation` is
            asked for where there is none.
    """
    if not runs:
        raise InputError("run folders", got="none", expected="one or more")
    found = [find_run(Path(root)) for root in dict.fromkeys(map(Path, runs))]
    place = Path(out) if out is not None else found[0].root / "report.html"
    if place.is_dir():
        raise InputError("report", got=f"{place}, a folder", expected="an HTML file to write")
    for path in (place, *([Path(animation)] if animation is not None else [])):
        check_folder_writable("folder of the report", path.parent)
    gif: bytes | None = None
    if len(found) > 1:
        title = "zopde: " + ", ".join(run.name for run in found)
        lead, sections = comparison_report(found)
    else:
        run = found[0]
        subject = f" {Path(run.subject).name}" if run.subject else ""
        title = f"zopde {run.command}{subject}: {run.name}"
        if run.command == "correct":
            lead, sections, gif = correction_report(run)
        else:
            lead, sections = _REPORTS[run.command](run)
    if animation is not None:
        if gif is None:
            raise InputError(
                "animation",
                got="nothing to show in motion",
                expected="one run of `zopde correct` on a plane, with its reference.nc",
            )
        write_bytes(Path(animation), gif)
    write_page(place, page(title, lead, sections))
    return place
