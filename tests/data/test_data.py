from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import (
    Grid,
    InputError,
    SolverError,
    Trajectories,
    downsample,
    load_trajectories,
    save_trajectories,
)
from zopde.data import (
    Windows,
    first_steps,
    from_dataset,
    later_steps,
    load_rollout,
    simulate,
    to_dataset,
)


@pytest.fixture
def data(toy, gen):
    coarse = toy.at((4, 4))
    made = simulate(
        toy, lambda fine: downsample(fine, (4, 4)), coarse.grid, 3, skip=2, steps=6, generator=gen
    )
    settings = {"solver": "toy", "seed": 0, "skip": 2, "zopde_version": "0"}
    return Trajectories(made.grid, made.states, made.forcing, settings)


def test_simulate_follows_the_solver(toy, gen, data):
    scenario = toy.scenario(3, gen.manual_seed(0))
    state = scenario.initial
    for t in range(3):
        state = toy.step(state, scenario.forcing(t))
    assert data.states.shape == (3, 7, 2, 4, 4)
    torch.testing.assert_close(data.states[:, 1], downsample(state, (4, 4)))
    torch.testing.assert_close(data.forcing[:, 1], downsample(scenario.forcing(3), (4, 4)))


def test_simulate_brings_states_and_forcing_over_each_in_its_way(toy, gen):
    def corner(fine):
        return fine[:, :, ::2, ::2]

    grid = toy.at((4, 4)).grid
    made = simulate(
        toy, corner, grid, 3, 0, 2, gen, coarse_forcing=lambda fine: downsample(fine, (4, 4))
    )
    scenario = toy.scenario(3, gen.manual_seed(0))
    assert torch.equal(made.states[:, 0], corner(scenario.initial))
    torch.testing.assert_close(made.forcing[:, 1], downsample(scenario.forcing(1), (4, 4)))


def test_dataset_layout(data):
    dataset = to_dataset(data)
    assert dict(dataset.sizes) == {"simulation": 3, "time": 7, "y": 4, "x": 4}
    assert set(dataset.data_vars) == {"velocity_y", "velocity_x", "force_y", "force_x"}
    assert dataset["velocity_x"].attrs["units"] == "m/s"
    assert dataset["time"].values[0] == pytest.approx(0.2)
    assert dataset.attrs["dt"] == 0.1
    assert dataset.attrs["extent"] == [8.0, 8.0]
    assert {"solver", "seed", "zopde_version"} <= set(dataset.attrs)


def test_saved_and_loaded_is_identical(data, tmp_path):
    save_trajectories(data, tmp_path / "new" / "data.nc")
    back = load_trajectories(tmp_path / "new" / "data.nc", data.grid, data.settings)
    assert torch.equal(back.states, data.states)
    assert torch.equal(back.forcing, data.forcing)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data.nc"]


def test_other_settings_name_the_difference(data, tmp_path):
    save_trajectories(data, tmp_path / "data.nc")
    wanted = {**data.settings, "seed": 7, "zopde_version": "1"}
    with pytest.raises(InputError, match=r"setting 'seed' of data file .*got 0, expected 7"):
        load_trajectories(tmp_path / "data.nc", data.grid, wanted)


def test_missing_and_truncated_files_raise(data, tmp_path):
    with pytest.raises(InputError, match="existing NetCDF file"):
        load_trajectories(tmp_path / "none.nc", data.grid)
    path = tmp_path / "data.nc"
    save_trajectories(data, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="unreadable"):
        load_trajectories(path, data.grid)
    path.write_text("this is no NetCDF")
    with pytest.raises(InputError, match="unreadable"):
        load_trajectories(path, data.grid)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.drop_vars("velocity_x"), "a variable 'velocity_x'"),
        (lambda d: d.isel(x=slice(0, 3)), r"got \(4, 3\) cells, expected \(4, 4\)"),
        (lambda d: d.rename(x="z"), "dims"),
        (lambda d: d.where(d["time"] < 0.5), "NaN or infinity, first at"),
        (lambda d: d.assign_attrs(dt=0.2), "data dt: got"),
        (lambda d: d.assign_attrs(extent=[8.0, 9.0]), "data extent"),
    ],
)
def test_data_that_does_not_fit_raises(data, spoil, words):
    with pytest.raises(InputError, match=words):
        from_dataset(spoil(to_dataset(data)), data.grid)


