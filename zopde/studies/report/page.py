"""One page of one run, or of several runs of one kind beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from zopde.errors import InputError
from zopde.files import write_bytes
from zopde.report.curves import Paid, draw_price
from zopde.report.page import Drawn, Section, code, folded, page, table, text, write_page
from zopde.report.vtk import check_meshio
from zopde.studies.report.found import FoundRun, dotted, find_run, reproduce
from zopde.studies.run import Page, Table
from zopde.studies.settings import literal
from zopde.validate import check_folder_writable, checked


@checked
def write_report(
    runs: Sequence[Path | str],
    out: Path | str | None = None,
    animation: Path | str | None = None,
    vtk: Path | str | None = None,
) -> Path:
    """Write what run folders hold as one self-contained HTML page.

    Args:
        runs: Folders of `run_correction`, `run_classification`, `run_defence` or
            `run_certification`, finished or not; several of one kind are compared.
        out: The page; `report.html` in the first folder by default.
        animation: Also a GIF of the unseen run that the page shows, of one correction run.
        vtk: Also a folder with VTK files of that run, all its states by reference and every label:
            <label>.pvd is a series for ParaView; the folder must be new, or empty. It takes the
            extra `zopde[vtk]`.

    Returns:
        Where the page is.

    Raises:
        InputError: If a folder holds no run, the runs are of different kinds, or `animation` or
            `vtk` is asked for where there is none, or no meshio.
    """
    if not runs:
        raise InputError("run folders", got="none", expected="one or more")
    found = [find_run(Path(root)) for root in dict.fromkeys(map(Path, runs))]
    place = Path(out) if out is not None else found[0].root / "report.html"
    if place.is_dir():
        raise InputError("report", got=f"{place}, a folder", expected="an HTML file to write")
    for path in (place, *([Path(animation)] if animation is not None else [])):
        check_folder_writable("folder of the report", path.parent)
    if vtk is not None:
        check_meshio()
        _check_empty(Path(vtk))
        if len(found) > 1:
            expected = "one run of `zopde correct`"
            raise InputError("vtk", got=f"{len(found)} run folders", expected=expected)
    if len(found) > 1:
        title = "zopde: " + ", ".join(run.name for run in found)
        shown = _compared(found)
    else:
        run = found[0]
        subject = f" {Path(run.subject).name}" if run.subject else ""
        title = f"zopde {run.study.name}{subject}: {run.name}"
        shown = run.study.page(run)
    if animation is not None:
        if shown.animation is None:
            raise InputError(
                "animation",
                got="nothing to show in motion",
                expected="one run of `zopde correct` in 2 or 3 dimensions, with its reference.nc",
            )
        write_bytes(Path(animation), shown.animation())
    if vtk is not None:
        if shown.vtk is None:
            expected = "one run of `zopde correct`, with its reference.nc"
            raise InputError("vtk", got="no fields to write", expected=expected)
        shown.vtk(Path(vtk))
    write_page(place, page(title, shown.lead, shown.sections))
    return place


@checked
def draw_figures(run: Path | str) -> dict[str, Figure]:
    """Draw the pictures of a run's report as figures of matplotlib; nothing is written.

    A notebook shows them, and you may change them before you save them. The film of the report is
    none of them: `write_report(..., animation=...)` writes it.

    Args:
        run: The folder of a run, as `write_report` takes it.

    Returns:
        Name -> figure, in the order of the report; as far as the run got. Of a correction these are
        "error_over_time", "training_loss", "fields" and, where there are any, "vorticity",
        "energy_spectrum", "layer_ratios", "parameter", and "pictures/NAME" of your own
        (`run.pictures`).

    Raises:
        InputError: If the folder holds no run.
    """
    found = find_run(Path(run))
    sections = found.study.page(found).sections
    return {name: drawn.figure for section in sections for name, drawn in section.figures.items()}


def _check_empty(folder: Path) -> None:
    """Require a folder in which no file of another run can pass for one of this."""
    if (folder.is_dir() and not any(folder.iterdir())) or not folder.exists():
        return
    got = f"{folder}, which is {'not empty' if folder.is_dir() else 'a file'}"
    raise InputError("vtk", got=got, expected="a new folder, or an empty one")


def _compared(runs: Sequence[FoundRun]) -> Page:
    """The page of several runs of one command."""
    commands = sorted({run.study.name for run in runs})
    if len(commands) > 1:
        raise InputError(
            "run folders",
            got=f"runs of {' and '.join(commands)}",
            expected="runs of one command",
            remedy="make a report of each",
        )
    # By the folder's name, by its path where two have the same
    short = [run.name for run in runs]
    names = {r.name if short.count(r.name) == 1 else str(r.root): r for r in runs}
    done = {name: run for name, run in names.items() if run.metrics is not None}
    missing = ", ".join(name for name in names if name not in done)
    lead = text(f"{len(runs)} runs of zopde {commands[0]}: {', '.join(names)}.", "lead")
    if missing:
        lead += text(f"{missing}: not finished, so without figures here.", "warning")
    sections = [
        Section("What differs", _differences(names)),
        Section("Result", _result(done)),
        Section("What it cost", figures=_cost(done)),
    ]
    for name, run in names.items():
        command = folded("the command that makes it again", code(reproduce(run), command=True))
        sections.append(Section(name, run.study.glimpse(run) + command))
    return Page(lead, sections)


def _differences(names: dict[str, FoundRun]) -> str:
    settings = [dotted(run.settings) for run in names.values()]
    rows = []
    for key in dict.fromkeys(chain(*settings)):
        values = [literal(of_run[key]) if key in of_run else "-" for of_run in settings]
        if len(set(values)) > 1:
            rows.append([key, *values])
    if not rows:
        return text("No setting does: the runs are repetitions.")
    return table(("setting", *names), rows, words=True)


def _result(done: dict[str, FoundRun]) -> str:
    if not done:
        return ""
    tables = {name: run.study.table(run.metrics or {}) for name, run in done.items()}
    also = {name: shown.also for name, shown in tables.items() if shown.also}
    runs = list(done.values())
    return _joined(tables) + (_joined(also) if also else "") + runs[0].study.together(runs)


def _joined(tables: Mapping[str, Table]) -> str:
    """Tables of several runs as one."""
    columns = list(dict.fromkeys(chain(*(shown.columns for shown in tables.values()))))
    rows = []
    for name, shown in tables.items():
        for row in shown.rows:
            cells = dict(zip(shown.columns, row, strict=True))  # of one seed: no spread over seeds
            rows.append([name, *(cells.get(head, "") for head in columns)])
    return table(("run", *columns), rows)


def _cost(done: dict[str, FoundRun]) -> dict[str, Drawn]:
    """What every label of every run has reached, against its queries and seconds."""
    points, what = [], ""
    for name, run in done.items():
        if run.study.reached is None or run.metrics is None:
            continue
        what, reached = run.study.reached
        for label, mean in reached(run.metrics).items():
            queries, seconds = run.metrics["queries"][label], run.metrics["seconds"][label]
            if mean is not None and queries:
                points.append(Paid(name, label, queries, seconds, mean))
    if not points:
        return {}
    alt, caption = f"{what} against queries and seconds", "A colour per label, a mark per run; "
    return {"cost": Drawn(draw_price(points, what), alt, caption + "mean over the seeds.")}
