"""Videos made of the embedded digits, which appear, move and leave, and sentences about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from zopde.data.image_files import digits
from zopde.data.images import Images
from zopde.data.videos import VideoData, Videos
from zopde.seeding import generator

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TELLS = {"moves to the left": (1.0, 0.0), "moves to the right": (0.0, 1.0), "stands still": None}
_SIDE, _FRAMES, _MARGIN, _BRIGHTEST = 20, 8, 2, 16


@dataclass(frozen=True)
class Look:
    """What videos look like.

    Args:
        noise: Standard deviation of what is added to every pixel; a digit's brightest is 1.
        background: Brightness of the place, at the right end; at the left it is dark.
        duration: (least, most) frames that a digit is to be seen.
    """

    noise: float = 0.02
    background: float = 0.0
    duration: tuple[int, int] = (2, 3)


def digit_videos(look: Look, train: int, test: int, seed: int, classes: int = 10) -> VideoData:
    """Make videos, each with a sentence about one of its digits.

    Two digits of different classes come one after the other and move to the left, to the right, or
    stand still; the sentence tells of one of them. All that is seen sinks evenly from the top of
    the frame to its bottom, so that a place tells a time: a model that takes the mean over
    the frames could know of none otherwise. Test videos are made of test digits.

    Args:
        look: What they look like.
        train: How many to train on.
        test: How many others.
        seed: Decides all that is random.
        classes: Digits 0 ... `classes` - 1 appear; 2 ... 10.
    """
    images = digits()
    parts = [
        _videos(part, look, count, generator(seed, "data", index), classes)
        for index, (part, count) in enumerate(((images.train, train), (images.test, test)))
    ]
    return VideoData("digits", *parts)


def _videos(images: Images, look: Look, count: int, draw: Generator, classes: int) -> Videos:
    of_class = [(images.labels == label).nonzero().flatten() for label in range(classes)]
    frames, sentences, spans = [], [], []

    def pick(most: int) -> int:
        return int(torch.randint(most, (), generator=draw))

    shade = torch.linspace(0, look.background, _SIDE).expand(_FRAMES, 1, _SIDE, _SIDE)
    for _ in range(count):
        noise = torch.randn(_FRAMES, 1, _SIDE, _SIDE, generator=draw)
        video = shade + look.noise * noise
        least, most = look.duration
        lengths = [least + pick(most - least + 1) for _ in range(2)]
        free = _FRAMES - sum(lengths)
        gap = pick(free + 1)
        first = pick(free - gap + 1)
        starts = [first, first + lengths[0] + gap]
        shown = torch.randperm(classes, generator=draw)[:2].tolist()
        told = pick(2)
        for event, (start, length, label) in enumerate(zip(starts, lengths, shown, strict=True)):
            image = images.pixels[of_class[label][pick(len(of_class[label]))], 0] / _BRIGHTEST
            tells = list(_TELLS)[pick(len(_TELLS))]
            path = _TELLS[tells] or (0.5, 0.5)
            for frame in range(start, start + length):
                share = (frame - start) / (length - 1)
                room = _SIDE - 8 - 2 * _MARGIN
                x = _MARGIN + round(room * (path[0] + share * (path[1] - path[0])))
                y = _MARGIN + round(room * frame / (_FRAMES - 1))
                video[frame, 0, y : y + 8, x : x + 8] += image
            if event == told:
                sentences.append(f"a {_NAMES[label]} {tells}")
                spans.append([start / _FRAMES, (start + length) / _FRAMES])
        frames.append(video)
    return Videos(torch.stack(frames), tuple(sentences), torch.tensor(spans))
