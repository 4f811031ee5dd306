"""The unseen runs of a run folder: reference beside predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zopde.contracts import Domain, Vortical
from zopde.data import Trajectories, load_rollout
from zopde.errors import InputError
from zopde.hybrid import rollout_error
from zopde.studies.correct.evaluate import Evaluation
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.open import open_solver, reference_of
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import REFERENCE
from zopde.studies.report.found import FoundRun
from zopde.studies.settings import build


@dataclass(frozen=True)
class Rollouts:
    """Predictions of the unseen runs."""

    grid: Domain  # where they live
    reference: Tensor  # (simulation, time, channel, *space)
    # Label -> one per seed that is there; the states of the first seed alone
    evaluations: dict[str, list[Evaluation]]

    @property
    def shown(self) -> int:
        """Number of the unseen run that pictures show, as those of the run itself."""
        return len(self.reference) // 2

    @property
    def best(self) -> str | None:
        """The trained label of the least error that a black box can have."""
        errors = {
            label: float(torch.stack([e.error.mean_mae for e in found]).mean())
            for label, found in self.evaluations.items()
            if LABELS[label].gradient != "none" and not LABELS[label].twin
        }
        finite = {k: v for k, v in errors.items() if v < float("inf")}
        return min(finite, key=lambda label: finite[label], default=None)

    def states(self, label: str) -> Tensor:
        """(time, channel, *space) of the shown run; "reference" is a label, too."""
        if label == "reference":
            return self.reference[self.shown]
        return self.evaluations[label][0].predicted[self.shown]

    @property
    def shown_states(self) -> dict[str, Tensor]:
        """The same of the reference and every label."""
        return {label: self.states(label) for label in ("reference", *self.evaluations)}


def read_rollouts(run: FoundRun) -> Rollouts | None:
    """What a correction run predicted; None where nothing is there yet, or no reference."""
    reference: Tensor | None = None
    grid: Domain | None = None
    found: dict[str, list[Evaluation]] = {}
    for label in run.labels:
        for seed in run.seeds if LABELS[label].gradient != "none" else (0,):
            path = run.of(label, seed) / "rollout.nc"
            if not path.exists():
                continue
            rollout = load_rollout(path)
            if reference is None:
                grid, reference = rollout.grid, _reference(run, rollout.states)
            if reference is None:
                return None
            predicted = rollout.states
            target = reference[:, 1:].to(predicted.dtype)
            error = rollout_error(predicted[:, 1:], target, grid=rollout.grid)
            kept = predicted if label not in found else predicted[:0]  # what nobody will look at
            found.setdefault(label, []).append(Evaluation(kept, error))
    if grid is None or reference is None:
        return None
    return Rollouts(grid, reference, found)


def until_measured(states: Mapping[str, Tensor], grid: Domain) -> dict[str, Tensor]:
    """The states (time, ...) of every label until the last one of which the reference tells."""
    last = int(Trajectories(grid, states["reference"][None]).seen[0].nonzero()[-1])
    return {label: whole[: last + 1] for label, whole in states.items()}


def vorticity(run: FoundRun, states: dict[str, Tensor]) -> dict[str, Tensor]:
    """(time, y, x) of states (time, channel, y, x); empty where the solver tells none."""
    if any(values.dim() != 4 for values in states.values()):
        return {}
    if run.metrics is not None and not (run.root / "vorticity.png").exists():
        return {}  # a solver that has told none need not be built
    try:
        solver = open_solver(build(run.study.settings, run.settings))
        if not isinstance(solver, Vortical):
            return {}
        return {label: solver.vorticity(values) for label, values in states.items()}
    except Exception:  # a user's solver, no longer there or changed: none is told
        return {}


def _reference(run: FoundRun, predicted: Tensor) -> Tensor | None:
    """The folder's own, or, for runs before there was one, that of the data file."""
    kept = run.root / REFERENCE
    try:
        if kept.exists():
            states = load_rollout(kept).states
        else:
            config: CorrectionConfig = build(run.study.settings, run.settings)
            reference = reference_of(config, open_solver(config), run.root.parent)
            unseen = reference.split(reference.read(), config.window, config.corrector.every).unseen
            states = unseen.strided(config.corrector.every).states.to(config.dtype)
    except InputError:
        return None
    # A rollout begins with a state of its reference: other data cannot pass for it.
    same = states.shape == predicted.shape and torch.equal(states[:, 0], predicted[:, 0])
    return states if same else None
