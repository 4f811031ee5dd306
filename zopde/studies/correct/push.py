"""PUSH: single steps from states that a corrected rollout, or noise, has moved off the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from zopde.contracts import Window
from zopde.errors import InputError
from zopde.studies import limits


@dataclass(frozen=True)
class PushSettings:
    """The label PUSH, which learns a single step from states as its own rollouts meet them.

    A window has `steps` corrected steps, and only its last state is judged, by squares: the steps
    before lead to the state that the last one starts from, and have no gradient (the pushforward
    trick of Brandstetter et al. 2022). Every state from which a window starts is moved by random
    numbers of `noise` standard deviations (Sanchez-Gonzalez et al. 2020). An iteration has batch *
    unroll windows, as with NON: as many judged states. Each takes `steps` * every - 1 solver
    steps, or one more with noise, since the answer to the first state is then not a stored one.
    """

    steps: limits.Count = 2  # Corrected steps of a window; the last one is learned.
    noise: limits.NotNegative = 0.0  # First states move by so many standard deviations.

    def check(self, unroll: int, history: int = 0) -> None:
        """Require windows as the data have them, and more than NON learns.

        Raises:
            InputError: If they are none.
        """
        if self.steps == 1 and not self.noise:
            got, expected = "1, and push.noise is 0", "2 at least, or some noise: else it is NON"
            raise InputError("push.steps", got=got, expected=expected)
        if history:  # the last step would have a gradient by the steps before
            got = f"PUSH with corrector.history = {history}"
            raise InputError("run.labels", got=got, expected="corrector.history = 0 for it")
        if self.steps > unroll:
            expected = f"at most training.unroll = {unroll}, for which there are data"
            raise InputError("push.steps", got=self.steps, expected=expected)


def moved_off(window: Window, noise: float, scale: Tensor, draw: Generator) -> Window:
    """The same stretches, their first states moved by so many of each channel's `scale`."""
    assert window.initial is not None, "see Windows"
    sizes = scale.view(-1, *[1] * (window.initial.dim() - 2))
    drawn = torch.randn(window.initial.shape, generator=draw).to(window.initial)
    return replace(window, stepped=None, initial=window.initial + noise * sizes * drawn)
