"""One long run without simulations: its first part is learned from, its end is unseen."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import InputError, load_config, load_solver
from zopde.cli.app import _run
from zopde.progress import Silent
from zopde.studies.correct.open import open_correction, open_few, open_sample
from zopde.studies.run import price_study, study_named

STEPS, UNROLL = 40, 3
SOLVER = """
import torch
from zopde import Grid

LAND = torch.ones(6, 8, dtype=torch.bool)
LAND[2:4, 3:5] = False

class Driven:
    grid = Grid((6, 8), (6.0, 8.0), 0.5, ("u",), ("wind",), mask=LAND)

    def step(self, state, forcing):
        return 0.9 * state + 0.1 * state.roll(1, 3) + 0.5 * forcing
"""
FEW = [
    f"training.unroll={UNROLL}",
    "training.batch=2",
    "corrector.sizes={width=3,depth=2}",
    'run.labels=["SRC","NON"]',
    'non.length="3 iterations"',
    'training.length="3 iterations"',
]
TOLD = "one run of 40 steps: the first 29 to learn from, 3 left out, the last 8 unseen"


@pytest.fixture
def run(tmp_path):
    """As an ocean model leaves it: dims (time, y, x), NaN on land, a forcing beside."""
    (tmp_path / "mine.py").write_text(SOLVER)
    fluid = load_solver(f"{tmp_path / 'mine.py'}:Driven").grid.fluid.numpy()
    draw = np.random.default_rng(0)
    fields = {n: (("time", "y", "x"), draw.normal(size=(STEPS + 1, 6, 8))) for n in ("u", "wind")}
    time = ("time", 0.5 * np.arange(STEPS + 1), {"units": "seconds since 2000-01-01"})
    return xr.Dataset(fields, {"time": time}).where(xr.DataArray(fluid, dims=("y", "x")))


@pytest.fixture
def config(run, tmp_path):
    run.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    tables = {"solver": {"spec": f"{tmp_path / 'mine.py'}:Driven"}}
    return load_config("quick", None, FEW, {**tables, "data": {"path": str(tmp_path / "run.nc")}})


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def test_the_parts_of_a_run_are_its_own_states_and_a_window_apart(run, config, tmp_path):
    notes = Notes()
    problem = open_correction(config, tmp_path / "out", notes).problem
    assert sum(TOLD in line for line in notes.lines) == 1
    for name, of in (("u", "states"), ("wind", "forcing")):
        whole = torch.from_numpy(run[name].fillna(0).values).float()
        seen, unseen = getattr(problem.train, of)[0, :, 0], getattr(problem.test, of)[0, :, 0]
        assert torch.equal(seen, whole[:30])
        assert torch.equal(unseen, whole[-9:])
    assert problem.train.steps + UNROLL + problem.test.steps == STEPS
    assert problem.stepped.shape[:2] == (1, 29)


def test_a_dry_run_says_how_a_run_is_split_and_prices_it_so(config, tmp_path):
    notes = Notes()
    opened = open_sample(config, tmp_path / "out", notes)
    assert sum(TOLD in line for line in notes.lines) == 1
    assert opened.training.per_epoch == (29 - UNROLL + 1) // 2
    assert opened.rollout_steps == 8
    prices = price_study(study_named("correct"), opened, Silent())
    assert [price.label for price in prices] == ["SRC", "NON"]
    assert open_few(config, Silent())[0].problem.train.simulations == 1


def test_a_run_is_corrected_and_its_report_says_how_it_was_split(
    config, tmp_path, monkeypatch, capsys
):
    words = ["correct", config.solver.spec, "--data", config.data.path, "--out", tmp_path / "out"]
    words += [word for change in FEW for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["zopde", *map(str, words)])
    assert _run() == 0, capsys.readouterr().err
    assert TOLD in " ".join(capsys.readouterr().out.split())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["test_runs"]) == (8, 1)
    assert metrics["stored_solver_steps"] == 29
    monkeypatch.setattr(sys, "argv", ["zopde", "report", str(tmp_path / "out")])
    assert _run() == 0
    assert TOLD in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("steps", "unroll"), [(4, 1), (6, 3), (18, 8)])
def test_a_run_too_short_to_split_is_refused(run, config, tmp_path, steps, unroll):
    config = load_config(
        "quick",
        None,
        [*FEW, f"training.unroll={unroll}"],
        {"solver": {"spec": config.solver.spec}, "data": {"path": config.data.path}},
    )
    for longer in (0, 1):
        run.isel(time=slice(steps + 1 + longer)).to_netcdf(config.data.path, engine="h5netcdf")
        if longer:
            assert open_correction(config, tmp_path / "out", Silent()).problem.test.steps >= 1
            continue
        with pytest.raises(InputError, match=f"got one run of {steps} steps, expected at least"):
            open_correction(config, tmp_path / "out", Silent())


def test_a_run_whose_end_was_seen_is_refused(run, config, tmp_path):
    for name in ("u", "wind"):
        run[name][-9:] = run[name][10:19].values
    run.to_netcdf(config.data.path, engine="h5netcdf")
    with pytest.raises(InputError, match="the last 8 steps, to be unseen, also before step 18"):
        open_correction(config, tmp_path / "out", Silent())
    run["u"][-9:] += 1.0
    run.to_netcdf(config.data.path, engine="h5netcdf")
    open_correction(config, tmp_path / "out", Silent())


def test_the_validation_of_one_run_lies_between_and_a_window_apart(run, config, tmp_path):
    config = replace(config, data=replace(config.data, validation=1))
    notes = Notes()
    opened = open_correction(config, tmp_path / "out", notes)
    told = "the first 22 to learn from, 3 left out, 4 for the validation, 3 left out, the last 8 un"
    assert any(told in line for line in notes.lines)
    whole = torch.from_numpy(run["u"].fillna(0).values).float()
    parts = [getattr(opened.problem, part).states[0, :, 0] for part in ("train", "held", "test")]
    wanted = [whole[:23], whole[25:30], whole[-9:]]
    assert all(torch.equal(part, states) for part, states in zip(parts, wanted, strict=True))
    assert opened.looked_at == 4 - UNROLL + 1
    prices = price_study(study_named("correct"), opened, Silent())
    assert prices[1].validating == 2 * opened.looked_at * UNROLL
    for name in ("u", "wind"):
        run[name][25:30] = run[name][4:9].values
    run.to_netcdf(config.data.path, engine="h5netcdf")
    with pytest.raises(InputError, match="for the validation, also before step 8"):
        open_correction(config, tmp_path / "out", Silent())


def test_a_run_too_short_for_a_validation_is_refused(run, config, tmp_path):
    config = replace(config, data=replace(config.data, validation=1))
    for steps in (13, 14):
        run.isel(time=slice(steps + 1)).to_netcdf(config.data.path, engine="h5netcdf")
        if steps == 14:
            problem = open_correction(config, tmp_path / "out", Silent()).problem
            assert (problem.train.steps, problem.held.steps, problem.test.steps) == (3, 3, 2)
            continue
        with pytest.raises(InputError, match="got one run of 13 steps, expected at least 14"):
            open_correction(config, tmp_path / "out", Silent())
