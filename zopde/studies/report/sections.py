"""The sections that every report has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from zopde.report.classifiers import save_layer_ratios
from zopde.report.curves import CostCurve, save_loss_curves
from zopde.report.page import Section, code, drawn, folded, picture, table, text
from zopde.studies.report.found import FoundRun
from zopde.studies.report.reproduce import changes_from_preset, reproduce
from zopde.studies.settings import dump_toml


def losses_picture(
    run: FoundRun,
    caption: str,
    before: Callable[[str, int], tuple[float, float]] | None = None,
    one_step: Collection[str] = (),
) -> str:
    """The training loss of every label against what it cost.

    Args:
        run: The run.
        caption: What the loss is, and what the costs include.
        before: (label, seed) -> (queries, seconds) spent before the first iteration; None for
            those of the layers' scores.
        one_step: Labels whose loss is that of one step, and compares with no other.
    """
    curves = []
    for label in run.labels:
        histories = [rows for seed in run.seeds if (rows := run.history(label, seed))]
        length = min((len(rows) for rows in histories), default=0)
        if not length:
            continue
        spent = before or (lambda label, seed: scoring_cost(run, label, seed))
        queries, seconds = np.mean([spent(label, seed) for seed in run.seeds], axis=0)
        values = np.array(
            [[(r.queries, r.seconds, r.loss) for r in rows[:length]] for rows in histories]
        ).mean(axis=0)
        curves.append(
            CostCurve(
                label,
                float(queries) + values[:, 0],
                float(seconds) + values[:, 1],
                values[:, 2],
                apart=label in one_step,
            )
        )
    if not curves:
        return ""
    warning = " NON's loss is that of one step: it cannot be compared with the others'."
    warning = warning if any(curve.apart for curve in curves) else ""
    return picture(
        drawn(lambda path: save_loss_curves(path, curves)),
        "Training loss against queries and against seconds",
        f"Mean over the seeds, running mean over the iterations; {caption}{warning}",
    )


def scoring_cost(run: FoundRun, label: str, seed: int) -> tuple[float, float]:
    """(queries, seconds) of the scores of the layers."""
    scoring = run.scoring(label, seed)
    return (scoring.cost.queries, scoring.cost.seconds) if scoring else (0, 0.0)


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
    return Section("What was asked", body + folded("every setting", code(dump_toml(run.settings))))


def state_lead(run: FoundRun) -> str:
    """A warning on a run that is not finished."""
    if run.metrics is not None:
        return ""
    return text(
        "This run is not finished (no metrics.json): what follows is what is there so far.",
        "warning",
    )


def cost_section(run: FoundRun, notes: str = "", start: str = "") -> Section:
    """Queries, solver steps and seconds of every training, from its history.

    Args:
        run: The run.
        notes: What else there is to say.
        start: Name of the training from which others start, of a study with a solver; "" where
            there is none.
    """
    solver = bool(start)
    columns = ["label", "seed", "iterations", "queries"]
    columns += [*(["solver steps"] if solver else []), "seconds"]
    rows = []
    for label in (*filter(None, [start]), *run.labels):
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
