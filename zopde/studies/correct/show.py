"""What a correction found: its figures, its pictures, its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from zopde.contracts import Domain, Vortical
from zopde.data import Trajectories
from zopde.grid import Grid
from zopde.numerals import change, measured
from zopde.oracle.coordinates import Coordinates
from zopde.report.curves import Curve, save_error_over_time
from zopde.report.fields import Film, animate, save_fields, save_vorticity
from zopde.report.page import Section, drawn, folded, moving, picture, table, text
from zopde.report.panels import mid_plane, unit
from zopde.report.spectrum import (
    Spectrum,
    energy_spectrum,
    name_of,
    save_spectra,
    vector_channels,
)
from zopde.report.vtk import save_vtk
from zopde.studies.correct.evaluate import error_curve, finite, summary
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import Opened
from zopde.studies.correct.rollouts import Rollouts, read_rollouts, vorticity
from zopde.studies.correct.table import measure_heads, measures, notes_of
from zopde.studies.correct.train import START, Trained
from zopde.studies.folder import RunFolder
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import (
    cost_section,
    failures_section,
    kept_picture,
    losses_picture,
    page_of_run,
    ratios_section,
    result_table,
    scoring_cost,
)
from zopde.studies.run import Metrics, Page, mean_costs, stopped_early
from zopde.training import Fitted

_LATE = 0.2  # share of the rollout, its end, over which a spectrum is a mean


def metrics_of(opened: Opened, results: Mapping[str, Sequence[Trained]]) -> Metrics:
    """The figures of a finished run."""
    problem, grid = opened.problem, opened.problem.test.grid
    metrics: Metrics = {"labels": list(results), "seeds": list(opened.seeds)}
    for label, trained in results.items():
        for name, value in summary([one.evaluation for one in trained], grid).items():
            metrics.setdefault(name, {})[label] = value
    source = metrics["mae"]["SRC"]["mean"]
    metrics["percent_of_src"] = {
        label: 100 * (error["mean"] / source - 1) if error["mean"] and source else None
        for label, error in metrics["mae"].items()
    }
    metrics |= mean_costs(results, ("iterations", "queries", "checking", "solver_steps", "seconds"))
    if problem.held is not None:
        metrics |= mean_costs(results, ["validating"])
        metrics["validation"] = {
            label: [_kept(one.cost, opened.iterations_of(label)) for one in trained]
            for label, trained in results.items()
            if LABELS[label].trained
        }
    metrics["init"] = {
        label: ("non" if opened.starts_from_non(label) else "scratch")
        if LABELS[label].trained
        else "none"
        for label in results
    }
    metrics["stopped_early"] = {k: why for k, why in stopped_early(results).items() if why}
    metrics["skipped"] = opened.skipped
    missed = {label: sum(one.cost.skipped for one in trained) for label, trained in results.items()}
    metrics["skipped_iterations"] = {label: n for label, n in missed.items() if n}
    failures = {
        label: dict(sum((one.failures for one in trained), Counter[str]()))
        for label, trained in results.items()
    }
    metrics["failures"] = {label: reasons for label, reasons in failures.items() if reasons}
    metrics["split"] = opened.split
    metrics["inject"] = problem.inject
    metrics["every"] = problem.every
    metrics["stored_solver_steps"] = problem.prepared
    metrics["checking_solver_steps"] = opened.checking
    metrics["steps"] = problem.test.steps * problem.every
    metrics["time"] = {"length": problem.test.steps * grid.dt, "unit": grid.unit("time")}
    metrics["test_runs"] = problem.test.simulations
    metrics["parameters"] = Coordinates(opened.new_network(opened.seeds[0])).total
    metrics["workers"] = opened.workers.processes
    return metrics


def _kept(cost: Fitted, iterations: int) -> Metrics:
    """Which weights a training kept, their loss, and whether its patience ended before it did."""
    loss = None if cost.validation is None else finite(cost.validation)
    short = cost.iterations < iterations and not cost.stopped
    return {"iteration": cost.best, "loss": loss, "short": short}


def draw(opened: Opened, results: Mapping[str, Sequence[Trained]], folder: RunFolder) -> None:
    """Error over time, one unseen run and, where there is one, the vorticity of its last state."""
    problem, grid = opened.problem, opened.problem.test.grid
    curves = [
        Curve(label, *error_curve([one.evaluation for one in trained]))
        for label, trained in results.items()
    ]
    (_, _, steps), *_ = (error_curve([one.evaluation for one in of]) for of in results.values())
    columns = {"time": [grid.dt * step for step in steps.tolist()]}
    columns.update({curve.label: curve.mean.tolist() for curve in curves})
    folder.write_csv("error_over_time.csv", columns)
    save_error_over_time(folder.root / "error_over_time.png", curves, grid)
    number = problem.test.simulations // 2
    states = {"reference": problem.test.states[number]}
    for label, trained in results.items():
        states[label] = trained[0].evaluation.predicted[number]
    states = _until_measured(states, grid)
    save_fields(folder.root / "fields.png", states, grid, number)
    if len(grid.shape) == 2 and isinstance(opened.bare, Vortical):
        tell = opened.bare.vorticity
        fields = {label: tell(whole[-1:])[0] for label, whole in states.items()}
        step = len(states["reference"]) - 1
        save_vorticity(folder.root / "vorticity.png", fields, grid, step, number)


def _until_measured(states: Mapping[str, Tensor], grid: Domain) -> dict[str, Tensor]:
    """The states (time, ...) of every label until the last one of which the reference tells."""
    last = int(Trajectories(grid, states["reference"][None]).seen[0].nonzero()[-1])
    return {label: whole[: last + 1] for label, whole in states.items()}


def reached(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The mean absolute error of every label."""
    return {label: error["mean"] for label, error in metrics["mae"].items()}


