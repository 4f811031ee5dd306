"""The sections that every report has.

The training losses of a run, ready to draw.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zopde.report.classification import save_layer_ratios
from zopde.report.learning import CostCurve, save_loss_curves
from zopde.report.page import Section, code, drawn, folded, picture, table, text
from zopde.studies.correct.labels import WAYS
from zopde.studies.folder import START
from zopde.studies.report.asked import asked, reproduce
from zopde.studies.report.runs import FoundRun
from zopde.studies.settings import dump_toml


def loss_curves(run: FoundRun) -> list[CostCurve]:
    """One per label that was trained, mean over the seeds, as far as all of them got."""
    curves = []
    for label in run.labels:
        histories = [found for seed in run.seeds if (found := run.history(label, seed))]
        length = min((len(found) for found in histories), default=0)
        if not length:
            continue
        queries, seconds = _before(run, label)
        values = np.array(
            [[(r.queries, r.seconds, r.loss) for r in found[:length]] for found in histories]
        ).mean(axis=0)
        curves.append(
            CostCurve(
                label,
                queries + values[:, 0],
                seconds + values[:, 1],
                values[:, 2],
                apart=run.command == "correct" and not WAYS[label].unrolled,
            )
        )
    return curves


def _before(run: FoundRun, label: str) -> tuple[float, float]:
    """(queries, seconds) of what came before the first iteration, mean over the seeds."""
    if run.command == "defend":  # its histories count from the first question on
        return 0.0, 0.0
    scratch = (
        run.command != "correct"
        or WAYS[label].always_scratch
        or run.settings["training"]["init"] == "scratch"
    )
    spent = []
    for seed in run.seeds:
        rows, scoring = [] if scratch else run.history(START, seed), run.scoring(label, seed)
        start = (rows[-1].queries, rows[-1].seconds) if rows else (0, 0.0)
        scored = (scoring.cost.queries, scoring.cost.seconds) if scoring else (0, 0.0)
        spent.append((start[0] + scored[0], start[1] + scored[1]))
    queries, seconds = np.mean(spent, axis=0)
    return float(queries), float(seconds)


def asked_section(run: FoundRun) -> Section:
    """What differs from the preset, and, folded, every setting."""
    preset, changes = asked(run)
    base = f"preset {preset}" if preset else "the defaults"
    body = text(
        f"zopde {' '.join(filter(None, (run.command, run.subject)))}, {base}; "
        + ("these settings differ:" if changes else "no setting differs.")
    )
    if changes:
        body += table(("setting", "value"), [[k, v] for k, v in changes.items()], words=True)
    return Section("What was asked", body + folded("every setting", code(dump_toml(run.settings))))


def state_lead(run: FoundRun) -> str:
    """A warning on a run that is not finished."""
    if run.metrics is not None:
        return ""
    return text(
        "This run is not finished (no metrics.json): what follows is what is there so far.",
        "warning",
    )


def cost_section(run: FoundRun, notes: str = "") -> Section:
    """Queries, solver steps and seconds of every training, from its history."""
    solver = run.command == "correct"
    columns = ["label", "seed", "iterations", "queries"]
    columns += [*(["solver steps"] if solver else []), "seconds"]
    rows = []
    for label in (*([START] if solver else []), *run.labels):
        for seed in run.seeds:
            history = run.history(label, seed)
            if not history:
                continue
            last, scoring = history[-1], run.scoring(label, seed)
            before = (
                (scoring.cost.queries, scoring.cost.solver_steps, scoring.cost.seconds)
                if scoring
                else (0, 0, 0.0)
            )
            steps = [f"{last.solver_steps + before[1]:,}"] if solver else []
            rows.append(
                [
                    label,
                    str(seed),
                    f"{last.iteration + 1:,}",
                    f"{last.queries + before[0]:,}",
                    *steps,
                    f"{last.seconds + before[2]:,.1f}",
                ]
            )
    caption = "Every training by itself, its layers' scores included." + notes
    return Section("Cost", table(columns, rows, caption) if rows else "")


def kept_picture(run: FoundRun, name: str, alt: str, caption: str = "") -> str:
    """A picture that the run left."""
    path = run.root / name
    return picture(path.read_bytes(), alt, caption) if path.exists() else ""


def losses_picture(run: FoundRun, caption: str) -> str:
    """The training loss of every label against what it cost."""
    curves = loss_curves(run)
    if not curves:
        return ""
    apart = " NON's loss is that of one step: it cannot be compared with the others'."
    apart = apart if any(curve.apart for curve in curves) else ""
    return picture(
        drawn(lambda path: save_loss_curves(path, curves)),
        "Training loss against queries and against seconds",
        f"Mean over the seeds, running mean over the iterations; {caption}{apart}",
    )


def ratios_section(run: FoundRun) -> Section:
    """How the active weights are shared out over the layers, first seed."""
    shares = {}
    for label in run.labels:
        scoring = run.scoring(label, run.seeds[0])
        if scoring and scoring.ratios:
            layers = scoring.ratios.layers
            shares[label] = {x.name: 1 - x.sparsity for x in layers if x.maskable}
    if not shares:
        return Section("Layer ratios", "")
    png = drawn(lambda path: save_layer_ratios(path, shares))
    return Section(
        "Layer ratios",
        picture(
            png,
            "Share of active weights by layer",
            f"Share of each layer's weights that a mask activates, seed {run.seeds[0]}.",
        ),
    )


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
        versions: Mapping[str, str] = run.metrics.get("versions", {})
        body += table(("package", "version"), [list(pair) for pair in versions.items()], words=True)
        workers = run.metrics.get("workers", 0)
        body += text(
            f"Machine: {run.metrics.get('machine', 'not recorded')}"
            + (f"; probes answered by {workers} workers" if workers else ""),
            "soft",
        )
    digest = run.root / "data.sha256"
    if digest.exists():
        body += text(f"SHA-256 of the data: {digest.read_text(encoding='utf-8').strip()}", "soft")
    return Section("Once more", body)
