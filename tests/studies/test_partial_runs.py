"""Runs on a reference that was measured in part, at some cells or at some times only."""

from dataclasses import replace
from math import inf, isfinite

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.open import open_correction
from zopde.studies.correct.rollouts import until_measured
from zopde.studies.report import write_report

FIELDS = ("velocity_y", "velocity_x")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_spec, tiny):
    """A reference, five simulations of 40 steps, as a user's own."""
    folder = tmp_path_factory.mktemp("whole")
    config = config_of(toy_spec, tiny, folder / "made.nc", "data.partial=false")
    open_correction(config, folder / "run", Silent())
    with xr.open_dataset(folder / "made.nc") as file:
        data = file.load()
    del data.attrs["settings"]
    return data


def config_of(spec, tiny, path, *changes):
    few = ["data.steps=40", 'run.labels=["SRC","NON"]', f'data.path="{path}"']
    lengths = ['non.length="60 iterations"', 'training.length="6 iterations"']
    changes = [*tiny, *few, *lengths, "data.partial=true", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def measured(data, share, every):
    """The same with a share of the cells missing, but at every so many times."""
    draw, data = np.random.default_rng(0), data.copy(deep=True)
    for name in FIELDS:
        missing = draw.random(data[name].shape) < share
        missing[:, ::every] = False
        data[name] = data[name].where(~missing)
    return data


LATE = [
    'run.labels=["SRC","NOG"]',
    "training.init=scratch",
    "training.unroll=6",
    'training.length="60 iterations"',
]


@pytest.mark.parametrize(("share", "every", "more"), [(0.7, 4, []), (1.1, 5, LATE)])
def test_a_run_learns_from_what_was_measured(share, every, more, whole, toy_spec, tiny, tmp_path):
    measured(whole, share, every).to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    config = config_of(toy_spec, tiny, tmp_path / "part.nc", *more)
    notes = []

    class Notes(Silent):
        def note(self, text):
            notes.append(text)

    metrics = run_correction(config, tmp_path / "run", progress=Notes())
    stored = 3 * 40 // every
    assert metrics["stored_solver_steps"] == stored
    assert any(f"{stored} of 120 states are whole" in note for note in notes)
    source = metrics["mae"]["SRC"]["mean"]
    for label in metrics["labels"][1:]:
        assert metrics["mae"][label]["mean"] < 0.9 * source
    for figure in ("mae", "relative_error", "nrmse", "correlation_time"):
        assert all(isfinite(metrics[figure][label]["mean"]) for label in metrics["labels"])
    times = (tmp_path / "run" / "error_over_time.csv").read_text().split()[1:]
    assert len(times) == (40 if share < 1 else 40 // every)
    assert "nan" not in "".join(times)
    if share > 1:  # most frames of the film have no reference
        page = write_report([tmp_path / "run"]).read_text()
        assert "measured in part" in page  # in place of a spectrum


def test_a_whole_reference_gives_the_same_bits_with_the_setting(whole, toy_spec, tiny, tmp_path):
    whole.to_netcdf(tmp_path / "whole.nc", engine="h5netcdf")
    config = config_of(toy_spec, tiny, tmp_path / "whole.nc")
    plain = replace(config, data=replace(config.data, partial=False))
    one, other = (run_correction(c, tmp_path / n) for n, c in (("a", config), ("b", plain)))
    for figure in ("mae", "relative_error", "nrmse", "solver_steps", "stored_solver_steps"):
        assert one[figure] == other[figure]


def test_mu_and_scales_of_a_problem_are_finite(whole, toy_spec, tiny, tmp_path):
    part = measured(whole, 0.7, 4)
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    config = config_of(toy_spec, tiny, tmp_path / "part.nc", "data.validation=1")
    opened = open_correction(config, tmp_path / "run", Silent())
    problem, cut = opened.problem, opened.interface
    assert problem.held.simulations == 1
    assert bool(problem.scale.isfinite().all())
    assert all(bool(scale.isfinite().all()) for scale in problem.scales(cut).values())
    assert bool(problem.stored_steps(problem.solver, problem.answered).state.isfinite().all())
    assert opened.validation().loss_of(opened.new_network(0)) < inf


def test_a_rollout_begins_at_the_first_time_that_is_whole(whole, toy_spec, tiny, tmp_path):
    part = measured(whole, 0.7, 4)
    part["velocity_y"][4, :4] = np.nan  # the last run is whole from time 4 on
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    config = config_of(toy_spec, tiny, tmp_path / "part.nc")
    test = open_correction(config, tmp_path / "run", Silent()).problem.test
    assert test.steps == 36
    wanted = torch.from_numpy(part["velocity_y"].values[3:, 4]).float()
    assert torch.equal(test.states[:, 0, 0], wanted)
    part["velocity_y"][3, ::8] = part["velocity_y"][4, 4::8] = np.nan  # by turns
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="a time at which all are whole"):
        open_correction(config, tmp_path / "run", Silent())
    part["velocity_y"][4] = np.nan
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="unseen run 2 of 2, no state of which is whole"):
        open_correction(config, tmp_path / "run", Silent())
    part["velocity_y"][3] = whole["velocity_y"][3]
    for name in FIELDS:
        part[name][4] = whole[name].values[4]
        part[name][4, 1:] = np.nan  # nothing to judge it by
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="and measurements behind"):
        open_correction(config, tmp_path / "run", Silent())


def test_pictures_end_where_the_reference_does_also_with_land():
    land = torch.tensor([True, True, False])
    grid = Grid((3,), (3.0,), 0.1, ("u",), mask=land.numpy())
    reference = torch.where(land, torch.nan, torch.zeros(5, 1, 3))
    reference[:3, 0, 1] = 2.0
    states = {"reference": reference, "SRC": torch.ones(5, 1, 3)}
    assert [len(shown) for shown in until_measured(states, grid).values()] == [3, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (['run.labels=["SRC","NOG"]'], "within 1 step, .*init=scratch"),  # the start is NON's
        ([*LATE, "training.unroll=4"], "24 of 120 whole, .* within 4 steps"),
        ([*LATE, "training.loss=spectrum"], "'spectrum' with a reference that was measured"),
    ],
)
def test_late_observations_refuse_what_cannot_be(change, words, whole, toy_spec, tiny, tmp_path):
    measured(whole, 1.1, 5).to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    config = config_of(toy_spec, tiny, tmp_path / "part.nc", *change)
    with pytest.raises(InputError, match=words):
        open_correction(config, tmp_path / "run", Silent())


def test_an_unseen_run_that_was_seen_in_part_is_refused(whole, toy_spec, tiny, tmp_path):
    part = measured(whole, 0.7, 4)
    for name in FIELDS:
        part[name][4] = part[name][1].values
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="simulation 4, to be unseen, the same as 1"):
        open_correction(config_of(toy_spec, tiny, tmp_path / "part.nc"), tmp_path / "run", Silent())
