"""Which of the models of a correction run is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zopde.errors import InputError
from zopde.studies.correct.labels import LABELS
from zopde.studies.report.found import FoundRun, find_run
from zopde.validate import check_choice

MODEL = "model.safetensors"


@dataclass(frozen=True)
class Model:
    """A trained corrector of a run."""

    run: FoundRun  # whose it is
    label: str  # by which way it was trained
    seed: int  # from which weights

    @property
    def path(self) -> Path:
        """Its file."""
        return self.run.of(self.label, self.seed) / MODEL


def model_of(folder: Path, label: str | None = None, seed: int | None = None) -> Model:
    """The model of a label and a seed, which must be there.

    Without a label, that of the trained one of the least error that a black box can have, as on the
    page of the run; without a seed, the first of the run.
    """
    run = find_run(folder)
    if run.study.name != "correct":
        got, expected = f"{folder}, a run of zopde {run.study.name}", "a run of zopde correct"
        raise InputError("run folder", got=got, expected=expected)
    seed = run.seeds[0] if seed is None else seed
    if seed not in run.seeds:
        raise InputError("seed", got=seed, expected=f"one of {run.seeds}")
    trained = [name for name in run.labels if Model(run, name, seed).path.exists()]
    if not trained:
        got = f"{folder}, without a {MODEL} of seed {seed}"
        raise InputError("run folder", got=got, expected="one in which a corrector was trained")
    if label is None:
        label = _best(run, trained)
    check_choice("label", label, trained)
    return Model(run, label, seed)


def _best(run: FoundRun, trained: list[str]) -> str:
    errors = (run.metrics or {}).get("mae", {})
    known = {name: errors[name]["mean"] for name in trained if name in errors}
    reached = {name: mean for name, mean in known.items() if mean is not None}
    reached = {k: mean for k, mean in reached.items() if not LABELS[k].twin} or reached
    if not reached:
        got = "none, of a run without an error to choose by"
        raise InputError("label", got=got, expected=f"one of {trained}")
    return min(reached, key=lambda name: float(reached[name]))
