"""What users found when they tried to break it: small files, right answers."""

import logging
import os
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from zopde import (
    ColouredPullback,
    DensePullback,
    Grid,
    InputError,
    SolverError,
    WeightOracle,
    cge,
    load_images,
    load_trajectories,
)
from zopde.interface import Step
from zopde.studies.correct import load_config, run_correction


@pytest.fixture(scope="module")
def begun(tmp_path_factory, toy_spec):
    """Settings, and the folder of a run that has ended."""
    tiny = ["data.fine=[16,16]", "data.coarse=[4,4]", "data.skip=2", "data.steps=12"]
    tiny += ["data.train=3", "data.test=2", 'run.labels=["SRC","NON"]', "training.unroll=2"]
    tiny += ['training.length="2 iterations"', 'non.length="2 iterations"', "training.batch=2"]
    config = load_config("quick", None, tiny, {"solver": {"spec": toy_spec}})
    folder = tmp_path_factory.mktemp("begun") / "run"
    run_correction(config, folder)
    return config, folder


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.said = []

    def stage(self, title, total):
        from zopde.progress import Silent

        return Silent().stage(title, total)

    def note(self, text):
        self.said.append(text)


@pytest.mark.parametrize("record", ["data.sha256", "solver.digest"])
def test_an_empty_record_is_refused_and_a_missing_one_is_told(record, begun, tmp_path):
    """A resumption compared nothing where the file was empty, as after a power cut."""
    config, finished = begun
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / record).write_bytes(b"")
    with pytest.raises(InputError, match=r"empty .*restore it"):
        run_correction(config, folder, resume=True)
    assert (folder / record).read_bytes() == b""
    os.unlink(folder / record)
    notes = Notes()
    run_correction(config, folder, resume=True, progress=notes)
    assert [text for text in notes.said if "not compared" in text and record in text]


GRID = Grid((4, 4), (4.0, 4.0), 1.0, ("u",))


def dataset(values):
    return xr.Dataset({"u": (("simulation", "time", "y", "x"), values)})


