"""What a correction found: its figures and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zopde.contracts import Domain, Vortical
from zopde.errors import InputError
from zopde.oracle.coordinates import Coordinates
from zopde.report.curves import Curve, draw_error_over_time
from zopde.report.fields import draw_fields, draw_vorticity
from zopde.report.panels import save
from zopde.studies.correct.evaluate import error_curve, finite, summary
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.parameter import found_in, parameter_drawn
from zopde.studies.correct.pictures import FOLDER, Picture, draw_own
from zopde.studies.correct.problem import Opened
from zopde.studies.correct.quality import by_label
from zopde.studies.correct.rollouts import until_measured
from zopde.studies.correct.train import Trained
from zopde.studies.run import Metrics, Place, mean_costs, stopped_early
from zopde.training import Fitted


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
    if qualities := by_label(results):
        metrics["gradient"] = qualities
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
    if problem.inject == "parameter":
        found = {label: [one.parameter for one in trained] for label, trained in results.items()}
        names = problem.solver.grid.forcing_channels
        metrics["learned_parameter"] = found_in(problem.test, names, found)
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


def draw(opened: Opened, results: Mapping[str, Sequence[Trained]], place: Place) -> None:
    """Error over time, one unseen run and, where there is one, the vorticity of its last state."""
    problem, grid = opened.problem, opened.problem.test.grid
    curves = [
        Curve(label, *error_curve([one.evaluation for one in trained]))
        for label, trained in results.items()
    ]
    (_, _, steps), *_ = (error_curve([one.evaluation for one in of]) for of in results.values())
    columns = {"time": [grid.dt * step for step in steps.tolist()]}
    columns.update({curve.label: curve.mean.tolist() for curve in curves})
    place.folder.write_csv("error_over_time.csv", columns)
    save(draw_error_over_time(curves, grid), place.folder.root / "error_over_time.png")
    number = problem.test.simulations // 2
    states = {"reference": problem.test.states[number]}
    for label, trained in results.items():
        states[label] = trained[0].evaluation.predicted[number]
    states = until_measured(states, grid)
    _draw_own(opened.pictures, states, grid, place)
    for drawn in parameter_drawn(place.folder, list(results), opened.seeds[0]).values():
        save(drawn.figure, place.folder.root / "parameter.png")
    save(draw_fields(states, grid, number), place.folder.root / "fields.png")
    if len(grid.shape) == 2 and isinstance(opened.bare, Vortical):
        tell = opened.bare.vorticity
        fields = {label: tell(whole[-1:])[0] for label, whole in states.items()}
        step = len(states["reference"]) - 1
        save(draw_vorticity(fields, grid, step, number), place.folder.root / "vorticity.png")


def _draw_own(
    pictures: Mapping[str, Picture], states: Mapping[str, Tensor], grid: Domain, place: Place
) -> None:
    """The user's own pictures; one that fails is named in a line, and the run goes on."""
    for name, picture in pictures.items():
        path = place.folder.root / FOLDER / f"{name}.png"
        try:
            save(draw_own(name, picture, states, grid), path)
        except InputError as error:
            path.unlink(missing_ok=True)  # of an earlier start
            place.progress.note(f"no picture {path}: {error}")


def reached(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The mean absolute error of every label."""
    return {label: error["mean"] for label, error in metrics["mae"].items()}
