"""Lengths of training, in epochs or iterations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from zopde.errors import InputError

_FORM = re.compile(r"(\d+) (epoch|iteration)s?")


@dataclass(frozen=True)
class Span:
    """A whole number of epochs or iterations, written "100 epochs" or "600 iterations".

    Args:
        count: How many, >= 0.
        unit: Of what.
    """

    count: int
    unit: Literal["epoch", "iteration"]

    @classmethod
    def parse(cls, name: str, text: object) -> Self:
        """Read "100 epochs" or "600 iterations"; `name` is what an error calls it."""
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(
                name, got=repr(text), expected='a length such as "600 iterations" or "100 epochs"'
            )
        return cls(int(match[1]), "epoch" if match[2] == "epoch" else "iteration")

    def iterations(self, per_epoch: int) -> int:
        """In iterations, given how many of them make an epoch."""
        return self.count * (per_epoch if self.unit == "epoch" else 1)

    def __str__(self) -> str:
        return f"{self.count} {self.unit}s"


def check_length(name: str, text: object) -> None:
    """Require a length of at least 1, in either unit."""
    if Span.parse(name, text).count < 1:
        raise InputError(name, got=repr(text), expected="a length of at least 1")
