"""What was asked of a run, and the command that asks it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from zopde.recipes import classification
from zopde.recipes.config import PRESETS, load_config
from zopde.recipes.reporting.runs import FoundRun
from zopde.recipes.runfolder import CHUNK
from zopde.recipes.settings import Tree, as_tree, literal

Changes = dict[str, str]


def asked(run: FoundRun) -> tuple[str, Changes]:
    """(preset, setting -> value in TOML) of the preset that a run's settings are nearest to."""
    found = [(preset, _changes(run, preset)) for preset in _presets(run)]
    return min(found, key=lambda pair: len(pair[1]))


def reproduce(run: FoundRun) -> str:
    """The command line that makes the run again, whether its folder is at hand or not."""
    preset, changes = asked(run)
    chunk = run.root / CHUNK
    if chunk.exists():
        # It was measured: on another machine it may come out otherwise, and with it round-off.
        changes = {**changes, "zo.chunk": chunk.read_text(encoding="utf-8").strip()}
    words = ["zopde", run.command]
    if run.command == "correct":
        words.append(run.settings["solver"]["spec"])
    if preset != "quick":
        words += ["--preset", preset]
    lines = [shlex.join(words)]
    lines += [f"--set {shlex.quote(f'{key}={value}')}" for key, value in changes.items()]
    lines.append(f"--out runs/{shlex.quote(run.name)}")
    return " \\\n  ".join(lines)


def _presets(run: FoundRun) -> tuple[str, ...]:
    return PRESETS if run.command == "correct" else classification.PRESETS


def _changes(run: FoundRun, preset: str) -> Changes:
    spec = run.settings["solver"]["spec"] if run.command == "correct" else ""
    given: Changes = {}
    if run.command == "correct":
        tables: dict[str, Tree] = {"solver": {"spec": spec}}
        inject = run.settings.get("corrector", {}).get("inject", "after")
        if inject != "after":  # the preset's labels and start depend on it
            tables["corrector"] = {"inject": inject}
            given["corrector.inject"] = literal(inject)
        default = as_tree(load_config(preset, None, (), tables))
    else:
        default = as_tree(classification.load_classification(preset))
    for table, settings in run.settings.items():
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            if default.get(table, {}).get(key) != value:
                given[f"{table}.{key}"] = literal(value)
    given.pop("solver.spec", None)
    return given
