"""How long work takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor


def median_seconds(work: Callable[[], object], repeat: int = 3, enough: float = 2.0) -> float:
    """Median time of `repeat` calls, after one to warm up; of fewer once `enough` seconds passed.

    One call alone has no warm-up. A GPU has finished when the clock is stopped.
    """
    if repeat > 1:
        _wait_for(work())
    times: list[float] = []
    while len(times) < repeat and sum(times) < enough:
        began = time.perf_counter()
        _wait_for(work())
        times.append(time.perf_counter() - began)
    return median(times)


def _wait_for(answer: object) -> None:
    """Until a device that computes beside this process has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif isinstance(answer, Tensor) and answer.device.type != "cpu":
        answer.sum().item()