def test_no_simulation_is_one_line(tmp_path):
    dataset(np.zeros((0, 3, 4, 4))).to_netcdf(tmp_path / "none.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="got 0 simulations"):
        load_trajectories(tmp_path / "none.nc", GRID)


def test_states_that_were_never_written_are_told(tmp_path, caplog):
    values = np.random.default_rng(0).normal(size=(2, 5, 4, 4))
    values[0, 0] = 0.0  # a start at rest is nothing to speak of
    dataset(values).to_netcdf(tmp_path / "whole.nc", engine="h5netcdf")
    values[1, 3:] = 0.0
    dataset(values).to_netcdf(tmp_path / "half.nc", engine="h5netcdf")
    with caplog.at_level(logging.WARNING):
        load_trajectories(tmp_path / "whole.nc", GRID)
        assert not caplog.records
        load_trajectories(tmp_path / "half.nc", GRID)
    assert "2 states are zero in every cell, first simulation 1, time 3" in caplog.text


def test_one_huge_number_throughout_is_told_as_that(tmp_path):
    values = np.full((1, 3, 4, 4), 1e39)
    dataset(values).to_netcdf(tmp_path / "huge.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="48 places, and nothing else"):
        load_trajectories(tmp_path / "huge.nc", GRID)


def test_images_of_two_kinds_are_refused(tmp_path):
    byte = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    labels = np.array([0, 1, 0, 1])
    both = {"y_train": labels, "y_test": labels, "x_test": byte}
    np.savez(tmp_path / "x.npz", x_train=byte / 255, **both)
    with pytest.raises(InputError, match=r"test images: got torch.uint8, expected torch.float64"):
        load_images(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", x_train=byte, **both)
    assert load_images(tmp_path / "y.npz").train.pixels.dtype == torch.uint8


def test_an_emptied_record_of_settings_is_told_as_one(begun, tmp_path):
    config, finished = begun
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "config.toml").write_text("")
    with pytest.raises(InputError, match=r"config.toml: got an empty file.*--out"):
        run_correction(config, folder, resume=True)
    assert (folder / "NON").is_dir()


def test_a_solver_that_does_not_use_its_state_is_refused(begun, tmp_path):
    config, _ = begun
    (tmp_path / "constant.py").write_text(
        "import torch\nfrom zopde import Grid\n\n\nclass Constant:\n"
        '    grid = Grid((4, 4), (4.0, 4.0), 1.0, ("u",))\n\n'
        "    def step(self, state, forcing=None):\n        return torch.full_like(state, 0.5)\n"
    )
    values = torch.randn(5, 9, 4, 4, generator=torch.Generator().manual_seed(0)).numpy()
    dataset(values).to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    spec = f"{tmp_path}/constant.py:Constant"
    settings = replace(
        config,
        solver=replace(config.solver, spec=spec),
        data=replace(config.data, path=str(tmp_path / "mine.nc"), coarse=()),
    )
    with pytest.raises(SolverError, match="does it use the state"):
        run_correction(settings, tmp_path / "run")


class Mean(nn.Module):
    """Normalises by a running mean that it writes and reads: BatchNorm as users write it."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(3, 4), nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        hidden = self.a(x)
        with torch.no_grad():
            self.mean.lerp_(hidden.mean(0), 0.1)
        return self.o(torch.tanh(hidden - self.mean))


def test_a_buffer_that_is_written_and_read_again(gen):
    """A graph that is run node by node read it as it was before; o.weight was off by thousands."""
    network, x = Mean().double(), torch.randn(4, 3, generator=gen, dtype=torch.float64)

    def objective(f, probes):
        return f(x.repeat(probes, 1)).view(probes, -1).square().mean(dim=1)

    expected = cge(WeightOracle(network, objective, stacked=False)).gradient
    for _ in range(2):
        found = cge(WeightOracle(network, objective)).gradient
        assert torch.allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize(
    "answer",
    [
        lambda losses: losses.mean(),
        lambda losses: float(losses.mean()),
        lambda losses: None,
        lambda losses: losses.numpy(),
        lambda losses: losses[:, None],
        lambda losses: losses.repeat(4),
    ],
)
def test_an_objective_that_gives_no_losses_is_refused(answer, gen, caplog):
    x = torch.randn(4, 3, generator=gen)

    def objective(f, probes):
        return answer(f(x.repeat(probes, 1)).detach().view(probes, -1).mean(dim=1))

    with pytest.raises(InputError, match=r"objective: got .* one real loss for each probe"):
        cge(WeightOracle(nn.Linear(3, 2), objective))
    assert not caplog.records


@pytest.mark.parametrize("indices", [[0.5], torch.tensor([True, False]), torch.zeros(2, 2)])
def test_indices_that_are_none_are_one_line(indices, gen):
    oracle = WeightOracle(nn.Linear(1, 1), lambda f, p: f(torch.ones(p, 1))[:, 0])
    with pytest.raises(InputError, match="indices: got"):
        cge(oracle, torch.as_tensor(indices))


def test_a_mu_below_the_round_off_is_told_once(gen, caplog):
    x = torch.randn(8, 3, generator=gen)
    oracle = WeightOracle(
        nn.Linear(3, 2), lambda f, p: 1 + f(x.repeat(p, 1)).view(p, -1).square().mean(dim=1)
    )
    cge(oracle, mu=1e-3)
    assert "round-off" not in caplog.text
    cge(oracle, mu=1e-8)
    cge(oracle, mu=1e-8)
    assert caplog.text.count("mu 1e-08: round-off moves a derivative by about") == 1


@pytest.mark.parametrize("make", [DensePullback, partial(ColouredPullback, radius=(1,))])
def test_a_scale_that_is_lost_in_rounding_is_told(make, gen):
    """Deviations of 1 on an offset of 1e5, in float32: every product was zero."""
    grid = Grid((16,), (16.0,), 1.0, ("u",))

    class Diffusion:
        def step(self, state, forcing=None):
            return state + 0.2 * (state.roll(1, 2) + state.roll(-1, 2) - 2 * state)

    solver = Diffusion()
    solver.grid = grid
    state = 1e5 + torch.randn(1, 1, 16, generator=gen)
    v = torch.randn(1, 1, 16, generator=gen)
    where = {} if make is DensePullback else {"grid": grid}
    with pytest.warns(UserWarning, match="lost in the rounding"):
        found = make(scale=torch.ones(1), **where)(Step(solver, state, None, solver.step(state)), v)
    exact = v + 0.2 * (v.roll(1, 2) + v.roll(-1, 2) - 2 * v)
    assert (found - exact).norm() < 0.02 * exact.norm()
