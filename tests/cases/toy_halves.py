"""A classifier of the brighter half of an image, images for it, and how a run of them is kept."""

import numpy as np
import torch

from zopde import CertifyConfig
from zopde.data import ImageData, Images
from zopde.studies.certificates import FILE

MODEL = """
import torch
from torch import nn


class Bright(nn.Module):  # the brighter half of an image; the gradient is the same everywhere
    def forward(self, x):
        halves = x.mean(dim=1).unflatten(2, (2, -1)).mean(dim=(1, 3))
        return torch.stack([halves[:, 0], halves[:, 1]], dim=1) * 20


bright = Bright()


def labels(x):
    return bright(x).argmax(dim=1)


class Needs:
    def __init__(self, size):
        pass


number = 3
wrong = lambda x: torch.zeros(len(x), 7)


def slow(x):
    import time

    time.sleep(0.02)
    return bright(x)
"""


def halves():
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (24, 1, 4, 4), generator=draw, dtype=torch.uint8)
    pixels[0, 0, 0, 0] = 255
    halves = pixels.float().mean(dim=(1, 2)).unflatten(1, (2, 2)).mean(dim=2)
    return ImageData("halves", part := Images(pixels, halves.argmax(dim=1)), part, ("0", "1"))


def config(home, name="bright", **changes):
    plain = {"sigma": 0.3, "n0": 20, "n": 200, "batch": 64}
    return CertifyConfig(f"{home / 'mine.py'}:{name}", **plain | changes)


def table(folder):
    """All but the last column."""
    return [line.split("\t")[:-1] for line in (folder / FILE).read_text().splitlines()]


def save(data, path):
    np.savez(
        path,
        x_train=data.train.pixels.numpy(),
        y_train=data.train.labels.numpy(),
        x_test=data.test.pixels.numpy(),
        y_test=data.test.labels.numpy(),
    )
