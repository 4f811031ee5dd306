"""Randomness by name: the same (seed, keys) always gives the same stream."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# A purpose's place is part of every stream: new ones go to the end.
_PURPOSES = (
    *("data", "weights", "order", "mask", "scores", "probes"),
    *("noise", "augment", "smoothing", "attack", "votes", "ensemble", "push", "quality"),
)


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for one purpose.

    What is drawn does not depend on what was drawn before, so a resumed run needs no stream
    position to go on exactly: batch order and masks are functions of (seed, iteration).

    Args:
        seed: The run's seed, >= 0.
        purpose: "data", "weights", "order", "mask", "scores", "probes", "noise", "augment",
            "smoothing", "attack", "votes", "ensemble", "push" or "quality".
        index: Number of the draw: an epoch, a mask, an image.
    """
    words = np.random.SeedSequence([seed, _PURPOSES.index(purpose), index]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


@contextmanager
def global_stream(draw: torch.Generator) -> Iterator[None]:
    """Give torch's global stream, of which weights are initialised, the seed of a generator.

    After the block it is as it was; the generator's own stream is not touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.initial_seed())
        yield


Streams = tuple[Any, Any, Any]


def global_streams() -> Streams:
    """Where the streams that everybody shares stand: of Python, NumPy and torch on the CPU."""
    name, words, *rest = np.random.get_state()
    return random.getstate(), (name, tuple(words), *rest), torch.get_rng_state().numpy().tobytes()


def set_global_streams(streams: Streams) -> None:
    """Put them back to where `global_streams` found them."""
    random.setstate(streams[0])
    np.random.set_state(streams[1])
    torch.set_rng_state(torch.frombuffer(bytearray(streams[2]), dtype=torch.uint8))


def noise_seeds(seed: int, index: int, steps: int) -> list[int]:
    """Seeds in [0, 2^31 - 1) for the steps of a stochastic solver in iteration `index`."""
    return torch.randint(2**31 - 1, (steps,), generator=generator(seed, "noise", index)).tolist()
