"""The page of a correction, and what a page of several runs shows of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np

from zopde.errors import InputError
from zopde.grid import Grid
from zopde.numerals import change, measured, number
from zopde.report.curves import Curve, draw_error_over_time
from zopde.report.fields import Film, animate, draw_fields, draw_vorticity
from zopde.report.page import Drawn, Section, folded, moving, table, text
from zopde.report.panels import mid_plane, unit
from zopde.report.spectrum import (
    Spectrum,
    draw_spectra,
    energy_spectrum,
    name_of,
    vector_channels,
)
from zopde.report.vtk import save_vtk
from zopde.studies.correct.evaluate import error_curve, summary
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.parameter import parameter_drawn
from zopde.studies.correct.pictures import FOLDER, draw_own, picture_named
from zopde.studies.correct.quality import FIGURES, read_qualities
from zopde.studies.correct.quality import FILE as QUALITY
from zopde.studies.correct.rollouts import Rollouts, read_rollouts, until_measured, vorticity
from zopde.studies.correct.table import measure_heads, measures, notes_of
from zopde.studies.correct.train import START
from zopde.studies.folder import RunFolder
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import (
    cost_section,
    failures_section,
    kept_picture,
    losses_drawn,
    page_of_run,
    ratios_section,
    result_table,
    scoring_cost,
)
from zopde.studies.run import Metrics, Page

_LATE = 0.2  # share of the rollout, its end, over which a spectrum is a mean


def page_of(run: FoundRun) -> Page:
    """The page of one run, finished or not."""
    rollouts = read_rollouts(run)
    motion, gif = _motion(run, rollouts)
    learning = losses_drawn(
        run,
        "queries and seconds include those of the start.",
        lambda label, seed: _before(run, label, seed),
        [label for label in run.labels if not LABELS[label].unrolled or LABELS[label].pushed],
    )
    sections = [
        Section("Result", _result(run, rollouts)),
        _error_section(run, rollouts),
        Section("Learning", figures=learning),
        _gradient_section(run),
        motion,
        _fields_section(run, rollouts),
        _spectrum_section(rollouts),
        _parameter_section(run),
        _own_section(run, rollouts),
        ratios_section(run),
        cost_section(
            run,
            " A label that starts from NON has the cost of NON-start, too; what was asked before "
            "the first iteration, such as a bank, is in the table of results.",
            START,
        ),
        failures_section(run),
    ]
    loss = run.settings["training"].get("loss", "squares")  # earlier versions had no other
    lead = partial(_lead, rollouts.best if rollouts else None, loss)
    page = page_of_run(run, lead, sections)
    if rollouts is None:
        return page
    vtk = partial(save_vtk, states=rollouts.shown_states, grid=rollouts.grid)
    return replace(page, animation=gif, vtk=vtk)


def glimpse(run: FoundRun) -> str:
    """Error over time and, folded, the fields, for a page of several runs."""
    rollouts = read_rollouts(run)
    fields = _fields_section(run, rollouts).html
    return _error_section(run, rollouts).html + folded("fields", fields)


def _before(run: FoundRun, label: str, seed: int) -> tuple[float, float]:
    """(queries, seconds) of NON, from which a label starts, and of the layers' scores."""
    scratch = LABELS[label].always_scratch or run.settings["training"]["init"] == "scratch"
    rows = [] if scratch else run.history(START, seed)
    start = (rows[-1].queries, rows[-1].seconds) if rows else (0, 0.0)
    scoring = scoring_cost(run, label, seed)
    return start[0] + scoring[0], start[1] + scoring[1]


def _lead(label: str | None, loss: str, metrics: Metrics) -> str:
    """What the best label that a black box can have has reached."""
    if label is None:
        return ""
    mean, percent = metrics["mae"][label]["mean"], metrics["percent_of_src"][label]
    against = "" if percent is None else f" ({change(percent)} % against the uncorrected solver)"
    return (
        f"{metrics['test_runs']} unseen runs of {metrics['steps']} steps, a network of "
        f"{metrics['parameters']:,} weights, seeds {', '.join(map(str, metrics['seeds']))}. Of the "
        f"labels that need no gradient of the solver, {label} errs least: a mean absolute error "
        f"of {mean:.4g}{against}."
        + " The uncorrected solver errs less." * ((percent or 0) > 0)
        + _lead_of_loss(loss, label, metrics)
    )


def _lead_of_loss(loss: str, label: str, metrics: Metrics) -> str:
    """The loss of the run, where that is not the squared error: what `label` reached by it."""
    if loss == "squares":
        return ""
    judged = metrics.get("loss", {})
    told = {label: judged.get(label), "the uncorrected solver": judged.get("SRC")}
    has = " and ".join(f"{who} has {v:.4g}" for who, v in told.items() if v is not None)
    return f" The loss of the training is {loss}; {has or 'nobody has a finite one'}."


