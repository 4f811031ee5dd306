"""A run folder, looked at from outside: settings, figures, histories."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zopde.errors import InputError, first_line
from zopde.studies.folder import METRICS, RECORD, RunFolder, look_up, upgraded
from zopde.studies.run import STUDIES, Study, study_named
from zopde.studies.scores import FILE, Scoring, read_scoring
from zopde.studies.settings import Tree, read_toml
from zopde.training import Row, read_history

# A record that does not name its study is of an early version: a setting that no other job has.
_OWN = {"correct": "solver", "classify": "network", "defend": "defence", "certify": "model"}


@dataclass(frozen=True)
class FoundRun:
    """A run, finished or not."""

    root: Path  # its folder
    study: Study  # whose run it is
    # `config.toml`, as it stands: a report needs no setting to be right here and now
    settings: Tree
    metrics: dict[str, Any] | None  # `metrics.json`; None for a run that is not finished

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.root.resolve().name

    @property
    def subject(self) -> str:
        """The solver or the model that the command is given; "" where it makes its own."""
        return str(look_up(self.settings, self.study.subject)) if self.study.subject else ""

    @property
    def labels(self) -> list[str]:
        """What was compared, in the order of the settings, as far as anything of it is there."""
        wanted: list[str] = look_up(self.settings, self.study.labels_key) or []
        return [label for label in wanted if (self.root / label).is_dir()]

    @property
    def seeds(self) -> list[int]:
        """Of the settings."""
        seeds: list[int] = look_up(self.settings, "run.seeds") or [self.settings["seed"]]
        return seeds

    def of(self, label: str, seed: int) -> Path:
        """The folder of one training."""
        return RunFolder(self.root).of(label, seed)

    def history(self, label: str, seed: int) -> list[Row]:
        """What happened at every iteration; empty where nothing was trained."""
        return read_history(self.of(label, seed) / "history.csv")

    def scoring(self, label: str, seed: int) -> Scoring | None:
        """The layer-wise ratios that a training kept."""
        path = self.of(label, seed) / FILE
        return read_scoring(path) if path.exists() else None


def find_run(root: Path) -> FoundRun:
    """Look into a folder.

    Raises:
        InputError: If it holds no run that can be shown.
    """
    expected = "the folder of a run of `zopde correct`, `classify`, `defend` or `certify`"
    record = root / RECORD
    if not record.is_file():
        what = "without a config.toml" if root.is_dir() else "no folder"
        raise InputError("run folder", got=f"{root}, {what}", expected=expected)
    tree = read_toml(record)
    name = tree.get("study") or next((name for name, key in _OWN.items() if key in tree), "")
    if name in STUDIES:
        study = study_named(name)
        settings = upgraded(tree, study)
        run = FoundRun(root, study, settings, _metrics(root / METRICS))
        wanted, seeds = look_up(settings, study.labels_key), look_up(settings, "run.seeds")
        if "seed" in settings or (seeds and set(wanted or ["?"]) <= set(study.files)):
            return run
    raise InputError("run folder", got=f"{root}, with another config.toml", expected=expected)


def _metrics(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "metrics file", got=f"{path} ({first_line(error)})", expected="what the run wrote"
        ) from error
    return metrics