def test_a_users_own_dataset_needs_no_settings(data):
    plain = xr.Dataset(
        {
            name: (("time", "simulation", "x", "y"), np.full((5, 2, 4, 4), i, dtype=np.float32))
            for i, name in enumerate(("velocity_y", "velocity_x", "force_y", "force_x"))
        }
    )
    found = from_dataset(plain, data.grid)
    assert found.states.shape == (2, 5, 2, 4, 4)
    assert found.forcing[:, :, 1].unique().tolist() == [3.0]


def test_a_constant_channel_has_its_size_for_a_scale():
    """Its standard deviation is round-off, and a correction in units of that moves nothing."""
    grid = Grid((8, 8), (1.0, 1.0), 0.1, ("u", "v", "w"), ("viscosity",))
    states = torch.zeros(2, 5, 3, 8, 8)
    states[:, :, 0], states[:, :, 1] = 300.0, torch.randn(2, 5, 8, 8)
    data = Trajectories(grid, states, torch.full((2, 5, 1, 8, 8), 0.2))
    assert float(data.forcing.std()) < 1e-7
    torch.testing.assert_close(data.forcing_scale(), torch.tensor([0.2]))
    expected = torch.tensor([300.0, float(states[:, :, 1].std()), 1.0])
    torch.testing.assert_close(data.state_scale(), expected)


def test_scales_are_standard_deviations(data):
    expected = data.states[:, :, 1].std()
    torch.testing.assert_close(data.state_scale()[1], expected)


def test_first_steps_are_the_solvers(toy, data):
    coarse = toy.at((4, 4))
    stepped = first_steps(coarse, data, chunk=5)
    assert stepped.shape == (3, 6, 2, 4, 4)
    alone = coarse.step(data.states[1:2, 4], data.forcing[1:2, 4])[0]
    torch.testing.assert_close(stepped[1, 4], alone)


def test_window_is_a_stretch_of_the_data(data):
    windows = Windows(data, data.states[:, :-1], unroll=3, batch=2, seed=0)
    window = windows.batch(0)
    assert window.targets.shape == (2, 3, 2, 4, 4)
    starts = [(s, t) for s in range(3) for t in range(4)]
    place = next(
        (s, t) for s, t in starts if torch.equal(data.states[s, t + 1], window.targets[0, 0])
    )
    s, t = place
    assert torch.equal(window.targets[0], data.states[s, t + 1 : t + 4])
    assert torch.equal(window.forcing[0], data.forcing[s, t : t + 3])
    assert torch.equal(window.stepped[0], data.states[s, t])


def test_epoch_covers_every_window_once(data):
    windows = Windows(data, data.states[:, :-1], unroll=3, batch=2, seed=0)
    assert windows.per_epoch == 6
    firsts = torch.cat([windows.batch(i).stepped for i in range(6)])
    assert len(torch.unique(firsts.flatten(1), dim=0)) == 12


def test_batch_is_a_function_of_the_iteration_resumes(data):
    one = Windows(data, data.states[:, :-1], unroll=3, batch=2, seed=0)
    for i in range(9):
        one.batch(i)
    other = Windows(data, data.states[:, :-1], unroll=3, batch=2, seed=0)
    assert torch.equal(one.batch(9).stepped, other.batch(9).stepped)
    assert not torch.equal(one.batch(3).stepped, one.batch(9).stepped)


def test_a_state_of_no_number_is_not_a_changed_one(toy, data):
    data.states[0, 0] = torch.nan
    with pytest.raises(SolverError, match="NaN or infinity for stored state 0"):
        first_steps(toy.at((4, 4)), data)


def test_too_long_a_window_raises(data):
    with pytest.raises(InputError, match="unroll: got 7, expected at most the data's 6 steps"):
        Windows(data, data.states[:, :-1], unroll=7, batch=2, seed=0)


def test_a_window_of_several_steps_to_a_target_is_a_stretch_of_the_data(data):
    """Its targets are every second state of the data, and it may start at any."""
    stepped, starts = data.states[:, :-2], set()
    windows = Windows(data, stepped, unroll=2, batch=1, seed=0, every=2)
    assert windows.per_epoch == 3 * 3
    for i in range(9):
        window = windows.batch(i)
        assert window.targets.shape == (1, 2, 2, 4, 4)
        assert window.forcing.shape == (1, 2, 2, 2, 4, 4)
        same = (data.states == window.initial).flatten(2).all(dim=2)
        s, t = same.nonzero()[0].tolist()
        starts.add((s, t))
        assert torch.equal(window.targets[0], data.states[s, [t + 2, t + 4]])
        forcing = torch.stack([data.forcing[s, t : t + 2], data.forcing[s, t + 2 : t + 4]])
        assert torch.equal(window.forcing[0], forcing)
        assert torch.equal(window.stepped[0], stepped[s, t])
    assert starts == {(s, t) for s in range(3) for t in range(3)}


