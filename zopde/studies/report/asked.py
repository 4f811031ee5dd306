"""What was asked of a run, and the command that asks it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from zopde.studies import classify, defend
from zopde.studies.certify import CertifyConfig
from zopde.studies.correct.settings import PRESETS, load_config
from zopde.studies.folder import CHUNK
from zopde.studies.report.runs import FoundRun
from zopde.studies.settings import Tree, as_tree, literal

Changes = dict[str, str]
_PRESETS = {
    "correct": PRESETS,
    "classify": classify.PRESETS,
    "defend": defend.PRESETS,
}
_OPTION = {"images": "max-images"}  # where a setting and its option differ


def asked(run: FoundRun) -> tuple[str, Changes]:
    """(preset, setting -> value in TOML) of the preset that a run's settings are nearest to.

    A certification has no presets: "", and what differs from the defaults.
    """
    if run.command == "certify":
        return "", _options(run)
    found = [(preset, _changes(run, preset)) for preset in _PRESETS[run.command]]
    return min(found, key=lambda pair: len(pair[1]))


def reproduce(run: FoundRun) -> str:
    """The command line that makes the run again, whether its folder is at hand or not."""
    preset, changes = asked(run)
    chunk = run.root / CHUNK
    if chunk.exists():
        # It was measured: on another machine it may come out otherwise, and with it round-off.
        changes = {**changes, "zo.chunk": chunk.read_text(encoding="utf-8").strip()}
    words = ["zopde", run.command, *([run.subject] if run.subject else [])]
    if preset not in ("quick", ""):
        words += ["--preset", preset]
    if run.command == "certify":
        given = [f"--{_OPTION.get(key, key)} {shlex.quote(v)}" for key, v in changes.items()]
    else:
        given = [f"--set {shlex.quote(f'{key}={value}')}" for key, value in changes.items()]
    return " \\\n  ".join([shlex.join(words), *given, f"--out runs/{shlex.quote(run.name)}"])


def _options(run: FoundRun) -> Changes:
    default = as_tree(CertifyConfig(run.subject))
    return {key: str(value) for key, value in run.settings.items() if value != default[key]}


def _changes(run: FoundRun, preset: str) -> Changes:
    given: Changes = {}
    if run.command == "correct":
        tables: dict[str, Tree] = {"solver": {"spec": run.subject}}
        inject = run.settings.get("corrector", {}).get("inject", "after")
        if inject != "after":  # the preset's labels and start depend on it
            tables["corrector"] = {"inject": inject}
            given["corrector.inject"] = literal(inject)
        default = as_tree(load_config(preset, None, (), tables))
    elif run.command == "classify":
        default = as_tree(classify.load_classification(preset))
    else:
        default = as_tree(defend.load_defence(preset))
    for table, settings in run.settings.items():
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            if default.get(table, {}).get(key) != value:
                given[f"{table}.{key}"] = literal(value)
    given.pop("solver.spec", None)
    return given
