"""Keeping freed memory for the next pass."""

from __future__ import annotations

import ctypes
import logging
import os

from zopde.errors import InputError

__all__ = ["keep_freed_memory"]

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names in glibc's malloc.h


def check_fits(what: str, numbers: int, size: int = 4, remedy: str = "") -> None:
    """Require, before they are made, that numbers of `size` bytes fit into this machine's memory.

    Linux gives memory that it does not have, and ends the process that uses it.
    """
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if numbers * size > has:
        got = f"{numbers * size // 2**30:,} GiB"
        expected = f"at most the {has / 2**30:.1f} GiB of this machine"
        raise InputError(what, got=got, expected=expected, remedy=remedy)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, instead of giving it back to the operating system.

    A stacked pass allocates and frees the same megabytes over and over; by default glibc maps
    every one of them anew, and the kernel then clears each page at its first touch, which costs
    as much as the arithmetic. Afterwards the process keeps its peak size. Whole jobs
    (`run_correction`, the dry run) call it; the parts of the library do not. Returns whether it
    took effect: not where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        log.debug("no mallopt in this C library")
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)