def _result(run: FoundRun, rollouts: Rollouts | None) -> str:
    if run.metrics is not None:
        notes = "".join(text(line, "soft") for line in notes_of(run.metrics))
        caption = (
            "MAE: mean absolute error over all steps of the unseen runs; ± runs: standard "
            "deviation over the runs; costs of one seed, the mean over the seeds."
        )
        return result_table(run, caption) + notes
    if rollouts is None:
        return text("No rollout of an unseen run yet.")
    rows = []
    for label, evaluations in rollouts.evaluations.items():
        found = summary(evaluations, rollouts.grid)
        mean, spread = found["mae"]["mean"], found["mae"]["std"]
        shown = ["diverged", ""] if mean is None else measured(mean, spread, decimals=4)
        many = len(evaluations) * len(rollouts.reference)
        rows.append([label, f"{len(evaluations)}", *shown, *measures(found, many)])
    heads = measure_heads(rollouts.grid.channels, rollouts.grid.unit("time"))
    return table(("label", "seeds so far", "MAE", "± runs", *heads), rows)


def _error_section(run: FoundRun, rollouts: Rollouts | None) -> Section:
    """Error over time, drawn anew, or as the run left it where the reference is gone."""
    title, alt = "Error over time", "Error of every label over time"
    if rollouts is None:
        return Section(title, kept_picture(run, "error_over_time.png", alt))
    curves = [Curve(label, *error_curve(found)) for label, found in rollouts.evaluations.items()]
    figure = draw_error_over_time(curves, rollouts.grid)
    drawn = Drawn(figure, alt, "Mean over seeds and unseen runs.")
    return Section(title, figures={"error_over_time": drawn})


def _fields_section(run: FoundRun, rollouts: Rollouts | None) -> Section:
    """One unseen run, and the vorticity of its last state where there is one."""
    if rollouts is None:
        kept = kept_picture(run, "fields.png", "Fields of one unseen run")
        kept += kept_picture(run, "vorticity.png", "Vorticity of one unseen run")
        return Section("Fields", kept)
    states = until_measured(rollouts.shown_states, rollouts.grid)
    shown, grid, seed = rollouts.shown, rollouts.grid, f"Seed {run.seeds[0]}."
    drawn_of = {1: "Time is upwards. ", 2: "", 3: "The plane in the middle of the box. "}
    how = drawn_of[len(grid.shape)] if isinstance(grid, Grid) else "The last state. "
    drawn = Drawn(
        draw_fields(states, grid, shown),
        "State and error, label beside label",
        f"{seed} {how}Above or left the state, below or right its error.",
    )
    figures = {"fields": drawn}
    turning = vorticity(run, {label: whole[-1:] for label, whole in states.items()})
    if turning:
        flat = {label: values[0] for label, values in turning.items()}
        step = len(states["reference"]) - 1
        figure = draw_vorticity(flat, grid, step, shown)
        figures["vorticity"] = Drawn(figure, "Vorticity, label beside label", seed)
    return Section("Fields", figures=figures)


def _film_of(run: FoundRun, rollouts: Rollouts) -> Film:
    """Reference, uncorrected and best corrected run."""
    grid = rollouts.grid
    names = {"reference": "reference"}
    if "SRC" in rollouts.evaluations:
        names["SRC"] = "SRC, uncorrected"
    if rollouts.best:
        names[rollouts.best] = f"{rollouts.best}, corrected"
    states = {name: mid_plane(rollouts.states(label), grid) for label, name in names.items()}
    shown, chosen, signed = vorticity(run, states), vector_channels(grid), True
    if shown:
        speed, space = grid.unit(grid.channels[0]), grid.unit("space")
        name = "vorticity" + ("" if speed == space == "1" else f" [{speed}/{space}]")
    elif len(chosen) == 1:
        name = name_of(grid, chosen)
        shown = {label: values[:, chosen[0]] for label, values in states.items()}
        signed = bool((shown["reference"] < 0).any())
    else:
        of_space = unit(grid, grid.channels[chosen[0]])
        name, signed = f"|{name_of(grid, chosen)}| [{of_space}]", False
        shown = {label: values[:, chosen].norm(dim=1) for label, values in states.items()}
    fields = {label: values.double().cpu().numpy() for label, values in shown.items()}
    return Film(fields, grid, name, signed)


