"""Reference data: made once, kept as NetCDF, handed out in windows. And labelled images."""

from zopde.data.image_batches import ImageBatches, standardised
from zopde.data.image_files import load_images
from zopde.data.images import ImageData, Images
from zopde.data.store import load_trajectories, save_trajectories
from zopde.data.trajectories import Trajectories, from_dataset, simulate, to_dataset
from zopde.data.windows import Windows, first_steps

__all__ = [
    "ImageBatches",
    "ImageData",
    "Images",
    "Trajectories",
    "Windows",
    "first_steps",
    "from_dataset",
    "load_images",
    "load_trajectories",
    "save_trajectories",
    "simulate",
    "standardised",
    "to_dataset",
]
