"""Whatever stands in settings, tables, arguments or a command line: right, or refused in a line."""

import dataclasses
import inspect
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import hostile
import pytest
import torch

import zopde
from zopde import Grid, InputError, load_classification, load_config, load_defence, load_solver
from zopde.cli.app import _run, app
from zopde.studies.classify import ClassificationConfig
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.defend import DefenceConfig
from zopde.studies.prompt import PromptConfig, load_prompting

FOREIGN = (
    "unexpected",
    "Traceback",
    "Error:",
    "msgspec",
    "object has no attribute",
    "Input should",
)
GRID = {"shape": [4, 6], "extent": [1.0, 1.5], "dt": 0.1, "channels": ["u"]}
KINDS = {
    CorrectionConfig: load_config,
    ClassificationConfig: load_classification,
    DefenceConfig: load_defence,
    PromptConfig: load_prompting,
}


def refused(function, *arguments, **keywords):
    """The one line in which a call is refused."""
    with pytest.raises(InputError) as caught:
        pytest.fail(f"took {arguments} {keywords}: {function(*arguments, **keywords)}")
    line = str(caught.value)
    assert_plain(line)
    return line


def assert_plain(line):
    """One line with what, got and expected, of nobody else's words."""
    assert "\n" not in line
    assert ": got " in line
    assert ", expected " in line
    assert len(line) < 2000
    assert not [word for word in FOREIGN if word in line], line


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_value_of_a_setting_is_taken(kind):
    tried = 0
    for path, value in hostile.settings(kind, 6):
        refused(KINDS[kind], tables=hostile.nested(path, value))
        text = hostile.as_toml(value)
        if text is not None:
            refused(KINDS[kind], changes=[f"{'.'.join(path)}={text}"])
        tried += 1 + (text is not None)
    assert tried >= 200


TABLES = {
    "callable": {"function": "mine.py:f", "grid": GRID},
    "command": {"command": ["true", "{state}"], "grid": GRID},
    "ctypes": {"library": "none.so", "grid": GRID},
    "http": {"url": "http://127.0.0.1:9", "grid": GRID, "retries": 0},
    "pipe": {"command": ["true"], "grid": GRID},
    "openfoam": {"case": "nowhere", "dt": 1.0},
    "burgers": {},
    "heat-mesh": {},
    "kuramoto-sivashinsky": {},
    "lorenz96": {},
    "tesseract": {"api": "nowhere.py", "grid": GRID},
    "shallow-water": {},
    "turbulence": {},
    "wake": {},
}
LIMITED = ("timeout", "start_timeout", "viscosity", "shape", "concurrency", "substeps")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a user's function, from which everything is called."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def f(u):\n    return u\n")
    return tmp_path


def solver_table(solver, options):
    """Write a solver's table; False where TOML cannot say it."""
    lines = {key: hostile.as_toml(value) for key, value in options.items()}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    Path("case.toml").write_text(f'solver = "{solver}"\n{text}')
    return None not in lines.values()


def test_no_wrong_value_of_a_solvers_table_is_taken(home):
    tried = 0
    for point in entry_points(group="zopde.solvers"):
        for name, value in hostile.arguments(point.load().__init__, 16, LIMITED):
            options = {**TABLES[point.name], name: value}
            refused(load_solver, point.value, options)
            if solver_table(point.value, options):
                refused(load_solver, "case.toml")
                tried += 1
    for name, value in hostile.arguments(Grid, 100, LIMITED):
        if name == "boundary":
            continue
        refused(Grid, **{**GRID, name: value})
        if solver_table("callable", {**TABLES["callable"], "grid": {**GRID, name: value}}):
            refused(load_solver, "case.toml")
            tried += 1
    assert tried >= 1000


class Still:
    """An oracle whose loss never changes."""

    num_coordinates = 3

    def base(self):
        return torch.zeros(())

    def coordinates(self, indices, mu):
        return torch.zeros(len(indices))

    def directions(self, directions, mu):
        return torch.zeros(len(directions))


