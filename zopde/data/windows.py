"""Stretches of reference data, in an order that a resumed run can recompute."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Solver, Window, seeded
from zopde.data.trajectories import Trajectories
from zopde.errors import InputError, SolverError
from zopde.seeding import generator


@final
class Windows:
    """All stretches of `unroll` steps, shuffled anew every epoch.

    Args:
        trajectories: The reference.
        stepped: (simulation, time, channel, *space), the solver's answer to every reference
            state; see `first_steps`.
        unroll: Steps in a window, >= 1.
        batch: Windows side by side, >= 1.
        seed: Decides the order, together with the number of the epoch.

    Raises:
        InputError: If the trajectories are shorter than one window.
    """

    def __init__(
        self, trajectories: Trajectories, stepped: Tensor, unroll: int, batch: int, seed: int
    ) -> None:
        if unroll > trajectories.steps:
            raise InputError(
                "unroll", got=unroll, expected=f"at most the data's {trajectories.steps} steps"
            )
        self._data = trajectories
        self._stepped = stepped
        self._unroll = unroll
        self._starts = trajectories.steps - unroll + 1
        self._seed = seed
        self._count = trajectories.simulations * self._starts
        self._batch = min(batch, self._count)
        self._epoch = -1
        self._order = torch.empty(0)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; a last incomplete one is left out."""
        return self._count // self._batch

    def batch(self, iteration: int) -> Window:
        """The batch of an iteration: a function of (seed, iteration) alone."""
        epoch, place = divmod(iteration, self.per_epoch)
        if epoch != self._epoch:
            draw = generator(self._seed, "order", epoch)
            self._order = torch.randperm(self._count, generator=draw)
            self._epoch = epoch
        chosen = self._order[place * self._batch : (place + 1) * self._batch]
        return self._window(chosen // self._starts, chosen % self._starts)

    def _window(self, simulation: Tensor, start: Tensor) -> Window:
        rows = simulation[:, None]
        times = start[:, None] + torch.arange(self._unroll)
        forcing = self._data.forcing
        return Window(
            stepped=self._stepped[simulation, start],
            targets=self._data.states[rows, times + 1],
            forcing=None if forcing is None else forcing[rows, times],
            initial=self._data.states[simulation, start],
        )


def first_steps(
    solver: Solver,
    trajectories: Trajectories,
    chunk: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "simulation time channel *space"]:
    """S(u[t], f[t]) for every reference state but the last of each simulation.

    This is the stored data on which NON trains, and the first step of every window of the
    others where the correction comes after it. It costs simulations * steps solver steps, once.

    Args:
        solver: The coarse solver.
        trajectories: The reference.
        chunk: States per solver call.
        progress: Called with the number of states after every call.

    Raises:
        SolverError: If an answer is not finite, or the solver changed the state it was given.
    """
    states = trajectories.states[:, :-1].flatten(0, 1)
    forcing = None if trajectories.forcing is None else trajectories.forcing[:, :-1].flatten(0, 1)
    answers = []
    for a in range(0, len(states), chunk):
        part = states[a : a + chunk]
        before = part.clone()
        answer = seeded(solver, a).step(part, None if forcing is None else forcing[a : a + chunk])
        if not torch.allclose(part, before, rtol=0, atol=0, equal_nan=True):
            raise SolverError("step: got a changed argument, expected the state left as it was")
        _check_answer(answer, a)
        answers.append(answer)
        if progress:
            progress(len(part))
    return torch.cat(answers).view_as(trajectories.states[:, :-1])


def _check_answer(answer: Tensor, first: int) -> None:
    if not answer.isfinite().all():
        bad = first + int((~answer.isfinite().flatten(1).all(dim=1)).nonzero()[0])
        raise SolverError(f"step: got NaN or infinity for stored state {bad}, expected numbers")
