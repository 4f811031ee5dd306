"""Videos, a sentence about each, and when what it tells of happens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.data.batches import shuffled
from zopde.errors import InputError, first_line
from zopde.plugins import load_object
from zopde.validate import check_count

_SPECIAL = ("", "<start>", "<unknown>")  # padding first
START = 1
"""The number of what every sentence begins with."""


@dataclass(frozen=True)
class Videos:
    """Videos of one shape, a sentence about each, and the span that it tells of.

    Raises:
        InputError: If the shapes do not belong together, a value is not finite, a sentence has no
            word, or a span is not within the video.
    """

    # (video, frame, channel, y, x), the sampled frames
    frames: Float[Tensor, "video frame channel y x"]
    sentences: tuple[str, ...]  # one for each
    spans: Float[Tensor, "video 2"]  # start and end, in shares of the video: 0 <= start < end <= 1

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if self.frames.dim() != 5 or not self.frames.numel():
            expected = "(video, frame, channel, y, x)"
            raise InputError("frames", got=f"shape {shape}", expected=expected)
        if not bool(self.frames.isfinite().all()):
            raise InputError("frames", got="values not finite", expected="finite numbers")
        if len(self.sentences) != shape[0]:
            got = f"{len(self.sentences)} for {shape[0]} videos"
            raise InputError("sentences", got=got, expected="one for each video")
        for number, sentence in enumerate(self.sentences):
            if not (isinstance(sentence, str) and sentence.split()):
                what = f"sentence of video {number}"
                raise InputError(what, got=repr(sentence), expected="text with a word in it")
        if tuple(self.spans.shape) != (shape[0], 2):
            got = f"shape {tuple(self.spans.shape)}"
            raise InputError("spans", got=got, expected=f"({shape[0]}, 2), start and end of each")
        start, end = self.spans.unbind(dim=1)
        wrong = ~((start >= 0) & (start < end) & (end <= 1))  # NaN is wrong, too
        if wrong.any():
            number = int(wrong.nonzero()[0])
            raise InputError(
                f"span of video {number}",
                got=str(tuple(round(share, 6) for share in self.spans[number].tolist())),
                expected="0 <= start < end <= 1, in shares of the video",
                remedy="divide seconds, or frames, by the length of the video",
            )

    def __len__(self) -> int:
        return len(self.sentences)

    @classmethod
    def of(cls, items: Iterable[tuple[Any, str, Sequence[float]]]) -> Self:
        """From (frames, sentence, (start, end)) of each video.

        Args:
            items: Frames are a tensor or an array (frame, channel, y, x); bytes stay in 0 ... 255.

        Raises:
            InputError: As for `Videos`; or if an item is no such triple, or the videos differ in
                shape.
        """
        try:
            frames, sentences, spans = zip(*((f, s, e) for f, s, e in items), strict=True)
            stacked = torch.stack([torch.as_tensor(f).to(torch.float32) for f in frames])
            pairs = torch.tensor([[float(share) for share in span] for span in spans])
        except (TypeError, ValueError, RuntimeError) as error:
            expected = "(frames, sentence, (start, end)) of each video, all frames of one shape"
            raise InputError("videos", got=first_line(error), expected=expected) from error
        return cls(stacked, tuple(sentences), pairs)

    def batch(self, size: int, seed: int, i: int) -> Int[Tensor, " batch"]:
        """Numbers of the videos of batch i, a function of (seed, i); see `ImageBatches`."""
        check_count("batch", size)
        return shuffled(len(self), size, -(-len(self) // size), seed, i)


@dataclass(frozen=True)
class VideoData:
    """Videos to train on, and others to test on.

    Raises:
        InputError: If the two differ in shape.
    """

    name: str  # what the data is called
    train: Videos  # videos that gradients see
    test: Videos  # videos that they do not

    def __post_init__(self) -> None:
        shapes = [tuple(part.frames.shape[1:]) for part in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise InputError("test videos", got=f"shape {shapes[1]}", expected=f"{shapes[0]}")


def load_videos(spec: str) -> VideoData:
    """Read a data set of videos from a function of yours.

    Args:
        spec: "package.module:name" or "file.py:name" of a function without arguments that returns
            (training items, test items), each as `Videos.of` takes them.

    Raises:
        InputError: If nothing is there, it raises, or what it returns is no such pair.
    """
    function = load_object(spec, what="videos")
    try:
        train, test = function()
    except InputError:
        raise
    except Exception as error:  # a user's function may raise anything
        got, expected = f"{type(error).__name__}: {first_line(error)}", "(training, test) items"
        raise InputError(f"videos {spec!r}", got=got, expected=expected) from error
    parts = []
    for name, items in (("training", train), ("test", test)):
        try:
            parts.append(Videos.of(items))
        except InputError as error:
            raise error.of(f"{name} videos of {spec!r}") from error
    return VideoData(spec, *parts)


@dataclass(frozen=True)
class Vocabulary:
    """Numbers the words of sentences: 0 is the padding, 1 the start, 2 a word that is not known.

    Example:
        >>> from zopde.data import Vocabulary
        >>> Vocabulary.of(["a seven leaves"]).encode(["a seven", "a two leaves"])
        tensor([[1, 3, 5, 0],
                [1, 3, 2, 4]])
    """

    words: tuple[str, ...]  # in alphabetical order, small letters; numbered from 3

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Self:
        """The words of some sentences."""
        return cls(tuple(sorted({*chain.from_iterable(s.lower().split() for s in sentences)})))

    def __len__(self) -> int:
        return len(_SPECIAL) + len(self.words)

    def encode(self, sentences: Sequence[str]) -> Int[Tensor, "sentence word"]:
        """Each sentence as numbers, the start in front, shorter ones filled up with 0."""
        number = {word: i for i, word in enumerate(self.words, len(_SPECIAL))}
        rows = [[START, *(number.get(w, 2) for w in s.lower().split())] for s in sentences]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])
