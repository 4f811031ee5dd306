"""How long work tells whoever is watching, and what they see."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO, final

__all__ = ["Advance", "Progress", "Silent", "Watcher", "watching"]

_LINE_EVERY = 15.0  # seconds between plain progress lines

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


@final
@dataclass(frozen=True)
class Titled:
    """Passes on what it is told, each line with a title, such as a label and a seed, before it."""

    inside: Progress  # who is watching
    title: str

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Likewise."""
        return self.inside.stage(f"{self.title}, {title}", total)

    def note(self, text: str) -> None:
        """Likewise."""
        self.inside.note(f"{self.title}: {text}")


@final
class Watcher:
    """A `Progress` that draws bars on a terminal, and a line now and then elsewhere.

    Args:
        stream: Where to; None is stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """A bar with the time to go on a terminal; a line now and then in a log."""
        draw = self._bar if (self._stream or sys.stderr).isatty() else self._lines
        with draw(title, total) as advance:
            yield advance

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Advance]:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description:<28}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[text]}"),
        )
        with progress.Progress(*columns, console=Console(file=self._stream or sys.stderr)) as bars:
            task = bars.add_task(title, total=total, text="")

            def advance(steps: int = 1, text: str = "") -> None:
                bars.update(task, advance=steps, text=text)

            yield advance

    @contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Advance]:
        began = spoke = time.monotonic()
        done = 0

        def advance(steps: int = 1, text: str = "") -> None:
            nonlocal done, spoke
            done += steps
            now = time.monotonic()
            if now - spoke > _LINE_EVERY and done < total:
                spoke = now
                left = (now - began) / done * (total - done)
                tail = f", {text}" if text else ""
                self.note(f"{title}: {done}/{total}, about {left:.0f} s left{tail}")

        yield advance
        self.note(f"{title}: {done}/{total} in {time.monotonic() - began:.1f} s")


def watching() -> Progress:
    """Who watches where nobody was named: bars on a terminal, lines in a notebook, else nobody."""
    if sys.stderr.isatty():
        return Watcher()
    return Watcher(sys.stdout) if "ipykernel" in sys.modules else Silent()