def page_of(run: FoundRun) -> Page:
    """The page of one run, finished or not."""
    rollouts = read_rollouts(run)
    motion, gif = _motion(run, rollouts) if rollouts else ("", None)
    learning = losses_picture(
        run,
        "queries and seconds include those of the start.",
        lambda label, seed: _before(run, label, seed),
        [label for label in run.labels if not LABELS[label].unrolled or LABELS[label].pushed],
    )
    sections = [
        Section("Result", _result(run, rollouts)),
        Section("Error over time", _error_picture(run, rollouts)),
        Section("Learning", learning),
        Section("In motion", motion),
        Section("Fields", _fields_picture(run, rollouts)),
        Section("Energy spectrum", _spectrum(rollouts)),
        ratios_section(run),
        cost_section(
            run,
            " A label that starts from NON has the cost of NON-start, too; what was asked before "
            "the first iteration, such as a bank, is in the table of results.",
            START,
        ),
        failures_section(run),
    ]
    page = page_of_run(run, partial(_lead, rollouts.best if rollouts else None), sections)
    if rollouts is None:
        return page
    vtk = partial(save_vtk, states=rollouts.shown_states, grid=rollouts.grid)
    return replace(page, animation=gif, vtk=vtk)


def glimpse(run: FoundRun) -> str:
    """Error over time and, folded, the fields, for a page of several runs."""
    rollouts = read_rollouts(run)
    return _error_picture(run, rollouts) + folded("fields", _fields_picture(run, rollouts))


def _before(run: FoundRun, label: str, seed: int) -> tuple[float, float]:
    """(queries, seconds) of NON, from which a label starts, and of the layers' scores."""
    scratch = LABELS[label].always_scratch or run.settings["training"]["init"] == "scratch"
    rows = [] if scratch else run.history(START, seed)
    start = (rows[-1].queries, rows[-1].seconds) if rows else (0, 0.0)
    scoring = scoring_cost(run, label, seed)
    return start[0] + scoring[0], start[1] + scoring[1]


