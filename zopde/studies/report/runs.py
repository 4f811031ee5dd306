"""A run folder, looked at from outside: settings, figures, histories."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zopde.errors import InputError, first_line
from zopde.studies.certify import CertifyConfig
from zopde.studies.classify.settings import METHODS
from zopde.studies.correct.labels import WAYS
from zopde.studies.defend import METHODS as DEFENCES
from zopde.studies.folder import RunFolder
from zopde.studies.scores import FILE, Scoring, read_scoring
from zopde.studies.settings import Tree, read_toml
from zopde.training import Row, read_history

# Of each command, the table of settings that no other has, and what it compares.
_KINDS: dict[str, tuple[str, str, Collection[str]]] = {
    "correct": ("solver", "labels", WAYS),
    "classify": ("network", "methods", METHODS),
    "defend": ("defence", "methods", DEFENCES),
}
# A certification compares nothing, and its settings are in no table.
_CERTIFY = {field.name for field in fields(CertifyConfig)}


@dataclass(frozen=True)
class FoundRun:
    """A run, finished or not.

    Args:
        root: Its folder.
        command: "correct", "classify", "defend" or "certify".
        settings: `config.toml`, as it stands: a report needs no setting to be legal here and now.
        metrics: `metrics.json`; None for a run that is not finished.
    """

    root: Path
    command: str
    settings: Tree
    metrics: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.root.resolve().name

    @property
    def subject(self) -> str:
        """The solver or the model that the command is given; "" where it makes its own."""
        if self.command == "correct":
            return str(self.settings["solver"]["spec"])
        return str(self.settings["model"]) if self.command == "certify" else ""

    @property
    def labels(self) -> list[str]:
        """What was compared, in the order of the settings, as far as anything of it is there."""
        if self.command == "certify":
            return []
        wanted: list[str] = self.settings["run"][_KINDS[self.command][1]]
        return [label for label in wanted if (self.root / label).is_dir()]

    @property
    def seeds(self) -> list[int]:
        """Of the settings."""
        if self.command == "certify":
            return [self.settings["seed"]]
        seeds: list[int] = self.settings["run"]["seeds"]
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
    record = root / "config.toml"
    if not record.is_file():
        what = "without a config.toml" if root.is_dir() else "no folder"
        raise InputError("run folder", got=f"{root}, {what}", expected=expected)
    settings, metrics = read_toml(record), _metrics(root / "metrics.json")
    if set(settings) == _CERTIFY:
        return FoundRun(root, "certify", settings, metrics)
    for command, (own, compared, known) in _KINDS.items():
        run = settings.get("run")
        if not (own in settings and isinstance(run, dict) and "seeds" in run):
            continue
        if set(run.get(compared, ["?"])) <= set(known):
            return FoundRun(root, command, settings, metrics)
    raise InputError("run folder", got=f"{root}, with another config.toml", expected=expected)


def _metrics(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "metrics file", got=f"{path} ({first_line(error)})", expected="what the run wrote"
        ) from error
    return found
