"""The sections of a correction run."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from zopde.report.animation import Film, animate
from zopde.report.curves import Curve, save_error_over_time
from zopde.report.fields import save_fields, save_vorticity
from zopde.report.page import Section, drawn, moving, picture, table, text
from zopde.report.panels import unit
from zopde.report.spectrum import Spectrum, energy_spectrum, save_spectra, vector_channels
from zopde.studies.correct.evaluate import error_curve, summary
from zopde.studies.report.common import (
    again_section,
    asked_section,
    cost_section,
    failures_section,
    kept_picture,
    losses_picture,
    ratios_section,
    state_lead,
)
from zopde.studies.report.rollouts import Rollouts, read_rollouts, vorticity
from zopde.studies.report.runs import FoundRun
from zopde.studies.tables import metrics_columns, metrics_notes, metrics_rows

_LATE = 0.2  # share of the rollout, its end, over which a spectrum is a mean


def correction_report(run: FoundRun) -> tuple[str, list[Section], bytes | None]:
    """(lead, sections, animation as GIF) of one run."""
    rollouts = read_rollouts(run)
    film = film_of(run, rollouts) if rollouts else None
    gif, still = animate(film) if film else (None, b"")
    sections = [
        asked_section(run),
        Section("Result", _result(run, rollouts)),
        Section("Error over time", error_picture(run, rollouts)),
        Section("Learning", losses_picture(run, "queries and seconds include those of the start.")),
        Section("In motion", _motion(run, rollouts, film, gif, still)),
        Section("Fields", fields_picture(run, rollouts)),
        Section("Energy spectrum", _spectrum(rollouts)),
        ratios_section(run),
        cost_section(
            run,
            " A label that starts from NON has the cost of NON-start, too; what was asked before "
            "the first iteration, such as a bank, is in the table of results.",
        ),
        failures_section(run),
        again_section(run),
    ]
    return state_lead(run) + _lead(run, rollouts), sections, gif


def _lead(run: FoundRun, rollouts: Rollouts | None) -> str:
    metrics = run.metrics
    if metrics is None or rollouts is None or rollouts.best is None:
        return ""
    label = rollouts.best
    mean, change = metrics["mae"][label]["mean"], metrics["percent_of_src"][label]
    against = "" if change is None else f" ({change:+.1f} % against the uncorrected solver)"
    return text(
        f"{metrics['test_runs']} unseen runs of {metrics['steps']} steps, a network of "
        f"{metrics['parameters']:,} weights, seeds {', '.join(map(str, run.seeds))}. Of the "
        f"labels that need no gradient of the solver, {label} errs least: a mean absolute error "
        f"of {mean:.4g}{against}.",
        "lead",
    )


def _result(run: FoundRun, rollouts: Rollouts | None) -> str:
    if run.metrics is not None:
        notes = "".join(text(line, "soft") for line in metrics_notes(run.metrics))
        caption = (
            "MAE: mean absolute error over all steps of the unseen runs; ± runs: standard "
            "deviation over the runs; costs of one seed, the mean over the seeds."
        )
        return table(metrics_columns(run.metrics), metrics_rows(run.metrics), caption) + notes
    rows = []
    for label, found in (rollouts.evaluations if rollouts else {}).items():
        error = summary(found)["mae"]
        mean = ["diverged", ""] if error["mean"] is None else _both(error["mean"], error["std"])
        rows.append([label, f"{len(found)}", *mean])
    if not rows:
        return text("No rollout of an unseen run yet.")
    return table(("label", "seeds so far", "MAE", "± runs"), rows)


def _both(mean: float, spread: float) -> list[str]:
    return [f"{mean:.4f}", f"{spread:.4f}"]


def error_picture(run: FoundRun, rollouts: Rollouts | None) -> str:
    """Error over time, drawn anew, or as the run left it where the reference is gone."""
    if rollouts is None:
        return kept_picture(run, "error_over_time.png", "Error of every label over time")
    curves = [Curve(label, *error_curve(found)) for label, found in rollouts.evaluations.items()]
    png = drawn(lambda path: save_error_over_time(path, curves, rollouts.grid))
    return picture(png, "Error of every label over time", "Mean over seeds and unseen runs.")


def fields_picture(run: FoundRun, rollouts: Rollouts | None) -> str:
    """Last states of one unseen run, and their vorticity where there is one."""
    if rollouts is None or len(rollouts.grid.shape) != 2:
        return kept_picture(run, "fields.png", "Fields of one unseen run") + kept_picture(
            run, "vorticity.png", "Vorticity of one unseen run"
        )
    last = {label: rollouts.states(label)[-1] for label in ("reference", *rollouts.evaluations)}
    step, shown, grid = len(rollouts.states("reference")) - 1, rollouts.shown, rollouts.grid
    body = picture(
        drawn(lambda path: save_fields(path, last, grid, step, shown)),
        "Magnitude of the state and of its error, label beside label",
        f"Seed {run.seeds[0]}. Above or left the state, below or right its error.",
    )
    turning = vorticity(run, {label: state[None] for label, state in last.items()})
    if turning:
        flat = {label: values[0] for label, values in turning.items()}
        body += picture(
            drawn(lambda path: save_vorticity(path, flat, grid, step, shown)),
            "Vorticity, label beside label",
            f"Seed {run.seeds[0]}.",
        )
    return body


def film_of(run: FoundRun, rollouts: Rollouts) -> Film | None:
    """Reference, uncorrected and best corrected run; None where the grid is no plane."""
    grid = rollouts.grid
    if len(grid.shape) != 2:
        return None
    names = {"reference": "reference"}
    if "SRC" in rollouts.evaluations:
        names["SRC"] = "SRC, uncorrected"
    if rollouts.best:
        names[rollouts.best] = f"{rollouts.best}, corrected"
    states = {name: rollouts.states(label) for label, name in names.items()}
    turning = vorticity(run, states)
    if turning:
        speed, space = grid.unit(grid.channels[0]), grid.unit("space")
        name = "vorticity" + ("" if speed == space == "1" else f" [{speed}/{space}]")
        fields = {label: _plain(values) for label, values in turning.items()}
        return Film(fields, grid, name, signed=True)
    chosen = vector_channels(grid)
    if len(chosen) == 1:
        fields = {label: _plain(values[:, chosen[0]]) for label, values in states.items()}
        return Film(fields, grid, grid.channels[chosen[0]], bool(fields["reference"].min() < 0))
    fields = {label: _plain(values[:, chosen].norm(dim=1)) for label, values in states.items()}
    return Film(fields, grid, f"|u| [{unit(grid, grid.channels[chosen[0]])}]", signed=False)


def _plain(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _motion(
    run: FoundRun, rollouts: Rollouts | None, film: Film | None, gif: bytes | None, still: bytes
) -> str:
    if rollouts is None or film is None or gif is None:
        return ""
    what = film.name.partition(" [")[0]
    seconds = (len(rollouts.states("reference")) - 1) * rollouts.grid.dt
    return moving(
        gif,
        still,
        f"Animation: {', beside '.join(film.fields)}",
        f"{', '.join(film.fields)}: {what} of unseen run {rollouts.shown + 1}, seed "
        f"{run.seeds[0]}, from t = 0 to t = {seconds:g}, all from the same state.",
    )


def _spectrum(rollouts: Rollouts | None) -> str:
    if rollouts is None:
        return ""
    grid, chosen = rollouts.grid, vector_channels(rollouts.grid)
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
    tail = "" if grid.boundary == "periodic" else " The domain is not periodic: the jump between "
    tail += "" if not tail else "its ends adds the same tail to every curve."
    return picture(
        drawn(lambda path: save_spectra(path, spectra, grid)),
        "Energy by wave number of reference, uncorrected and corrected runs",
        f"Mean over the unseen runs and the last {100 * _LATE:.0f} % of the states.{tail}",
    )
