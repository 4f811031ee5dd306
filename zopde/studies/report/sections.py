"""The sections that every report has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import tomli_w

from zopde.numerals import number
from zopde.report.classifiers import draw_layer_ratios
from zopde.report.curves import CostCurve, draw_loss_curves
from zopde.report.page import Drawn, Section, code, folded, picture, table, text
from zopde.studies.report.found import FoundRun, changes_from_preset, reproduce
from zopde.studies.run import Metrics, Page
from zopde.training import Fitted


def losses_drawn(
    run: FoundRun,
    caption: str,
    before: Callable[[str, int], tuple[float, float]] | None = None,
    one_step: Collection[str] = (),
) -> dict[str, Drawn]:
    """The training loss of every label against what it cost.

    `before` gives the (queries, seconds) that a (label, seed) spent before the first iteration;
    None is those of the layers' scores. The loss of labels in `one_step` is that of one step.
    """
    curves = []
    for label in run.labels:
        histories = [rows for seed in run.seeds if (rows := run.history(label, seed))]
        if not histories:
            continue
        length = min(map(len, histories))
        spent = before or (lambda label, seed: scoring_cost(run, label, seed))
        queries, seconds = np.mean([spent(label, seed) for seed in run.seeds], axis=0)
        values = np.array(
            [[(r.queries, r.seconds, r.loss) for r in rows[:length]] for rows in histories]
        ).mean(axis=0)
        paid = float(queries) + values[:, 0], float(seconds) + values[:, 1]
        looks = np.array([[r.validation for r in rows[:length]] for rows in histories], float)
        looked = None if np.isnan(looks).all() else looks.mean(axis=0)
        curves.append(CostCurve(label, *paid, values[:, 2], label in one_step, looked))
    if not curves:
        return {}
    warning = ""
    if any(curve.apart for curve in curves):
        warning = " NON's loss is that of one step: it cannot be compared with the others'."
    if any(curve.validation is not None for curve in curves):
        warning += " Dotted: the loss on the validation data, at every look."
    drawn = Drawn(
        draw_loss_curves(curves),
        "Training loss against queries and against seconds",
        f"Mean over the seeds, running mean over the iterations; {caption}{warning}",
    )
    return {"training_loss": drawn}


def scoring_cost(run: FoundRun, label: str, seed: int) -> tuple[float, float]:
    """(queries, seconds) of the scores of the layers."""
    scoring = run.scoring(label, seed)
    return (scoring.cost.queries, scoring.cost.seconds) if scoring else (0, 0.0)


def page_of_run(run: FoundRun, lead: Callable[[Metrics], str], sections: Sequence[Section]) -> Page:
    """The page of a run: what all have in common, and between that its study's sections.

    `lead` makes the words at the top from the metrics; a run without them is not finished.
    """
    if run.metrics is None:
        words = "This run is not finished (no metrics.json): what follows is what is there so far."
        top = text(words, "warning")
    else:
        words = lead(run.metrics)
        top = text(words, "lead") if words else ""
    return Page(top, [asked_section(run), *sections, again_section(run)])


def result_table(run: FoundRun, caption: str = "") -> str:
    """The tables of results of a finished run."""
    shown = run.study.table(run.metrics or {})
    also = shown.also and table(shown.also.columns, shown.also.rows, f"{shown.also.title}.")
    return table(shown.columns, shown.rows, caption) + (also or "")


def asked_section(run: FoundRun) -> Section:
    """What differs from the preset, and, folded, every setting."""
    preset, changes = changes_from_preset(run)
    base = f"preset {preset}" if preset else "the defaults"
    body = text(
        f"zopde {' '.join(filter(None, (run.study.name, run.subject)))}, {base}; "
        + ("these settings differ:" if changes else "no setting differs.")
    )
    if changes:
        body += table(("setting", "value"), [[k, v] for k, v in changes.items()], words=True)
    settings = folded("every setting", code(tomli_w.dumps(run.settings)))
    return Section("What was asked", body + settings)


def cost_section(run: FoundRun, notes: str = "", start: str = "") -> Section:
    """Queries, solver steps and seconds of every training, from its history.

    `start` names the training from which others start, of a study with a solver.
    """
    steps = ["solver steps"] if start else []
    rows = []
    for label in (*filter(None, [start]), *run.labels):
        for seed in run.seeds:
            history, scoring = run.history(label, seed), run.scoring(label, seed)
            if not history:
                continue
            last, before = history[-1], scoring.cost if scoring else Fitted(0, 0, 0, 0.0)
            counts = [last.iteration + 1, last.queries + before.queries]
            if start:
                counts.append(last.solver_steps + before.solver_steps)
            costs = map(number, (*counts, last.seconds + before.seconds))
            rows.append([label, str(seed), *costs])
    columns = ["label", "seed", "iterations", "queries", *steps, "seconds"]
    caption = "Every training by itself, its layers' scores included." + notes
    return Section("Cost", table(columns, rows, caption) if rows else "")


def kept_picture(run: FoundRun, name: str, alt: str, caption: str = "") -> str:
    """A picture that the run left."""
    path = run.root / name
    return picture(path.read_bytes(), alt, caption) if path.exists() else ""


def ratios_section(run: FoundRun) -> Section:
    """How the active weights are shared out over the layers, first seed."""
    seed = run.seeds[0]
    scorings = {label: run.scoring(label, seed) for label in run.labels}
    shares = {
        label: scoring.active_shares
        for label, scoring in scorings.items()
        if scoring and scoring.ratios
    }
    if not shares:
        return Section("Layer ratios")
    caption = f"Share of each layer's weights that a mask activates, seed {seed}."
    drawn = Drawn(draw_layer_ratios(shares), "Share of active weights by layer", caption)
    return Section("Layer ratios", figures={"layer_ratios": drawn})


def failures_section(run: FoundRun) -> Section:
    """Solver steps that failed, trainings that stopped, labels left out, rollouts that diverged."""
    metrics = run.metrics
    if metrics is None:
        return Section("Failures", "")
    rows = []
    for label, reasons in metrics.get("failures", {}).items():
        rows += [[label, f"{n:,} x {reason}"] for reason, n in reasons.items()]
    for label, missed in metrics.get("skipped_iterations", {}).items():
        rows.append([label, f"{missed:,} iterations without an update"])
    for kind, words in (("stopped_early", "stopped early: "), ("skipped", "left out: ")):
        rows += [[label, words + why] for label, why in metrics.get(kind, {}).items() if why]
    for label, runs in metrics.get("diverged", {}).items():
        if runs:
            rows.append([label, f"{runs:,} rollouts diverged"])
    body = table(("label", "what"), rows, words=True) if rows else text("None.")
    return Section("Failures", body)


def again_section(run: FoundRun) -> Section:
    """The command, the versions, the machine."""
    body = code(reproduce(run), command=True)
    if run.metrics is not None:
        versions = [list(pair) for pair in run.metrics.get("versions", {}).items()]
        body += table(("package", "version"), versions, words=True)
        workers = run.metrics.get("workers", 0)
        machine = f"Machine: {run.metrics.get('machine', 'not recorded')}"
        body += text(
            machine + (f"; probes answered by {workers} workers" if workers else ""), "soft"
        )
    digest = run.root / "data.sha256"
    if digest.exists():
        body += text(f"SHA-256 of the data: {digest.read_text(encoding='utf-8').strip()}", "soft")
    return Section("Once more", body)
