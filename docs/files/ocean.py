"""An ocean model of your own: grid, land and latitudes come from the file of its data."""

import numpy as np
import xarray as xr
from torch import Tensor

from zopde import Grid, load_solver

with xr.open_dataset("ocean.nc") as FILE:
    LAT, LON = FILE["lat"].values, FILE["lon"].values
    WATER = FILE["eta"].isel(simulation=0, time=0, drop=True).notnull().values


class Ocean:
    """Height and currents; nothing flows through land, nor through both latitudes at the ends."""

    grid = Grid(
        shape=(len(LAT), len(LON)),
        extent=(40.0, 360.0),  # degrees, from edge to edge
        dt=1800.0,
        channels=("eta", "u", "v"),
        dims=("lat", "lon"),
        boundary=("open", "periodic"),
        units={"eta": "m", "u": "m/s", "v": "m/s", "space": "degree", "time": "s"},
        mask=WATER,
        weights=np.cos(np.deg2rad(LAT))[:, None],
        coordinates={"lat": LAT, "lon": LON},
        fill="nearest",
    )

    def __init__(self) -> None:
        shape = {"shape": self.grid.shape}
        self.model = load_solver("shallow-water", shape)  # your own code in its place

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """(batch, 3, lat, lon) -> the same, half an hour later."""
        return self.model.step(state)