def _motion(run: FoundRun, rollouts: Rollouts | None) -> tuple[Section, Callable[[], bytes] | None]:
    """The film on the page, and as a file; nothing of a line, whose picture shows all times.

    It is made when somebody looks at it, and once.
    """
    title = "In motion"
    if rollouts is None or len(rollouts.grid.shape) == 1:
        return Section(title), None
    film = _film_of(run, rollouts)
    frames = cache(partial(animate, film))
    names, what = film.fields, film.name.partition(" [")[0]
    seconds = (len(rollouts.states("reference")) - 1) * rollouts.grid.dt
    alt = f"Animation: {', beside '.join(names)}"
    caption = (
        f"{', '.join(names)}: {what} of unseen run {rollouts.shown + 1}, seed "
        f"{run.seeds[0]}, from t = 0 to t = {seconds:g}, all from the same state."
    )
    return Section(title, lambda: moving(*frames(), alt, caption)), lambda: frames()[0]


def _spectrum_section(rollouts: Rollouts | None) -> Section:
    title = "Energy spectrum"
    if rollouts is None:
        return Section(title)
    if not isinstance(rollouts.grid, Grid):
        return Section(title, text("Left out: on a mesh there are no wave numbers.", "soft"))
    grid, chosen = rollouts.grid, vector_channels(rollouts.grid)
    if grid.mask is not None or not all(map(grid.is_uniform, range(len(grid.shape)))):
        return Section(title, text("None: it would need cells of one size, all of them fluid."))
    if bool(rollouts.reference.isnan().any()):
        return Section(title, text("None: the reference was measured in part."))
    late = max(1, round(_LATE * rollouts.reference.shape[1]))
    spectra: dict[str, Spectrum] = {}
    for label in ("reference", "SRC", rollouts.best):
        if label == "reference":
            states = rollouts.reference
        elif label in rollouts.evaluations:
            states = rollouts.evaluations[label][0].predicted
        else:
            continue
        fields = states[:, -late:, chosen].double().cpu().numpy()
        if np.isfinite(fields).all():
            spectra[label] = energy_spectrum(fields, grid.extent)
    tail = "" if all(grid.periodic) else " The domain is not periodic: the jump between "
    tail += "" if not tail else "its ends adds the same tail to every curve."
    drawn = Drawn(
        draw_spectra(spectra, grid),
        "Energy by wave number of reference, uncorrected and corrected runs",
        f"Mean over the unseen runs and the last {100 * _LATE:.0f} % of the states.{tail}",
    )
    return Section(title, figures={"energy_spectrum": drawn})


def _gradient_section(run: FoundRun) -> Section:
    """How good the gradients of every training were, at every look."""
    rows = []
    for label in run.labels:
        for seed in run.seeds:
            for look in read_qualities(run.of(label, seed) / QUALITY):
                figures = (_figure(getattr(look, name)) for name in FIGURES)
                at = [label, str(seed), str(look.iteration)]
                rows.append([*at, *figures, number(look.queries), look.reference])
    caption = (
        "Against the exact gradient at the same weights: cosine of the angle, relative error, "
        "variance over the estimate's own draws. By differences, figures are estimates themselves."
    )
    heads = ("label", "seed", "iteration", *FIGURES, "queries", "reference")
    return Section("Gradients", table(heads, rows, caption) if rows else "")


def _parameter_section(run: FoundRun) -> Section:
    """What was found inside the solver, in figures and as a picture."""
    rows = [
        [label.replace("_", " "), channel, *(_number(told[key]) for key in ("mean", "min", "max"))]
        for label, channels in (run.metrics or {}).get("learned_parameter", {}).items()
        for channel, told in channels.items()
    ]
    caption = "f exp(C) at every step of the unseen runs; least and largest are of single cells."
    body = table(("", "parameter", "mean", "least", "largest"), rows, caption) if rows else ""
    figures = parameter_drawn(RunFolder(run.root), run.labels, run.seeds[0])
    return Section("Learned parameter", body, figures)


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4g}"


def _own_section(run: FoundRun, rollouts: Rollouts | None) -> Section:
    """The user's own pictures, drawn anew, or as the run left them where that fails."""
    body, figures = "", {}
    for spec in run.settings["run"].get("pictures", ()):
        name = f"{FOLDER}/{spec.rpartition(':')[2]}"
        kept = kept_picture(run, f"{name}.png", spec, spec)
        try:
            if rollouts is not None:
                states = until_measured(rollouts.shown_states, rollouts.grid)
                figure = draw_own(*picture_named(spec), states, rollouts.grid)
                figures[name] = Drawn(figure, spec, spec)
            else:
                body += kept
        except InputError as error:
            body += kept or text(f"No picture {spec}: {error}", "soft")
    return Section("Pictures of your own", body, figures)
