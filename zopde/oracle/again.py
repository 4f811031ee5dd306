"""When stacked probes that were verified are verified again: a coupling may begin later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

_RARELY = 64  # gradients between two comparisons, in the end


@final
@dataclass(frozen=True)
class Verified:
    """Says for what stacked probes were compared with the plain loop."""

    begun: int = 0  # number of the gradient at which the network became what it is
    calls: frozenset[str] = frozenset()  # of the network
    width: int = 0  # the most probes that shared a pass
    gradient: int = 0  # number of the latest gradient at which they were compared, from 1
    known: bool = True  # False where no probe moved the loss

    def why_again(self, calls: set[str], width: int, gradient: int) -> str:
        """Why to compare (again), as what it costs is counted; "" where there is no reason.

        Args:
            calls: Those of the network so far.
            width: How many probes share a pass.
            gradient: Number of the present gradient, from 1; 0 outside of gradients.
        """
        if is_due(gradient) and gradient != self.gradient:
            return f"gradient {gradient}"
        new = self.new(
            calls if gradient != self.gradient and not self.known else calls - self.calls
        )
        return new or (f"passes of {width}" if width > self.width else "")

    def new(self, calls: set[str] | frozenset[str]) -> str:
        """Calls as a reason to compare."""
        since = f" from gradient {self.begun}" if self.begun > 1 else ""
        return "; ".join(sorted(calls)) + since if calls else ""


def is_due(gradient: int) -> bool:
    """Whether probes are verified again at a gradient: 2, 4, 8, ..., 64, then every 64th."""
    return gradient > 1 and (gradient & (gradient - 1) == 0 or gradient % _RARELY == 0)


def comparisons(gradients: int) -> int:
    """How often so many gradients verify their probes, the first included."""
    return sum(n == 1 or is_due(n) for n in range(1, gradients + 1))
