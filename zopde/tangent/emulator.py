"""A network fitted to what a solver answers, and its gradient in the solver's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.autograd.functional import jvp

from zopde.contracts import Domain, Forcing, Network, Objective, State
from zopde.interface import Watch
from zopde.interface.vjp import Probing, Step, Varied
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.tangent.fit import fit_to
from zopde.tangent.multigrid import PLACES, Multigrid
from zopde.validate import checked

_CELLS = 2**15  # of all the states of an iteration
_FEW, _MOST = 4, 32  # states of an iteration
_TOGETHER = 16  # states whose errors are taken at once


@final
class Emulator(Multigrid):
    """Predicts what a solver answers: a network in the solver's place.

        E(u, f) = u + r M(u, f) [u / s, f / s_f, 1]   ~   S(u, f)

    M is a `Multigrid` whose gates are made of the state and the forcing. A new one is E(u, f) = u.
    Outside of the grid's mask E is 0, and what stands there counts as 0.

    Args:
        grid: The solver's grid, of 1 to 3 axes.
        scale: (channel,), s, the standard deviations of the state.
        change: (channel,), r, the size of S(u, f) - u.
        forcing_scale: (forcing_channel,), s_f; None where the solver has no forcing.
        width: Channels of every level.
        places: Learned maps of position on each level; 0 for a solver that is the same everywhere.
    """

    scale: Tensor
    change: Tensor

    @checked
    def __init__(
        self,
        grid: Domain,
        scale: Float[Tensor, " channel"],
        change: Float[Tensor, " channel"],
        forcing_scale: Float[Tensor, " forcing_channel"] | None = None,
        width: int = 16,
        places: int = PLACES,
    ) -> None:
        both = scale if forcing_scale is None else torch.cat([scale, forcing_scale])
        super().__init__(grid, len(both), len(both) + 1, len(scale), width, places)
        space = [1] * len(grid.shape)
        self.register_buffer("scale", both.reshape(-1, *space).clone())
        self.register_buffer("change", change.reshape(-1, *space).clone())

    def forward(self, state: State, forcing: Forcing | None = None) -> State:
        """The next state, in the units of the state."""
        seen = state if forcing is None else torch.cat([state, forcing], dim=1)
        seen = self._inside(seen / self.scale)
        moved = self._inside(torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1))
        changed = self.push(self.gates_of(seen), moved[:, None])[:, 0]
        return self._inside(state + self.change * changed)

    def _inside(self, values: Tensor) -> Tensor:
        return values if self.fluid is None else torch.where(self.fluid, values, 0.0)


@dataclass(frozen=True)
class Values:
    """Holds steps that a solver has made, state by state."""

    state: State  # (states, channel, *space), where from
    forcing: Forcing | None  # (states, forcing_channel, *space), or None
    stepped: State  # (states, channel, *space), the answers

    def __len__(self) -> int:
        return len(self.state)

    def at(self, rows: Tensor | slice) -> Values:
        """Some of them."""
        forcing = None if self.forcing is None else self.forcing[rows]
        return Values(self.state[rows], forcing, self.stepped[rows])

    def detached(self) -> Values:
        """The same numbers without a graph."""
        forcing = None if self.forcing is None else self.forcing.detach()
        return Values(self.state.detach(), forcing, self.stepped.detach())

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """All of them in a row; `parts` has at least one."""
        forcings = [part.forcing for part in parts if part.forcing is not None]
        states, answers = [p.state for p in parts], [p.stepped for p in parts]
        forcing = torch.cat(forcings) if forcings else None
        return cls(torch.cat(states), forcing, torch.cat(answers))

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Values:
        """What the batches of some steps have shown, without what is not finite."""
        whole = cls.joined([cls(s.state, s.forcing, s.stepped).detached() for s in steps])
        rows = (whole.state + whole.stepped).flatten(1).isfinite().all(dim=1)
        return whole.at(rows)


def _squared(emulator: Emulator, values: Values) -> Float[Tensor, " states"]:
    """|E(u, f) - S(u, f)|^2 of each state, a mean over the cells, in units of the change."""
    off = (emulator(values.state, values.forcing) - values.stepped) / emulator.change
    if emulator.fluid is not None:
        off = off[..., emulator.fluid]
    squared: Tensor = off.flatten(1).square().mean(dim=1)
    return squared


@torch.no_grad()
def value_error(emulator: Emulator, values: Values) -> float:
    """Take the root mean square error of an emulator's answers, relative to the change in a step.

    It is 1 or so for a new emulator, and 0 for the solver. It says nothing about the derivative.

    Args:
        emulator: The one that answers.
        values: What the solver answered.
    """
    rows = torch.arange(len(values)).split(_TOGETHER)
    return float(torch.cat([_squared(emulator, values.at(r)) for r in rows]).mean().sqrt())


@final
@dataclass(frozen=True)
class ValueObjective:
    """Measures how far an emulator is from the solver's answers to one batch of states."""

    batch: Values

    def __call__(self, network: Network, num_probes: int) -> Tensor:
        """One loss; see `zopde.contracts.Objective`."""
        assert isinstance(network, Emulator)
        assert num_probes == 1
        return _squared(network, self.batch).mean()[None]


