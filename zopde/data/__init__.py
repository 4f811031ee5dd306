"""Reference data: made once, kept as NetCDF, handed out in windows. Labelled images, and videos."""

from zopde.data.batches import ImageBatches, Windows, first_steps, later_steps
from zopde.data.clock import clock_channels
from zopde.data.image_files import load_images
from zopde.data.images import ImageData, Images, in_file_units, in_unit_range, standardised
from zopde.data.moving_digits import Look, digit_videos
from zopde.data.trajectories import (
    Trajectories,
    from_dataset,
    load_rollout,
    load_trajectories,
    save_trajectories,
    simulate,
    to_dataset,
)
from zopde.data.videos import VideoData, Videos, Vocabulary, load_videos
from zopde.data.well import read_well, write_well

__all__ = [
    "ImageBatches",
    "ImageData",
    "Images",
    "Look",
    "Trajectories",
    "VideoData",
    "Videos",
    "Vocabulary",
    "Windows",
    "clock_channels",
    "digit_videos",
    "first_steps",
    "from_dataset",
    "in_file_units",
    "in_unit_range",
    "later_steps",
    "load_images",
    "load_rollout",
    "load_trajectories",
    "load_videos",
    "read_well",
    "save_trajectories",
    "simulate",
    "standardised",
    "to_dataset",
    "write_well",
]
