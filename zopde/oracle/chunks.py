"""How many probes go into one pass: as many as run fastest, and as memory holds."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zopde.validate import check_positive

log = logging.getLogger(__name__)

Pass = Callable[[Tensor, Tensor], Tensor]
"""(indices (k,), steps (k,)) -> losses (k,): one pass."""

_SMALLEST, _LARGEST = 2, 4096
_GOOD_ENOUGH = 1.05  # a larger pass must pay for its memory


@final
class Chunks:
    """The size of a pass.

    Where none is given it is found on the first coordinates that come, whose losses are used, so
    that no query is wasted: passes of 2, 4, 8, ... probes are timed until they stop getting faster
    (on a CPU they outgrow the cache) or would need more than `memory`. The smallest size within
    5 % of the fastest stays. Since clocks are noisy, two calibrations may end with different
    sizes, whose losses differ by round-off; a given size repeats itself bit for bit.

    Args:
        size: Probes per pass; None until they are found.
        memory: Most bytes of tensors that a pass may hold; None is half of what is free now.

    Raises:
        InputError: If either is not positive.
    """

    def __init__(self, size: int | None = None, memory: int | None = None) -> None:
        for name, value in (("chunk", size), ("memory", memory)):
            if value is not None:
                check_positive(name, value)
        self.size = size
        self._memory = memory

    def calibrate(self, indices: Tensor, steps: Tensor, run: Pass) -> list[Tensor]:
        """Find `size`; the losses of the coordinates that it took, from the first on."""
        if len(indices) < 8 * _SMALLEST:
            return []  # nothing to learn from so few
        losses: list[Tensor] = []
        done = 0

        def take(count: int) -> None:
            nonlocal done
            losses.append(run(indices[done : done + count], steps[done : done + count]))
            losses[-1].sum().item()  # a GPU has answered only now
            done += count

        take(1)  # makes what all passes share
        one, two = peak_bytes(lambda: take(1)), peak_bytes(lambda: take(2))
        free = _free_memory(losses[0].device) // 2 if self._memory is None else self._memory
        largest = max(1, min(1 + (free - one) // max(1, two - one), _LARGEST))
        seconds: dict[int, float] = {}
        size = _SMALLEST
        while size <= min(largest, len(indices) - done) and not _no_longer_pays(seconds):
            began = time.perf_counter()
            take(size)
            seconds[size] = (time.perf_counter() - began) / size
            size *= 2
        best = min(seconds.values(), default=0.0)
        self.size = min((n for n, s in seconds.items() if s <= _GOOD_ENOUGH * best), default=1)
        log.info("%d probes per pass, %.3g ms each", self.size, 1e3 * best)
        return losses


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that no memory is left."""
    text = str(error).lower()
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in text or "out of memory" in text


def _no_longer_pays(seconds: dict[int, float]) -> bool:
    """Twice in a row, twice the size was not faster by 5 %, and 32 at least were tried."""
    *before, one, two = [float("inf")] * 3 + list(seconds.values())
    return len(seconds) > 4 and min(one, two) > 0.95 * min(before)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors, on any device, that `work` made and held at the same time.

    What a kernel uses inside itself is not seen.

    Args:
        work: Called once, somewhat slower than usual.
    """
    meter = _Meter()
    with meter:
        work()
    return meter.peak


@final
class _Meter(TorchDispatchMode):
    """Adds up the storages that appear, and takes them away when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's own signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        answer = func(*args, **(kwargs or {}))
        for value in tree_leaves(answer):
            # A sparse tensor has no storage of its own; those of its parts were seen before it.
            strided = isinstance(value, Tensor) and value.layout is torch.strided
            if strided and value.device.type != "meta":
                self._see(value.untyped_storage())
        return answer

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._live += size
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size