def test_windows_of_several_steps_that_are_longer_than_the_data_raise(data):
    words = "unroll: got 4 times 2 steps, expected at most the data's 6 steps"
    with pytest.raises(InputError, match=words):
        Windows(data, data.states[:, :-2], unroll=4, batch=2, seed=0, every=2)
    with pytest.raises(InputError, match="stepped: got 6 times, expected 5: see later_steps"):
        Windows(data, data.states[:, :-1], unroll=2, batch=2, seed=0, every=2)
    with pytest.raises(InputError, match="every: got 0"):
        Windows(data, data.states[:, :-1], unroll=4, batch=2, seed=0, every=0)


def test_later_steps_are_the_solvers_exact(toy, data):
    coarse, asked = toy.at((4, 4)), []
    stepped = first_steps(coarse, data)
    later = later_steps(coarse, data, stepped, 3, asked.append)
    assert later.shape == (3, 4, 2, 4, 4)
    assert sum(asked) == 3 * (5 + 4)
    expected = data.states[:, 1]
    for k in range(3):
        expected = coarse.step(expected, data.forcing[:, 1 + k])
    assert torch.equal(later[:, 1], expected)
    assert later_steps(coarse, data, stepped, 1) is stepped


def test_later_steps_have_noise_of_their_own(data):
    class Seeds:
        def __init__(self, seen):
            self.grid, self.seen = data.grid, seen

        def with_seed(self, seed):
            self.seen.append(seed)
            return self

        def step(self, state, forcing=None):
            return state

    seen = []
    solver = Seeds(seen)
    later_steps(solver, data, first_steps(solver, data, chunk=7), 3)
    assert seen[:3] == [0, 7, 14]  # as ever
    assert len(seen) == len(set(seen)) == 5


def test_later_steps_of_no_number_stay_where_the_first_ones_do(toy, data):
    coarse = toy.at((4, 4))
    stepped = first_steps(coarse, data)
    stepped[1, 2] = torch.nan
    later = later_steps(coarse, data, stepped, 2, drop=True)
    assert [tuple(place) for place in (~later.flatten(2).isfinite().all(2)).nonzero()] == [(1, 2)]
    windows = Windows(data, later, unroll=2, batch=1, seed=0, every=2)
    assert windows.per_epoch == 3 * 3 - 1


def test_every_third_state_is_at_its_time_in_a_file(data, tmp_path):
    strided = data.strided(3)
    assert strided.steps == 2
    assert torch.equal(strided.states, data.states[:, [0, 3, 6]])
    assert torch.equal(strided.forcing[:, 1], data.forcing[:, 3:6])
    only_states = Trajectories(
        replace(strided.grid, forcing_channels=()), strided.states, None, strided.settings
    )
    save_trajectories(only_states, tmp_path / "strided.nc")
    with xr.open_dataset(tmp_path / "strided.nc") as file:
        np.testing.assert_allclose(file["time"], 0.1 * (2 + np.array([0, 3, 6])))
    assert load_rollout(tmp_path / "strided.nc").grid.dt == pytest.approx(0.3)
    assert data.strided(4).steps == 1
    assert data.strided(1) is data


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda u, v: v / 0, "NaN or infinity for stored state 0"),
        (lambda u, v: u.copy_(v), "changed argument"),
    ],
)
def test_a_solver_that_answers_wrongly_is_found_out(toy, data, spoil, words):
    coarse = toy.at((4, 4))

    class Broken:
        grid = coarse.grid

        def step(self, state, forcing=None):
            return spoil(state, coarse.step(state, forcing))

    with pytest.raises(SolverError, match=words):
        first_steps(Broken(), data)


def test_a_dataset_that_is_read_stays_as_it_is():
    """Also where a forcing that does not change is repeated."""
    grid = Grid((3,), (3.0,), 1.0, ("u",), ("f",))
    dims = ("simulation", "time", "x")
    dataset = xr.Dataset({"u": (dims, np.ones((2, 4, 3))), "f": ("x", np.arange(3.0))})
    before = dataset.copy(deep=True)
    assert from_dataset(dataset, grid).forcing.shape == (2, 4, 1, 3)
    xr.testing.assert_identical(dataset, before)
