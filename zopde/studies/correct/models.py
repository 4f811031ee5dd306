"""Which of the models of a correction run is meant."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from zopde.errors import InputError
from zopde.studies.correct.labels import LABELS
from zopde.studies.report.found import FoundRun, find_run
from zopde.validate import check_choice

MODEL = "model.safetensors"


class Model(NamedTuple):
    """A trained corrector of a run."""

    run: FoundRun  # whose it is
    label: str  # by which way it was trained
    seed: int  # from which weights
    path: Path  # its file


def model_of(folder: Path, label: str | None = None, seed: int | None = None) -> Model:
    """The model of a label, by default of the least error that a black box can have, and a seed."""
    run = find_run(folder)
    if run.study.name not in ("correct", "compare"):
        got = f"{folder}, a run of zopde {run.study.name}"
        raise InputError("run folder", got=got, expected="a run of zopde correct or compare")
    seed = run.seeds[0] if seed is None else seed
    if seed not in run.seeds:
        raise InputError("seed", got=seed, expected=f"one of {run.seeds}")
    trained = [name for name in run.labels if (run.of(name, seed) / MODEL).exists()]
    if not trained:
        got = f"{folder}, without a {MODEL} of seed {seed}"
        raise InputError("run folder", got=got, expected="a trained corrector")
    if label is None:
        errors = (run.metrics or {}).get("mae", {})
        reached = {k: errors[k]["mean"] for k in trained if k in errors and not LABELS[k].twin}
        known = {name: mean for name, mean in reached.items() if mean is not None}
        label = min(known, key=lambda name: float(known[name]), default="")
    check_choice("label", label, trained)
    return Model(run, label, seed, run.of(label, seed) / MODEL)
