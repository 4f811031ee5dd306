"""How long work tells whoever is watching; drawing is theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final

__all__ = ["Advance", "Progress", "Silent"]

Advance = Callable[..., None]
"""Called as `advance(steps=1, text="")`: so many steps are done, and a short word on them."""


class Progress(Protocol):
    """Receives how far a run is: pass an object with these two methods as its `progress`.

    Example:
        >>> from contextlib import contextmanager
        >>> class Lines:
        ...     @contextmanager
        ...     def stage(self, title, total):
        ...         yield lambda steps=1, text="": print(f"{title}: {steps} of {total}, {text}")
        ...
        ...     def note(self, text):
        ...         print(text)
        >>> with Lines().stage("training", 200) as advance:
        ...     advance(10, "loss 0.3")
        training: 10 of 200, loss 0.3
    """

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """A piece of work of `total` steps begins."""

    def note(self, text: str) -> None:
        """One line that should not get lost."""


@final
class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """Ignore it."""
        yield lambda steps=1, text="": None

    def note(self, text: str) -> None:
        """Ignore it."""