def fit_values(
    emulator: Emulator,
    stored: Values,
    iterations: int,
    folder: Path,
    watcher: Progress,
    title: str,
    *,
    seed: int = 0,
    visited: Values | None = None,
    share: float = 0.0,
    rate: float = 1.0,
) -> None:
    """Fit an emulator to the solver's answers, in place.

    Args:
        emulator: What is fitted.
        stored: Steps of stored states.
        iterations: Updates.
        folder: Where the fit is kept; it goes on from there.
        watcher: Who is told how far it is.
        title: Of the fit.
        seed: Decides the batches.
        visited: Steps of states that a training has visited; None: none.
        share: So much of every batch are visited states.
        rate: Of the learning rate of a first fit.
    """
    count = min(_MOST, max(_FEW, _CELLS // prod(stored.state.shape[2:])))
    new = 0 if visited is None or not len(visited) else round(share * count)

    def batch(iteration: int) -> Objective:
        draw = generator(seed, "order", iteration)
        parts = [_drawn(stored, count - new, draw)] if new < count else []
        if new and visited is not None:
            parts.append(_drawn(visited, new, draw))
        return ValueObjective(Values.joined(parts))

    fit_to(emulator, batch, iterations, folder, watcher, title, rate)


def _drawn(values: Values, count: int, draw: Generator) -> Values:
    rows = torch.randint(len(values), (count,), generator=draw)
    return values.at(rows.to(values.state.device))


@final
class EmulatorPullback:
    """Takes J^T v from an `Emulator`: the transposed derivative of E(u, f), exactly.

    It has the error of the emulator's derivative, and the emulator was fitted to values: a small
    error of these does not make the derivative right. Queries: none but the watch's.

    Source: Frezat and others, arXiv 2310.19385, who step the emulator in the forward pass as well;
    here the solver itself makes all steps.

    Args:
        emulator: A fitted one; see `fit_values`.
        probing: How the watch measures a response; its scale is of the perturbed input.
        watch: Compares the derivative with the solver's; None looks at every tenth product, and
            warns where they do not agree.
        seen: Told of every step at which a product is taken.
    """

    def __init__(
        self,
        emulator: Emulator,
        probing: Probing | None = None,
        watch: Watch | None = None,
        seen: Callable[[Step], None] | None = None,
    ) -> None:
        self._emulator, self._probing, self._seen = emulator, probing or Probing(), seen
        self._watch = watch or Watch(torch.Generator().manual_seed(0))

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `zopde.interface.Pullback`."""
        if self._seen is not None:
            self._seen(step)
        instead = self._watch.instead(step, self._push, self._probing)
        if instead is not None:
            return instead(step, cotangent)
        with torch.enable_grad():
            point = step.point.detach().clone().requires_grad_()
            (product,) = torch.autograd.grad(self._answer(step, point), point, cotangent)
        return product

    def _answer(self, step: Step, point: Varied) -> State:
        of_state = step.variable == "state"
        answer: State = self._emulator(
            *((point, step.forcing) if of_state else (step.state, point))
        )
        return answer

    def _push(self, step: Step, direction: Varied) -> State:
        """J_E d at one state."""
        with torch.enable_grad():
            _, pushed = jvp(lambda point: self._answer(step, point), step.point, direction)
        moved: State = pushed
        return moved
