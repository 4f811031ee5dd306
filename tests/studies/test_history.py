"""Runs of a network that sees earlier states."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import CorrectedSolver, InputError, load_corrector, load_solver, rollout
from zopde.errors import PausedError
from zopde.studies.correct import export_corrector, load_config, run_correction

SPRINGS = """
import torch
from zopde import Grid


class Springs:
    '''Positions of springs, one in each cell; the solver does not move them.'''

    differentiable = False

    def __init__(self):
        self.grid = Grid((4,), (4.0,), 0.1, ("u",))

    def step(self, state, forcing=None):
        return state * 1.0 if self.differentiable else state.detach() * 1.0

    def differentiable_twin(self):
        twin = Springs()
        twin.differentiable = True
        return twin
"""
CHANGES = [
    *("data.train=6", "data.test=2", "corrector.sizes={width=8,depth=2,kernel=1}"),
    *("training.unroll=4", "training.batch=8", "interface.way=dense", "run.dtype=float64"),
    *('non.length="400 iterations"', 'training.length="20 iterations"', "interface.mu=1e-5"),
]


def config_of(home, *changes):
    """Springs that are released at rest and swing, 25 steps a time; of their speed nothing is
    known but by the positions before.
    """
    (home / "springs.py").write_text(SPRINGS)
    amplitudes = np.random.default_rng(0).uniform(0.5, 1.5, (8, 1, 4))
    swing = np.cos(2 * np.pi * np.arange(51) / 25)[None, :, None]
    data = {"u": (("simulation", "time", "x"), amplitudes * swing)}
    xr.Dataset(data).to_netcdf(home / "data.nc", engine="h5netcdf")
    tables = {"solver": {"spec": f"{home / 'springs.py'}:Springs"}}
    path = [f"data.path={home / 'data.nc'}"]
    return load_config("quick", None, [*CHANGES, *path, *changes], tables)


def model(folder, label):
    return folder / label / "seed-0" / "model.safetensors"


def states_of(path, *names):
    with xr.open_dataset(path) as file:
        return torch.stack([torch.from_numpy(file[name].values) for name in names], dim=2)


def test_a_hidden_speed_is_learned_from_the_positions_before_alone(tmp_path):
    labels = "data.validation=1", 'run.labels=["SRC","ZO-interface"]'
    runs = [tmp_path / "without", tmp_path / "with"]
    found = [
        run_correction(config_of(tmp_path, *labels, f"corrector.history={history}"), folder)
        for history, folder in enumerate(runs)
    ]
    blind, told = (metrics["mae"]["ZO-interface"]["mean"] for metrics in found)
    assert blind > 0.5 * found[0]["mae"]["SRC"]["mean"]
    assert told < 0.3 * blind
    assert found[0]["solver_steps"] == found[1]["solver_steps"]
    # Whoever has the file and the solver goes on from here
    network = load_corrector(model(runs[1], "ZO-interface"))
    corrected = CorrectedSolver(load_solver(f"{tmp_path / 'springs.py'}:Springs"), network)
    expected = states_of(model(runs[1], "ZO-interface").with_name("rollout.nc"), "u")
    again = rollout(corrected, expected[:, 0], 50)
    torch.testing.assert_close(again, expected)
    with pytest.raises(InputError, match=r"past of a corrected step: got none.*zopde\.rollout"):
        corrected.step(expected[:, 0])
    with pytest.raises(InputError, match=r"export: got corrector\.history = 1"):
        export_corrector(runs[1], tmp_path / "c.pt2")


@pytest.mark.parametrize(
    ("inject", "every"),
    [
        ("after", 1),
        pytest.param("before", 2, marks=pytest.mark.slow),
        pytest.param("forcing", 1, marks=pytest.mark.slow),
        pytest.param("parameter", 1, marks=pytest.mark.slow),
    ],
)
def test_runs_of_all_kinds_end_as_with_the_twin(
    inject, every, tmp_path, toy_spec, tiny, forecast, caplog
):
    """With a clock; the price is known before, and a run resumes exactly."""
    labels = ["SRC", "ID", "ZO-weights", "ZO-interface", "SOL"]
    own = ["corrector.history=2", "corrector.periods=[0.7]", f"corrector.inject={inject}"]
    own += [f"corrector.every={every}", "training.init=scratch"]
    own += ["zo.score=none", "run.dtype=float64", f"run.labels={json.dumps(labels)}"]
    own += ["interface.mu=1e-6", "training.nudge=0.1"]

    def config(*more):
        return load_config("quick", None, [*tiny, *own, *more], {"solver": {"spec": toy_spec}})

    metrics = run_correction(config(), tmp_path / "run")
    assert not [record for record in caplog.records if record.name.startswith("zopde.oracle")]
    states = [
        states_of(model(tmp_path / "run", name).with_name("rollout.nc"), "velocity_y")
        for name in ("SRC", "ZO-interface", "SOL")
    ]
    uncorrected, zo, sol = states
    assert (zo - sol).norm() < 1e-4 * (uncorrected - sol).norm()
    planned = forecast(config(), tmp_path / "none.nc")
    assert {row.label: row.solver_steps for row in planned} == metrics["solver_steps"]
    network = load_corrector(model(tmp_path / "run", "ZO-interface"))
    assert (network.history, network.told, network.every) == (2, ("sin 0.7", "cos 0.7"), every)
    limit = metrics["solver_steps"]["ID"] + metrics["solver_steps"]["ZO-weights"] // 2
    with pytest.raises(PausedError):
        run_correction(config(f"run.solver_steps={limit}"), tmp_path / "again")
    again = run_correction(config(), tmp_path / "again", resume=True)
    assert again["mae"] == metrics["mae"]


def test_a_push_and_a_negative_number_are_refused(tmp_path):
    for change, said in (
        ('run.labels=["SRC","PUSH"]', r"run\.labels: got PUSH with corrector\.history = 1"),
        ("corrector.history=-1", r"corrector\.history: got -1, expected a whole number"),
    ):
        with pytest.raises(InputError, match=said):
            config_of(tmp_path, "corrector.history=1", change)
