"""Reference data: made once, kept as NetCDF, handed out in windows."""

from zopde.data.store import load_trajectories, save_trajectories
from zopde.data.trajectories import Trajectories, from_dataset, simulate, to_dataset
from zopde.data.windows import Windows, first_steps

__all__ = [
    "Trajectories",
    "Windows",
    "first_steps",
    "from_dataset",
    "load_trajectories",
    "save_trajectories",
    "simulate",
    "to_dataset",
]
