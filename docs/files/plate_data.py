"""Reference data: runs on four times as many nodes, seen at the nodes of the coarse mesh."""

import sys

import numpy as np
import torch
import xarray as xr
from plate import Plate
from scipy.interpolate import LinearNDInterpolator

nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
coarse, fine = Plate(nodes).grid.positions.numpy(), Plate(4 * nodes)
points = fine.grid.positions.numpy()
spots = np.random.default_rng(0).uniform(0, 0.3, (15, 1, 2))  # a flame in a corner of each run
away = np.linalg.norm(points - spots, axis=2)
states = [torch.from_numpy(np.exp(-((away / 0.1) ** 2)))[:, None]]
for _ in range(100):
    states.append(fine.step(states[-1]))
runs = torch.stack(states, dim=1)[:, :, 0].numpy()  # (simulation, time, fine node)
seen = np.moveaxis(LinearNDInterpolator(points, np.moveaxis(runs, 2, 0))(coarse), 0, 2)
places = {name: ("point", coarse[:, axis]) for axis, name in enumerate(("x", "y"))}
data = {"u": (("simulation", "time", "point"), seen.astype("float32"))}
xr.Dataset(data, places).to_netcdf("plate.nc", engine="h5netcdf")
