"""A run folder, looked at from outside: settings, figures, histories, and how to make it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zopde.errors import InputError
from zopde.files import read_toml, reading
from zopde.studies.folder import METRICS, RECORD, RunFolder, check_figures, look_up, upgraded
from zopde.studies.run import STUDIES, Study, study_named
from zopde.studies.scores import FILE, Scoring, read_scoring
from zopde.studies.settings import Tree, as_tree, build, literal
from zopde.training import Row, read_history

# A record that does not name its study is of an early version: a setting that no other job has.
_OWN = {"correct": "solver", "classify": "network", "defend": "defence", "certify": "model"}
Changes = dict[str, str]
_CHUNK = "chunk.txt"
# An injection decides the preset's labels and start, so it is laid over the preset first.
_DECIDES = "corrector.inject"
_OPTION = {"images": "max-images"}  # where a setting and its option differ


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
    """The run in a folder."""
    expected = (
        "the folder of a run of `zopde correct`, `compare`, `classify`, `defend` or `certify`"
    )
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
    check_figures(path.parent)
    with reading("metrics file", path, "what the run wrote"):
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return metrics


def changes_from_preset(run: FoundRun) -> tuple[str, Changes]:
    """(preset, setting -> value in TOML) of the preset that a run's settings are nearest to.

    A certification has no presets: "", and what differs from the defaults.
    """
    if not run.study.presets:
        default = as_tree(build(run.study.settings, {run.study.subject: run.subject}))
        given = run.settings.items()
        return "", {key: str(value) for key, value in given if value != default[key]}
    own = run.study.presets_of
    presets = own(run.subject) if own else run.study.presets
    candidates = [(preset, _changes(run, preset)) for preset in presets]
    return min(candidates, key=lambda pair: len(pair[1]))


def reproduce(run: FoundRun) -> str:
    """The command line that makes the run again, whether its folder is at hand or not."""
    preset, changes = changes_from_preset(run)
    chunk = run.root / _CHUNK
    if chunk.exists():
        # It was measured: on another machine it may come out otherwise, and with it round-off.
        changes = {**changes, "zo.chunk": chunk.read_text(encoding="utf-8").strip()}
    words = ["zopde", run.study.name, *([run.subject] if run.subject else [])]
    if preset not in ("quick", ""):
        words += ["--preset", preset]
    if run.study.presets:
        options = [f"--set {shlex.quote(f'{key}={value}')}" for key, value in changes.items()]
    else:
        options = [
            f"--{_OPTION.get(key, key)} {shlex.quote(str(each))}"
            for key in changes
            for each in _each(run.settings[key])
        ]
    return " \\\n  ".join([shlex.join(words), *options, f"--out runs/{shlex.quote(run.name)}"])


def _each(value: Any) -> Sequence[Any]:  # noqa: ANN401
    """Values of an option that may be repeated; one, where it may not."""
    return value if isinstance(value, list | tuple) else [value]


def _changes(run: FoundRun, preset: str) -> Changes:
    subject = {run.study.subject: literal(run.subject)} if run.study.subject else {}
    default, changes = _loaded(run, preset, subject), Changes()
    decisive = look_up(run.settings, _DECIDES)
    if decisive not in (None, default.get(_DECIDES)):
        changes[_DECIDES] = literal(decisive)
        default = _loaded(run, preset, subject | changes)
    for name, value in dotted(run.settings).items():
        if name != run.study.subject and default.get(name) != value:
            changes[name] = literal(value)
    return changes


def _loaded(run: FoundRun, preset: str, laid_over: Changes) -> Tree:
    assert run.study.load is not None
    texts = [f"{name}={text}" for name, text in laid_over.items()]
    return dotted(as_tree(run.study.load(preset, None, texts)))


def dotted(tree: Tree) -> Tree:
    """Settings by dotted name; a certification's are in no table."""
    named: Tree = {}
    for table, values in tree.items():
        if isinstance(values, Mapping):
            named.update({f"{table}.{key}": value for key, value in values.items()})
        else:
            named[table] = values
    return named
