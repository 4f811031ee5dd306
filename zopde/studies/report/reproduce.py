"""What the settings of a run were, and the command line that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from zopde.studies.folder import look_up
from zopde.studies.report.found import FoundRun
from zopde.studies.settings import Tree, as_tree, build, literal

Changes = dict[str, str]
_CHUNK = "chunk.txt"
# An injection decides the preset's labels and start, so it is laid over the preset first.
_DECIDES = ("corrector.inject", "after")
_OPTION = {"images": "max-images"}  # where a setting and its option differ


def changes_from_preset(run: FoundRun) -> tuple[str, Changes]:
    """(preset, setting -> value in TOML) of the preset that a run's settings are nearest to.

    A certification has no presets: "", and what differs from the defaults.
    """
    if not run.study.presets:
        default = as_tree(build(run.study.settings, {run.study.subject: run.subject}))
        given = run.settings.items()
        return "", {key: str(value) for key, value in given if value != default[key]}
    candidates = [(preset, _changes(run, preset)) for preset in run.study.presets]
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
        options = [f"--{_OPTION.get(key, key)} {shlex.quote(v)}" for key, v in changes.items()]
    return " \\\n  ".join([shlex.join(words), *options, f"--out runs/{shlex.quote(run.name)}"])


def _changes(run: FoundRun, preset: str) -> Changes:
    changes: Changes = {}
    tables: dict[str, Tree] = {}
    if run.study.subject:
        table, _, key = run.study.subject.partition(".")
        tables[table] = {key: run.subject}
    decisive, usual = _DECIDES
    value = look_up(run.settings, decisive)
    if value not in (None, usual):
        table, _, key = decisive.partition(".")
        tables[table] = {key: value}
        changes[decisive] = literal(value)
    assert run.study.load is not None
    default = as_tree(run.study.load(preset, None, (), tables))
    for table, settings in run.settings.items():
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            if default.get(table, {}).get(key) != value:
                changes[f"{table}.{key}"] = literal(value)
    changes.pop(run.study.subject, None)
    return changes
