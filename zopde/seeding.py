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
    *("noise", "augment", "smoothing", "attack", "votes"),
)


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for one purpose.

    What is drawn does not depend on what was drawn before, so a resumed run needs no stream
    position to go on exactly: batch order and masks are functions of (seed, iteration).

    Args:
        seed: The run's seed, >= 0.
        purpose: "data", "weights", "order", "mask", "scores", "probes", "noise", "augment",
            "smoothing", "attack" or "votes".
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


def noise_seeds(seed: int, index: int, steps: int) -> list[int]:
    """Seeds in [0, 2^31 - 1) for the steps of a stochastic solver in iteration `index`."""
    return torch.randint(2**31 - 1, (steps,), generator=generator(seed, "noise", index)).tolist()


Streams = tuple[list[torch.Tensor], Any, Any]
"""The state of the global streams: torch's, the CPU's first; NumPy's; Python's."""


def streams() -> Streams:
    """The state of the global streams now."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices], np.random.get_state(), random.getstate()


def set_streams(states: Streams) -> None:
    """Put the global streams into a state."""
    (cpu, *devices), of_numpy, of_python = states
    torch.set_rng_state(cpu)
    for device, state in enumerate(devices):
        torch.cuda.set_rng_state(state, device)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def same_streams(one: Streams, other: Streams) -> bool:
    """Whether two states are the same."""
    torchs = all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=False))
    numpys = bool((one[1][1] == other[1][1]).all()) and one[1][2:] == other[1][2:]
    return torchs and numpys and one[2] == other[2]