def front_door(toy):
    """Name of `zopde` -> what it takes beside the wrong value."""
    draw, network = torch.Generator(), torch.nn.Linear(2, 1)
    state, runs = torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 2, 8, 8)
    oracle = {"network": network, "objective": lambda net, probes: torch.zeros(probes)}
    unread = {"path": "nowhere"}
    scales = {"state_scale": torch.ones(1), "forcing_scale": torch.ones(0)}
    certify = {"config": zopde.CertifyConfig("torch.nn:Flatten"), "folder": "taken", "at": (0.0,)}
    return {
        "BankPullback": {"bank": None},
        "CertifyConfig": {"model": "m"},
        "ColouredPullback": {"grid": toy.grid, "radius": (1, 1)},
        "ConvCorrector": {"inputs": 2, "outputs": 2},
        "CorrectedPullback": {"generator": draw},
        "DensePullback": {},
        "ExecutorOracle": {**oracle, "executor": None},
        "Normalised": {"body": network, **scales},
        "RandomPullback": {"generator": draw},
        "RegressedPullback": {"grid": toy.grid, "radius": (1, 1)},
        "ResidualCorrector": {"inputs": 2, "outputs": 2, "width": 2, "blocks": 1},
        "Retrying": {"solver": toy},
        "Smooth": {"base_classifier": lambda x: x, "num_classes": 2, "sigma": 0.1},
        "WeightOracle": oracle,
        "WorkerPool": {"workers": 1},
        "cge": {"oracle": Still()},
        "check_solver": {"config": load_config()},
        "downsample": {"fine": state, "shape": (4, 4)},
        "load_classification": {},
        "load_classifier": unread,
        "load_config": {},
        "load_corrector": unread,
        "load_defence": {},
        "load_defended": unread,
        "load_images": {},
        "load_solver": {"spec": "burgers"},
        "load_trajectories": {**unread, "grid": toy.grid},
        "rge": {"oracle": Still(), "num_directions": 2, "mu": 1e-3, "generator": draw},
        "rollout": {"solver": toy, "initial": state, "steps": 0},
        "rollout_error": {"predicted": runs, "reference": runs},
        "run_certification": certify,
        "save_trajectories": {"trajectories": None, "path": "x"},
        "selfcheck": {"oracle": Still(), "mu": 1e-3, "generator": draw},
        "simulate": {
            **{"solver": toy, "coarse": lambda u: u, "coarse_grid": toy.grid, "generator": draw},
            **{"simulations": 1, "skip": 0, "steps": 1},
        },
        "write_report": {"runs": ["nowhere"]},
    }


# Those that hold what they are given, and number nothing by it.
ANY = {("ExecutorOracle", "kept"), ("rollout", "seeds"), ("ColouredPullback", "bias")}
ANY |= {("load_config", "tables"), ("load_classification", "tables"), ("load_defence", "tables")}


def test_no_wrong_argument_of_a_public_name_is_taken(home, toy):
    (home / "taken").write_text("a file")
    tried = 0
    for name, others in front_door(toy).items():
        called = getattr(zopde, name)
        plain = inspect.isclass(called) and not dataclasses.is_dataclass(called)
        for argument, value in hostile.arguments(called.__init__ if plain else called, 12):
            if (name, argument) not in ANY:
                refused(called, **{**others, argument: value})
                tried += 1
    assert tried >= 700
    assert sorted(path.name for path in home.iterdir()) == ["__pycache__", "mine.py", "taken"][-2:]


BARE = f"{Path(__file__).parent.parent / 'toy_solver.py'}:NoTwin"
# Every one of these is refused for a file that is not there, if not for another reason.
BASES = {
    "correct": [BARE, "--data", "none.nc", "--dry-run"],
    "classify": ["--data", "none.npz", "--dry-run"],
    "defend": ["--data", "none.npz", "--dry-run"],
    "certify": ["torch.nn:Flatten", "--data", "none.npz"],
    "prompt": ["--set", "data.other=none.py:both", "--dry-run"],
    "attack": ["nowhere"],
    "report": ["nowhere"],
    "export": ["nowhere", "--to", "none.pt"],
    "simulate": [BARE, "--out", "mine.py"],
    "serve": ["none.toml"],
    "solvers": [],
    "doctor": [],
    "check gradient": [BARE, "--data", "none.nc"],
    "check solver": [BARE, "--data", "none.nc"],
    "data fetch": ["cifar11"],
}


def test_no_command_line_ends_in_foreign_words(home, monkeypatch, capsys):
    codes, before = [], os.listdir()
    for words in hostile.command_lines(app, BASES, 3):
        monkeypatch.setattr(sys, "argv", ["zopde", *words])
        codes.append(_run())
        shown = capsys.readouterr()
        if codes[-1] == 0 and words[0] in ("solvers", "doctor"):
            assert words[1:] == ["--json", "--"]  # it ends the options, and nothing follows
            continue
        told = [line for line in shown.err.splitlines() if line.startswith("zopde: ")]
        assert codes[-1] == 2, (words, shown.err)
        assert len(told) == 1, (words, shown.err)
        assert_plain(told[0])
        assert "Traceback" not in shown.err
        assert not shown.out
        assert os.listdir() == before, words
    assert len(codes) >= 300
