"""How long work tells whoever is watching; drawing is theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final

__all__ = ["Advance", "Progress", "Silent"]

Advance = Callable[..., None]
"""advance(steps=1, text="") - that many steps are done, and a short word on how it goes."""


class Progress(Protocol):
    """Somebody who wants to know."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """A piece of work of `total` steps begins."""

    def note(self, text: str) -> None:
        """One line that should not get lost."""


@final
class Silent:
    """Nobody is watching."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """Ignore it."""
        yield lambda steps=1, text="": None

    def note(self, text: str) -> None:
        """Ignore it."""
