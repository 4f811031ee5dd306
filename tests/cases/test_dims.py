"""A user's function on a line and in a box, from the command line."""

import json
import sys
from pathlib import Path

import pytest
import torch

from zopde import Trajectories, load_corrector, load_solver, save_trajectories
from zopde.cli.app import _run

STEP = "import numpy as np\n\n\ndef step(u):\n    return u - 0.2 * (u - np.roll(u, 1, -1))\n"
TABLE = """solver = "callable"
function = "mine.py:step"
[grid]
shape = {shape}
extent = {extent}
dt = 0.1
channels = ["u"]
boundary = {boundary}
"""
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
    text = TABLE.format(shape=list(shape), extent=extent, boundary=boundary)
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
