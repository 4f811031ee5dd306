"""Reference data: made once, kept as NetCDF, handed out in windows. And labelled images."""

from zopde.data.batches import ImageBatches, Windows, first_steps, later_steps
from zopde.data.clock import clock_channels
from zopde.data.image_files import load_images
from zopde.data.images import ImageData, Images, in_file_units, in_unit_range, standardised
from zopde.data.trajectories import (
    Trajectories,
    from_dataset,
    load_rollout,
    load_trajectories,
    save_trajectories,
    simulate,
    to_dataset,
)
from zopde.data.well import read_well, write_well

__all__ = [
    "ImageBatches",
    "ImageData",
    "Images",
    "Trajectories",
    "Windows",
    "clock_channels",
    "first_steps",
    "from_dataset",
    "in_file_units",
    "in_unit_range",
    "later_steps",
    "load_images",
    "load_rollout",
    "load_trajectories",
    "read_well",
    "save_trajectories",
    "simulate",
    "standardised",
    "to_dataset",
    "write_well",
]
