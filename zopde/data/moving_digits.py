"""Videos made of the embedded digits, which appear, move and leave, and sentences about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from zopde.data.image_files import digits
from zopde.data.images import Images
from zopde.data.videos import VideoData, Videos
from zopde.errors import InputError
from zopde.seeding import generator

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# What is told of a digit -> where it begins and ends, from left (0) to right (1)
_TELLS = {
    "moves to the left": (1.0, 0.0),
    "moves to the right": (0.0, 1.0),
    "stands still": (0.5, 0.5),
}
_FRAMES, _SIDE, _DIGIT, _MARGIN, _BRIGHTEST = 8, 20, 8, 2, 16


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

    def __post_init__(self) -> None:
        least, most = self.duration
        if not 2 <= least <= most <= _FRAMES // 2:
            expected = f"2 <= least <= most <= {_FRAMES // 2} frames"
            raise InputError("duration", got=f"({least}, {most})", expected=expected)


def digit_videos(look: Look, train: int, test: int, seed: int, classes: int = 10) -> VideoData:
    """Make videos, each with a sentence about one of its digits.

    Two digits of different classes come one after the other and move to the left, to the right, or
    stand still; the sentence tells of one of them. In every second training video there is but
    that one: from two alone, a model is slow to learn that a sentence tells of a digit. All that
    is seen sinks evenly from the top of the frame to its bottom, so that a place tells a time: a
    model that takes the mean over the frames could know of none otherwise. Test videos are
    made of test digits.

    Args:
        look: What they look like.
        train: How many to train on.
        test: How many others.
        seed: Decides all that is random.
        classes: Digits 0 ... `classes` - 1 appear; 2 ... 10.
    """
    if not 2 <= classes <= len(_NAMES):
        raise InputError("classes", got=classes, expected=f"a number from 2 to {len(_NAMES)}")
    images = digits()
    draws = [generator(seed, "data", index) for index in range(2)]
    of = look, classes
    return VideoData(
        "moving digits",
        _videos(images.train, train, draws[0], *of, alone=True),
        _videos(images.test, test, draws[1], *of, alone=False),
    )


def _videos(
    images: Images, count: int, draw: Generator, look: Look, classes: int, alone: bool
) -> Videos:
    of_class = [images.pixels[images.labels == label, 0] / _BRIGHTEST for label in range(classes)]
    shade = torch.linspace(0, look.background, _SIDE)
    noise = look.noise * torch.randn(count, _FRAMES, 1, _SIDE, _SIDE, generator=draw)
    frames, sentences, spans = shade + noise, [], []
    room = _SIDE - _DIGIT - 2 * _MARGIN

    def pick(most: int) -> int:
        return int(torch.randint(most, (), generator=draw))

    for number, video in enumerate(frames[:, :, 0]):
        least, most = look.duration
        lengths = [least + pick(most - least + 1) for _ in range(2)]
        gap = pick(_FRAMES - sum(lengths) + 1)
        first = pick(_FRAMES - sum(lengths) - gap + 1)
        starts = [first, first + lengths[0] + gap]
        shown = torch.randperm(classes, generator=draw)[:2].tolist()
        told = pick(2)
        for event, (start, length, label) in enumerate(zip(starts, lengths, shown, strict=True)):
            image = of_class[label][pick(len(of_class[label]))]
            tells, (begin, end) = list(_TELLS.items())[pick(len(_TELLS))]
            if event == told:
                sentences.append(f"a {_NAMES[label]} {tells}")
                spans.append([start / _FRAMES, (start + length) / _FRAMES])
            elif alone and number % 2:
                continue
            for frame in range(start, start + length):
                share = begin + (end - begin) * (frame - start) / (length - 1)
                x, y = (_MARGIN + round(room * at) for at in (share, frame / (_FRAMES - 1)))
                video[frame, y : y + _DIGIT, x : x + _DIGIT] += image
    return Videos(frames, tuple(sentences), torch.tensor(spans))
