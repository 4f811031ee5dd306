"""The commands that one factory makes: which options they have, and what these stand for."""

import inspect
import json
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from zopde.cli import study as commands
from zopde.cli.app import app
from zopde.cli.options import SETTING_OF
from zopde.studies.run import study_named
from zopde.studies.settings import as_tree

STUDIES = ("correct", "compare", "classify", "defend", "prompt")
OF_ALL = {
    *("preset", "config_file", "changes", "seeds", "out"),
    *("resume", "overwrite", "dry_run", "as_json"),
}
VALUES = {
    "solver": "somewhere.py:Mine",
    "classifier": "model.safetensors",
    "data": "here",
    "device": "cpu",
    "chunk": 7,
    "executor": "dask://somewhere:1",
    "failures": "drop",
    "store": "answers",
    "budget": 5000,
}


def own_options(name):
    parameters = inspect.signature(getattr(commands, name)).parameters
    assert parameters.keys() > OF_ALL
    return [option for option in parameters if option not in OF_ALL]


def test_every_option_that_stands_for_a_setting_is_one_of_a_command():
    assert {option for name in STUDIES for option in own_options(name)} == set(SETTING_OF)


@pytest.mark.parametrize("name", STUDIES)
def test_every_own_option_stands_for_a_setting_of_the_study(name):
    tables = get_type_hints(study_named(name).settings).items()
    settings = {f"{table}.{key}" for table, kind in tables for key in get_type_hints(kind)}
    assert {SETTING_OF[option] for option in own_options(name)} <= settings


def asked_of(name, words, monkeypatch):
    """What a command asks `run_study` for: study, settings, folder, resume, overwrite."""
    calls = []
    monkeypatch.setattr(
        "zopde.studies.run.run_study", lambda *given: calls.append(given[:5]) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(app, [name, *words], catch_exceptions=False)
    return calls[0]


@pytest.mark.parametrize("name", STUDIES)
def test_an_option_becomes_its_setting_exact(name, monkeypatch):
    options = own_options(name)
    words = [VALUES["solver"]] if "solver" in options else []
    for option in options:
        words += [] if option == "solver" else [f"--{option}", str(VALUES[option])]
    study, settings, folder, resume, overwrite = asked_of(name, words, monkeypatch)
    assert study.name == name
    tree = as_tree(settings)
    for option in options:
        table, key = SETTING_OF[option].split(".")
        assert tree[table][key] == VALUES[option]
    stem = {"correct": "somewhere.py-Mine", "compare": "somewhere.py-Mine-compare"}.get(name, name)
    assert folder == Path("runs") / f"{stem}-quick"
    assert (resume, overwrite) == (False, False)


@pytest.mark.parametrize("name", STUDIES)
def test_without_options_the_settings_are_the_preset_exact(name, monkeypatch):
    words = [VALUES["solver"]] if "solver" in own_options(name) else []
    words += ["--set", "run.seeds=[3]", "--out", "there", "--resume"]
    study, settings, folder, resume, overwrite = asked_of(name, words, monkeypatch)
    tables = {"solver": {"spec": words[0]}} if "solver" in own_options(name) else {}
    assert settings == study.load("quick", None, ["run.seeds=[3]"], tables)
    assert (folder, resume, overwrite) == (Path("there"), True, False)


@pytest.mark.parametrize("name", STUDIES)
def test_so_many_seeds_are_the_first_ones_exact(name, monkeypatch):
    words = [VALUES["solver"]] if "solver" in own_options(name) else []
    _, settings, *_ = asked_of(name, [*words, "--seeds", "3", "--out", "there"], monkeypatch)
    assert as_tree(settings)["run"]["seeds"] == [0, 1, 2]


def test_certify_hands_every_option_on_exact(monkeypatch):
    from zopde.studies.certify import CertifyConfig

    values = {
        "data": "here",
        "part": "train",
        "scale": 2.0,
        "sigma": 0.5,
        "n0": 3,
        "n": 40,
        "alpha": 0.25,
        "decide": (0.125, 0.25),
        "batch": 5,
        "every": 6,
        "images": 7,
        "seed": 8,
        "device": "cpu",
    }
    words = [
        word
        for key, value in values.items()
        for each in (value if isinstance(value, tuple) else [value])
        for word in (f"--{'max-images' if key == 'images' else key}", str(each))
    ]
    calls = []
    monkeypatch.setattr(
        "zopde.studies.certify.run_certification", lambda *given: calls.append(given) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(app, ["certify", "mine", *words], catch_exceptions=False)
    assert calls[0][0] == CertifyConfig(model="mine", **values)


@pytest.mark.parametrize(("why", "code"), [("a gradient that is not finite", 1), ("", 0)])
def test_a_run_in_which_every_training_was_given_up_ends_with_1(
    why, code, toy_spec, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zopde.training.loop._why_stopped", lambda *_: why)
    changes = [*tiny, 'run.labels=["SRC","NOG"]', "training.init=scratch"]
    words = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, ["correct", toy_spec, *words])
    assert done.exit_code == code
    (metrics,) = (tmp_path / "runs").glob("*/metrics.json")
    assert (code == 1) == ("NOG" in json.loads(metrics.read_text())["stopped_early"])
    assert "NOG" in done.stdout


@pytest.mark.parametrize(
    ("stopped", "given_up"),
    [
        ({"SRC": "", "NON": "why"}, True),
        ({"NON": "why"}, True),
        ({"SRC": "", "NON": ""}, False),
        ({}, False),
    ],
)
def test_a_label_that_is_not_trained_is_not_given_up_exact(stopped, given_up):
    iterations = {"SRC": 0, "NON": 0 if given_up else 9}
    assert commands._none_ended({"stopped_early": stopped, "iterations": iterations}) == given_up
    assert not commands._none_ended({"stopped_early": stopped, "iterations": {"NOG": 9, "NON": 3}})