def _lead(label: str | None, metrics: Metrics) -> str:
    """What the best label that a black box can have has reached."""
    if label is None:
        return ""
    mean, percent = metrics["mae"][label]["mean"], metrics["percent_of_src"][label]
    against = "" if percent is None else f" ({change(percent)} % against the uncorrected solver)"
    return (
        f"{metrics['test_runs']} unseen runs of {metrics['steps']} steps, a network of "
        f"{metrics['parameters']:,} weights, seeds {', '.join(map(str, metrics['seeds']))}. Of the "
        f"labels that need no gradient of the solver, {label} errs least: a mean absolute error "
        f"of {mean:.4g}{against}." + " The uncorrected solver errs less." * ((percent or 0) > 0)
    )


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


def _error_picture(run: FoundRun, rollouts: Rollouts | None) -> str:
    """Error over time, drawn anew, or as the run left it where the reference is gone."""
    if rollouts is None:
        return kept_picture(run, "error_over_time.png", "Error of every label over time")
    curves = [Curve(label, *error_curve(found)) for label, found in rollouts.evaluations.items()]
    png = drawn(lambda path: save_error_over_time(path, curves, rollouts.grid))
    return picture(png, "Error of every label over time", "Mean over seeds and unseen runs.")


def _fields_picture(run: FoundRun, rollouts: Rollouts | None) -> str:
    """One unseen run, and the vorticity of its last state where there is one."""
    if rollouts is None:
        return kept_picture(run, "fields.png", "Fields of one unseen run") + kept_picture(
            run, "vorticity.png", "Vorticity of one unseen run"
        )
    states = _until_measured(rollouts.shown_states, rollouts.grid)
    shown, grid, seed = rollouts.shown, rollouts.grid, f"Seed {run.seeds[0]}."
    drawn_of = {1: "Time is upwards. ", 2: "", 3: "The plane in the middle of the box. "}
    how = drawn_of[len(grid.shape)] if isinstance(grid, Grid) else "The last state. "
    body = picture(
        drawn(lambda path: save_fields(path, states, grid, shown)),
        "State and error, label beside label",
        f"{seed} {how}Above or left the state, below or right its error.",
    )
    turning = vorticity(run, {label: whole[-1:] for label, whole in states.items()})
    if turning:
        flat = {label: values[0] for label, values in turning.items()}
        step = len(states["reference"]) - 1
        body += picture(
            drawn(lambda path: save_vorticity(path, flat, grid, step, shown)),
            "Vorticity, label beside label",
            seed,
        )
    return body


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


def _motion(run: FoundRun, rollouts: Rollouts) -> tuple[str, bytes | None]:
    """The film as HTML, and as a file; nothing of a line, whose picture shows all times."""
    if len(rollouts.grid.shape) == 1:
        return "", None
    film = _film_of(run, rollouts)
    gif, still = animate(film)
    names, what = film.fields, film.name.partition(" [")[0]
    seconds = (len(rollouts.states("reference")) - 1) * rollouts.grid.dt
    html = moving(
        gif,
        still,
        f"Animation: {', beside '.join(names)}",
        f"{', '.join(names)}: {what} of unseen run {rollouts.shown + 1}, seed "
        f"{run.seeds[0]}, from t = 0 to t = {seconds:g}, all from the same state.",
    )
    return html, gif


def _spectrum(rollouts: Rollouts | None) -> str:
    if rollouts is None:
        return ""
    if not isinstance(rollouts.grid, Grid):
        return text("Left out: on a mesh there are no wave numbers.", "soft")
    grid, chosen = rollouts.grid, vector_channels(rollouts.grid)
    if grid.mask is not None or not all(map(grid.is_uniform, range(len(grid.shape)))):
        return text("None: it would need cells of one size, all of them fluid.")
    if bool(rollouts.reference.isnan().any()):
        return text("None: the reference was measured in part.")
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
    return picture(
        drawn(lambda path: save_spectra(path, spectra, grid)),
        "Energy by wave number of reference, uncorrected and corrected runs",
        f"Mean over the unseen runs and the last {100 * _LATE:.0f} % of the states.{tail}",
    )
