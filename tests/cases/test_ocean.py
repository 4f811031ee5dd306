"""The page of an ocean with land, from its file to a corrected run."""

import re
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr

from zopde import Normalised, load_corrector, load_solver, plugins
from zopde.cli.app import _run

ROOT = Path(__file__).parent.parent.parent
SMALL = """
data.train=2 data.test=1 training.unroll=2 training.batch=1 corrector.sizes={width=3}
run.labels=["SRC","NOG","ZO-interface"] non.length="20_iterations" training.length="3_iterations"
"""


@pytest.fixture
def forgotten(monkeypatch):
    """What a test loads from files; workers of later tests would load it again."""
    monkeypatch.setattr(plugins, "_loaded", {})


@pytest.mark.usefixtures("forgotten")
def test_the_ocean_of_the_page_is_checked_corrected_and_drawn(
    tmp_path, monkeypatch, capsys, caplog
):
    """Also with the latitudes of the file the other way round."""
    monkeypatch.chdir(tmp_path)

    def zopde(*words):
        monkeypatch.setattr(sys, "argv", ["zopde", *words])
        assert _run() == 0, capsys.readouterr().err

    text = (ROOT / "docs/howto/ocean.md").read_text()
    made, check, correct = re.findall(r"^zopde .*$", text, flags=re.MULTILINE)
    changes = [word for word in SMALL.replace("_iter", " iter").split("\n") if word]
    sets = [f"--set={one}" for line in changes for one in re.split(r" (?=\w+\.\w)", line)]
    fewer = ["--set=data.fine=[16,64]", "--set=data.coarse=[8,32]", "--set=data.steps=8"]
    zopde(*made.split()[1:], *fewer, "--set=data.train=2", "--set=data.test=1")
    Path("ocean.py").write_text((ROOT / "docs/files/ocean.py").read_text())
    grid = load_solver("ocean.py:Ocean").grid
    with xr.open_dataset("ocean.nc") as file:
        assert {"time", "lat", "lon"} < set(file["u"].dims)
        assert (file["eta"][0, 0].isnull().values == ~grid.fluid.numpy()).all()
        file.isel(lat=slice(None, None, -1)).drop_attrs(deep=False).load().to_netcdf("turned.nc")
    zopde(*check.split()[1:])
    zopde(*correct.replace("ocean.nc", "turned.nc").split()[1:], *sets, "--out=run")
    assert "lat runs the other way in the file" in caplog.text
    network = load_corrector("run/ZO-interface/seed-0/model.safetensors")
    assert isinstance(network, Normalised)
    assert torch.equal(network.nearest, grid.nearest)
    zopde("report", "run")
    page = Path("run/report.html").read_text()
    assert "None: it would need cells of one size" in page
    assert "data:image/gif" in page
