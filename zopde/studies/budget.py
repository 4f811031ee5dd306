"""What a run may spend before it pauses: hours of one start, solver steps of all its trainings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from zopde.errors import PausedError
from zopde.numerals import number
from zopde.training.callbacks import Event


@dataclass
class Budget:
    """Ends a run after an iteration; as a `Callback` it hears of each.

    Whoever resumes such a run ends with the numbers of a run that was never paused.

    Args:
        hours: Of this start, data included; 0: any. A run pauses when its next iteration, if as
            long as the longest so far, would not end in time.
        steps: Of the solver, in states, in all trainings together and of earlier starts; 0: any.
        began: When this start began, by `time.monotonic`.
    """

    hours: float = 0.0
    steps: int = 0
    began: float = field(default_factory=time.monotonic)
    _heard: float = field(default_factory=time.monotonic)  # when it last was told something
    _longest: float = 0.0  # seconds between two iterations of one training
    _spent: dict[tuple[str, int], int] = field(default_factory=dict)  # solver steps by training

    def __call__(self, event: Event) -> None:
        """Pause the run if the event has spent the budget.

        Raises:
            PausedError: If it has.
        """
        now, training = time.monotonic(), (event.label, event.seed)
        if event.kind == "iteration" and training in self._spent:
            self._longest = max(self._longest, now - self._heard)
        self._heard = now
        if event.kind != "run":
            self._spent[training] = event.figures.get("all_steps", 0)
        if event.kind != "iteration":
            return  # what is done is done
        total = sum(self._spent.values())
        if self.steps and total >= self.steps:
            allowed = f"run.solver_steps allows {number(self.steps)}"
            raise PausedError(f"{number(total)} solver steps are spent, {allowed}")
        if self.hours and now + self._longest - self.began > 3600 * self.hours:
            raise PausedError(f"run.hours allows {self.hours:g} a start")
