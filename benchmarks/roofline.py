"""What this machine can do, and how much a computation moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Traffic(TorchDispatchMode):
    """Adds up the bytes that layers, activations, pools and skips produce."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        found = func(*args, **(kwargs or {}))
        kinds = ("convolution", "batch_norm", "relu", "clamp_min", "pool", "addmm", "roll", "add.")
        if any(kind in str(func) for kind in kinds):
            parts = found if isinstance(found, tuple) else (found,)
            first = next(part for part in parts if part is not None)
            self.bytes += first.numel() * first.element_size()
        return found


def rates(device: torch.device) -> tuple[float, float]:
    """This machine's matmul rate in operations per second, and its copy rate in bytes per second.

    Bytes read and bytes written both count.
    """
    a, b = torch.randn(2, 1024, 1024, device=device)
    source = torch.randn(16 << 20, device=device)
    target = torch.empty_like(source)
    matmul = min(seconds(lambda: a @ b)[0] for _ in range(10))
    copy = min(seconds(lambda: target.copy_(source))[0] for _ in range(10))
    return 2 * 1024**3 / matmul, 2 * source.numel() * 4 / copy


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what came out."""
    began = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a GPU has only been told so far
    return time.perf_counter() - began, found
