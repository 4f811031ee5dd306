"""A user's function on a line and in a box, from the command line."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from shifting import STEP, TABLE

from zopde import (
    Grid,
    InputError,
    Scenario,
    Trajectories,
    load_config,
    load_corrector,
    load_solver,
    run_correction,
    save_trajectories,
)
from zopde.cli.app import _run

BOUNDED = TABLE + "boundary = {boundary}\n"
CHANGES = """
data.train=2 data.test=1 training.unroll=2 corrector.sizes={width=3} zo.sparsity=0.5
run.labels=["SRC","NOG","ZO-weights","ZO-interface"] non.length="30_iterations"
training.length="4_iterations"
"""


@pytest.mark.parametrize(
    ("shape", "boundary"),
    [((16,), ["periodic"]), ((6, 5, 4), ["periodic", "open", "periodic"])],
    ids=["line", "box"],
)
def test_a_solver_is_checked_corrected_and_reported(shape, boundary, tmp_path, monkeypatch, capsys):
    """The correctors take a fifth of the error at least, and their files are read back."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(STEP)
    extent = [1.0] * len(shape)
    text = BOUNDED.format(shape=list(shape), extent=extent, boundary=boundary)
    Path("case.toml").write_text(text)

    def zopde(*words):
        monkeypatch.setattr(sys, "argv", ["zopde", *words])
        assert _run() == 0, capsys.readouterr().err
        return capsys.readouterr().out

    found = json.loads(zopde("check", "solver", "case.toml", "--json"))
    points = {point["name"]: point for point in found["points"]}
    assert points["contract"]["verdict"] == points["interface mu"]["verdict"] == "pass"
    assert points["weight mu"]["values"]["relative_error"] < 0.01
    assert {cut["cut"] for cut in found["costs"]} >= {"weights", "interface, coloured"}
    states = [torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(0))]
    for _ in range(6):  # what the function answers, and diffusion along the first axis
        u = states[-1]
        states.append(u - 0.2 * (u - u.roll(1, -1)) + 0.1 * (u.roll(1, 2) - u))
    truth = Trajectories(load_solver("case.toml").grid, torch.stack(states, 1))
    save_trajectories(truth, "mine.nc")
    words = ["correct", "case.toml", "--data", "mine.nc", "--out", "run"]
    for change in CHANGES.split():
        words += ["--set", change.replace("_", " ")]
    zopde(*words, "--dry-run")
    zopde(*words)
    metrics = json.loads(Path("run/metrics.json").read_text())
    for label in ("NOG", "ZO-weights", "ZO-interface"):
        assert metrics["mae"][label]["mean"] < 0.8 * metrics["mae"]["SRC"]["mean"]
        network = load_corrector(Path("run") / label / "seed-0" / "model.safetensors")
        assert network.state_scale.shape == (1, *[1] * len(shape))
        assert network(truth.states[:, 0]).shape == truth.states[:, 0].shape
    zopde("report", "run")
    page = Path("run/report.html").read_text()
    assert Path("run/fields.png").read_bytes().startswith(b"\x89PNG")
    assert {"<h2>Fields</h2>", "<h2>Energy spectrum</h2>"} <= set(re.findall("<h2>.*?</h2>", page))
    assert page.count("data:image/gif") == (len(shape) == 3)


class Line:
    """Upwind advection in one dimension, that makes its own data."""

    def __init__(self, shape=(8,)):
        self.grid = Grid(tuple(shape), (1.0,) * len(shape), 0.01, ("u",))

    def step(self, state, forcing=None):
        return state - self.grid.dt / self.grid.spacing[0] * (state - state.roll(1, 2))

    @property
    def options(self):
        return {}

    def at(self, shape):
        return Line(shape)

    def scenario(self, simulations, generator):
        turns = torch.tensor(self.grid.centres(0)) + torch.rand(
            simulations, 1, 1, generator=generator
        )
        return Scenario(torch.sin(6.283 * turns), None)


def test_reference_data_of_one_dimension_are_made(tmp_path, tiny):
    tables = {"solver": {"spec": f"{__file__}:Line"}}
    changes = [*tiny, "data.fine=[64]", "data.coarse=[8]", 'run.labels=["SRC","NOG"]']
    metrics = run_correction(load_config("quick", None, changes, tables), tmp_path / "run")
    assert metrics["mae"]["NOG"]["mean"] < metrics["mae"]["SRC"]["mean"]
    for change in ("data.fine=[64,64]", "data.coarse=[4,4]"):
        name = change.partition("=")[0]
        config = load_config("quick", None, [*changes, change], tables)
        with pytest.raises(InputError, match=f"{name}: got .*for each of x"):
            run_correction(config, tmp_path / "no")
