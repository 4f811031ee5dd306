"""Files of the layout of The Well: read, written, and read by its own package where it is there."""

import h5py
import numpy as np
import pytest
import torch

from zopde import Grid, InputError, Trajectories, load_trajectories, save_trajectories
from zopde.data import read_well

GRID = Grid((4, 3), (4.0, 1.5), 0.2, ("T", "v_x", "v_y"), ("k",), dims=("x", "y"))
MASK = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]], dtype=bool)


@pytest.fixture
def fields():
    """By (group, name): values, and whether they vary with sample, time, x and y."""
    draw = np.random.default_rng(0).normal
    return {
        ("t0_fields", "T"): (draw(size=(2, 6, 4, 3)), "stxy"),
        ("t0_fields", "k"): (draw(size=(4, 1)), "x"),
        ("t1_fields", "v"): (draw(size=(2, 6, 4, 3, 2)), "stxy"),
        ("t2_fields", "D"): (draw(size=(2, 1, 3, 2, 2)), "sy"),
    }


@pytest.fixture
def path(fields, tmp_path):
    """Written by hand, as the paper's appendix lays a file out."""
    with h5py.File(tmp_path / "flow.hdf5", "w") as file:
        file.attrs.update(dataset_name="flow", grid_type="cartesian", n_spatial_dims=2)
        file.attrs.update(n_trajectories=2, simulation_parameters=["nu"], nu=0.1)
        places = file.create_group("dimensions")
        places.attrs["spatial_dims"] = ["x", "y"]
        axes = {"time": 0.2 * np.arange(6), "x": np.arange(4) + 0.5, "y": 0.5 * np.arange(3)}
        for name, values in axes.items():
            places[name] = values.astype("f4")
            places[name].attrs["sample_varying"] = False
        file.create_group("scalars").attrs["field_names"] = []
        for dim in "xy":
            group = file.create_group(f"boundary_conditions/{dim}_periodic")
            group.attrs.update(bc_type="PERIODIC", associated_dims=[dim], associated_fields=[])
            group["mask"] = np.ones(3, dtype=bool)
        for order in range(3):
            group = file.create_group(f"t{order}_fields")
            group.attrs["field_names"] = [name for of, name in fields if of == f"t{order}_fields"]
        for (of, name), (values, varies) in fields.items():
            file[of][name] = values.astype("f4")
            marks = {"sample_varying": "s" in varies, "time_varying": "t" in varies}
            file[of][name].attrs.update(marks, dim_varying=["x" in varies, "y" in varies])
    return tmp_path / "flow.hdf5"


def test_every_component_of_every_field_is_read(path, fields):
    data = load_trajectories(path, GRID)
    v = fields["t1_fields", "v"][0].astype("f4")
    for channel, wanted in enumerate(
        (fields["t0_fields", "T"][0].astype("f4"), v[..., 0], v[..., 1])
    ):
        assert np.array_equal(data.states[:, :, channel], wanted)
    k = fields["t0_fields", "k"][0].astype("f4")
    assert np.array_equal(data.forcing[1, 5, 0], np.repeat(k, 3, axis=1))
    read = read_well(path)
    assert set(read) == {"T", "k", "v_x", "v_y", "D_xx", "D_xy", "D_yx", "D_yy"}
    d = fields["t2_fields", "D"][0].astype("f4")
    assert np.array_equal(read["D_xy"][1, 4, 2], d[1, 0, :, 0, 1])


def test_axes_in_another_order_and_names_are_the_grids(path, fields):
    grid = Grid((3, 4), (1.5, 4.0), 0.2, ("heat",), dims=("y", "x"))
    data = load_trajectories(path, grid, None, {"T": "heat"})
    wanted = fields["t0_fields", "T"][0].astype("f4").swapaxes(2, 3)
    assert np.array_equal(data.states[:, :, 0], wanted)


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def edited(change):
    def edit(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return edit


def other_times(file):
    del file["dimensions/time"]
    file["dimensions/time"] = np.stack([0.2 * np.arange(6), 0.3 * np.arange(6)])


def walls(file):
    file["boundary_conditions/x_periodic"].attrs["bc_type"] = "WALL"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "got unreadable"),
        (edited(other_times), "time is not the same for all simulations"),
        (edited(walls), "data boundary of x: got open, expected the grid's periodic"),
        (edited(lambda file: file["t0_fields"].pop("T")), "expected a variable 'T'"),
        (edited(lambda file: file.attrs.pop("n_trajectories")), "got unreadable"),
        (edited(lambda file: file.attrs.modify("n_trajectories", 3)), "got unreadable"),
        (edited(lambda file: file["t0_fields/T"].attrs.pop("time_varying")), "got unreadable"),
        (edited(lambda file: file["dimensions"].pop("y")), "got unreadable"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(path, spoil, words):
    load_trajectories(path, GRID)
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        load_trajectories(path, GRID)
    assert "flow.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


GRIDS = [
    Grid((8,), (1.0,), 0.1, ("u",)),
    Grid((4, 3, 5), (1.0, 1.0, 1.0), 0.1, ("v_z", "v_y", "v_x", "p")),
    Grid(
        *((4, 3), (4.0, 1.5), 0.2, ("v_x", "T", "v_y"), ("force_x", "q")),
        boundary=("open", "periodic"),
        mask=MASK,
        weights=np.arange(1.0, 13).reshape(4, 3),
    ),
]


def made(grid):
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(2, 5, *grid.state_shape, generator=draw)
    forcing = torch.randn(2, 5, *grid.forcing_shape, generator=draw)
    given = grid.filled(forcing) if grid.forcing_channels else None
    return Trajectories(grid, grid.filled(states), given, {"skip": 3})


@pytest.mark.parametrize("grid", GRIDS, ids=["1-D", "3-D", "2-D"])
def test_what_is_written_is_read_exact(grid, tmp_path):
    data = made(grid)
    save_trajectories(data, tmp_path / "new" / "ours.hdf5")
    back = load_trajectories(tmp_path / "new" / "ours.hdf5", grid, data.settings)
    assert torch.equal(back.states, data.states)
    assert (back.forcing is None) == (data.forcing is None)
    assert data.forcing is None or torch.equal(back.forcing, data.forcing)
    if grid.mask is not None:
        other = Grid(grid.shape, grid.extent, grid.dt, ("T",), boundary=grid.boundary)
        with pytest.raises(InputError, match=r"data mask: got another .*1 cells are not"):
            load_trajectories(tmp_path / "new" / "ours.hdf5", other)


@pytest.mark.parametrize("grid", GRIDS, ids=["1-D", "3-D", "2-D"])
def test_the_wells_own_reader_reads_what_is_written(grid, tmp_path):
    well = pytest.importorskip("the_well.data")
    data = made(grid)
    save_trajectories(data, tmp_path / "ours.hdf5")
    read = well.WellDataset(str(tmp_path), n_steps_output=4)
    names = [name for of_order in read.metadata.field_names.values() for name in of_order]
    sample = read[1]
    found = torch.cat([sample["input_fields"], sample["output_fields"]])
    for channel, name in enumerate(grid.channels):
        assert torch.equal(found[..., names.index(name)], data.states[1, :, channel])
    closed = (sample["boundary_conditions"] == 2).all(dim=1)
    assert tuple(closed.tolist()) == grid.periodic
