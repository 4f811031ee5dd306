"""What a network remembers: the states before the one that a step starts from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Forcing, Network, State, repeat_states
from zopde.errors import InputError

Past = Float[Tensor, "batch history channel *space"]
"""States before the one that a step starts from, a corrected step apart, the newest first."""


def past_of(states: Sequence[State], history: int) -> Past | None:
    """What comes before the last of the states of a run; the first stands for those before it."""
    last = len(states) - 1
    earlier = [states[max(last - back, 0)] for back in range(1, history + 1)]
    return torch.stack(earlier, dim=1) if history else None


def next_past(past: Past, start: State, num_probes: int) -> Past:
    """The past of the next step, when `start` is where the last one started.

    It is repeated for every one of `num_probes`, probe-major, which had both in common.
    """
    moved = repeat_states(torch.cat([start[:, None], past[:, :-1]], dim=1), num_probes)
    assert moved is not None
    return moved


def remembering(network: Network, past: Past) -> Network:
    """A network that is given its past, as further channels behind those of the forcing."""
    channels = past.flatten(1, 2)

    def seeing(state: State, forcing: Forcing | None) -> Tensor:
        known = channels if forcing is None else torch.cat([forcing, channels], dim=1)
        return network(state, known)

    return seeing


def check_past(state: State, past: Past | None, history: int) -> None:
    """Require the past of every state that a network remembers, and none where it does not.

    Raises:
        InputError: If it is another one.
    """
    wanted = (len(state), history, *state.shape[1:]) if history else None
    if wanted != (None if past is None else tuple(past.shape)):
        got = "none" if past is None else f"shape {tuple(past.shape)}"
        expected = f"{wanted}: the {history} states before, the newest first" if wanted else "none"
        remedy = "zopde.rollout keeps them" if wanted else ""
        raise InputError("past of a corrected step", got=got, expected=expected, remedy=remedy)
