"""Runs with a solver that has land: data, training, errors and files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from toy_land import Basin

from zopde import CorrectedSolver, load_config, load_corrector, run_correction
from zopde.data import load_rollout
from zopde.errors import InputError
from zopde.studies.correct.check import check_solver

ROOT = Path(__file__).parents[2]
BASIN = f"{ROOT / 'tests/cases/toy_land.py'}:Basin"
SMALL = [
    f"solver.spec={BASIN}",
    "data.fine=[16,24]",
    "data.coarse=[8,12]",
    "interface.way=auto",
    'run.labels=["SRC","NOG","ZO-dense","ZO-interface","SOL"]',
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("land") / "run"
    found = run_correction(load_config(changes=[*tiny, *SMALL]), folder)
    return folder, found


def maes(folder):
    return json.loads((folder / "metrics.json").read_text())["mae"]


def test_a_run_knows_of_no_land(run):
    folder, _ = run
    with xr.open_dataset(folder / "ZO-dense/seed-0/rollout.nc", engine="h5netcdf") as file:
        mask = file["mask"].values
        assert np.array_equal(mask, Basin((8, 12)).grid.mask)
        for name in ("u", "T"):
            assert np.isnan(file[name].values[..., ~mask]).all()
            assert np.isfinite(file[name].values[..., mask]).all()
    reference, predicted = map(
        load_rollout, (folder / "reference.nc", *folder.glob("SRC/**/rollout.nc"))
    )
    off = (predicted.states - reference.states)[:, 1:]
    exact = reference.grid.fluid_values(off).abs().mean()
    assert maes(folder)["SRC"]["mean"] == pytest.approx(float(exact), rel=1e-5)


def test_exact_labels_agree_and_probe_the_fluid_alone(run):
    folder, _ = run
    exact = maes(folder)["SOL"]["mean"]
    for label in ("ZO-dense", "ZO-interface"):
        assert maes(folder)[label]["mean"] == pytest.approx(exact, rel=1e-4)


def test_a_corrector_brings_its_mask_back(run):
    folder, _ = run
    network, basin = load_corrector(folder / "NOG/seed-0/model.safetensors"), Basin((8, 12))
    assert torch.equal(network.mask, basin.grid.fluid)
    state = basin.scenario(1, torch.Generator().manual_seed(0)).initial
    stepped = CorrectedSolver(basin, network).step(state)
    assert torch.equal(stepped.isfinite()[0, 0], basin.grid.fluid)


def test_a_solver_with_land_passes_its_check():
    found = check_solver(load_config(changes=SMALL))
    verdicts = {point.name: point.verdict for point in found.points}
    assert set(verdicts.values()) == {"pass"}, verdicts
    steps = {cost.cut: cost.steps for cost in found.costs}
    fluid, products = Basin((8, 12)).grid.fluid_cells, steps["interface, identity"]
    assert steps["interface, dense"] == products * (1 + 2 * fluid)


def test_the_lake_of_the_documentation_passes_its_check():
    found = check_solver(load_config(changes=[f"solver.spec={ROOT / 'docs/files/lake.py'}:Lake"]))
    assert found.passed, found.points


def test_a_coarse_mask_that_claims_land_raises(tiny, tmp_path):
    source = (ROOT / "tests/cases/toy_land.py").read_text()
    solver = tmp_path / "wet.py"
    solver.write_text(source + WET)
    config = load_config(changes=[*tiny, *SMALL, f"solver.spec={solver}:Wet"])
    with pytest.raises(InputError, match="got fluid where the fine grid has none"):
        run_correction(config, tmp_path / "run")


WET = """

class Wet(Basin):
    def __init__(self, shape=(16, 24)):
        super().__init__(shape, None if shape[0] == 8 else ISLAND)
"""
