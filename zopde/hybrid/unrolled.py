"""A network in the step of a solver: one corrected step, and the loss over an unroll of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Literal, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import (
    Forcing,
    Network,
    Solver,
    State,
    Window,
    ask_shared,
    filled,
    repeat_states,
    seedable,
    seeded,
)
from zopde.errors import InputError
from zopde.hybrid.losses import Loss
from zopde.hybrid.past import next_past, remembering
from zopde.hybrid.repeated import Repeated
from zopde.hybrid.still import Still


class Injection(Protocol):
    """Makes one step of a solver with a network in it.

    Attributes:
        adds_to: What the correction changes, and has the channels of.
        through_solver: Whether the correction reaches the next state through the solver alone.
            Then a loss has no gradient at all where the solver has none.
    """

    adds_to: Literal["state", "forcing"]
    through_solver: bool

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """Make as many next states as the network gives corrections.

        Args:
            solver: S.
            network: C, from (state, forcing) to what is added. It may give corrections for
                several probes side by side, (num_probes * batch, ...), probe-major; state and
                forcing are then common to all.
            state: (batch, channel, *space), u.
            forcing: (batch, forcing_channel, *space), f, or None.
        """
        ...


@final
class InjectAfter:
    """Corrects the state after the solver's step: v = S(u, f), u' = v + C(v, f)."""

    adds_to: Literal["state", "forcing"] = "state"
    through_solver = False

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`."""
        stepped = solver.step(state, forcing)
        return _add(stepped, network(stepped, forcing))


@final
class InjectBefore:
    """Corrects the state before the solver sees it: u' = S(u + C(u, f), f)."""

    adds_to: Literal["state", "forcing"] = "state"
    through_solver = True

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`."""
        corrected = _add(state, network(state, forcing))
        return solver.step(corrected, repeat_states(forcing, len(corrected) // len(state)))


@final
class InjectForcing:
    """Adds a learned source term, or a closure, to the solver's forcing: u' = S(u, f + C(u, f))."""

    adds_to: Literal["state", "forcing"] = "forcing"
    through_solver = True

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`; raises `InputError` if the solver has no forcing."""
        return _driven(solver, network, state, forcing, torch.add)


@final
class InjectParameter:
    """Learns a positive field of the solver, such as a viscosity: u' = S(u, f exp(C(u, f))).

    The field is the solver's forcing. What the data hold of it, f, is the first guess: a network
    that answers 0 leaves it as it is, one that answers ln 2 doubles it. Its sign never changes.
    """

    adds_to: Literal["state", "forcing"] = "forcing"
    through_solver = True

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`; raises `InputError` if the solver has no forcing."""
        return _driven(solver, network, state, forcing, _scaled)


@final
class _Held:
    """One correction of several steps: the network sees the first of their forcings.

        after      u' = v + C(v, f[1]),   v = S^k(u)
        before     u' = S^k(u + C(u, f[1]))
        forcing    as without; the correction is the same for all k forcings

    Args:
        injection: Where the correction enters.
        every: k. The forcing of a step is (batch, every, forcing_channel, *space).
    """

    def __init__(self, injection: Injection, every: int) -> None:
        self._injection, self._every = injection, every
        self.adds_to, self.through_solver = injection.adds_to, injection.through_solver

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`; raises `InputError` if there is not a forcing for each step."""
        if forcing is not None and forcing.shape[1 : -state.dim() + 1] != (self._every,):
            got, expected = f"shape {tuple(forcing.shape)}", "forcing_channel, *space"
            expected = f"(batch, {self._every}, {expected}), one for each of {self._every} steps"
            raise InputError("forcing", got=got, expected=expected)

        def held(state: State, forcing: Forcing | None) -> Tensor:
            correction = network(state, None if forcing is None else forcing[:, 0])
            if self.adds_to == "state":
                return correction
            return correction[:, None].expand(-1, self._every, *correction.shape[1:])

        return self._injection.step(solver, held, state, forcing)


INJECTIONS: dict[str, Injection] = {
    "after": InjectAfter(),
    "before": InjectBefore(),
    "forcing": InjectForcing(),
    "parameter": InjectParameter(),
}
"""The injections by the name that `corrector.inject` gives them."""


def repeated(solver: Solver, every: int) -> Solver:
    """`every` steps as one, with a forcing of each; a single step is the solver's own."""
    return solver if every == 1 else Repeated(solver, every)


def held(injection: Injection, every: int) -> Injection:
    """An injection for these `every` steps."""
    return injection if every == 1 else _Held(injection, every)


Joined = Callable[[Tensor, Tensor], Tensor]
"""(correction, base) -> the corrected base."""


def _driven(
    solver: Solver, network: Network, state: State, forcing: Forcing | None, joined: Joined
) -> State:
    """The solver's step with a forcing that the network has changed."""
    if forcing is None:
        got, expected = "a step without a forcing", "one to be corrected, such as zeros"
        raise InputError("inject", got=got, expected=expected)
    corrected = _add(forcing, network(state, forcing), joined)
    states = repeat_states(state, len(corrected) // len(state))
    assert states is not None
    return solver.step(states, corrected)


def _scaled(exponent: Tensor, field: Tensor) -> Tensor:
    return field * exponent.exp()


def _add(base: Tensor, correction: Tensor, joined: Joined = torch.add) -> Tensor:
    """The corrected base, the same one for every probe of the correction."""
    shape, is_complex = tuple(correction.shape[1:]), correction.is_complex()
    if shape != base.shape[1:] or is_complex > base.is_complex():
        raise InputError(
            "corrector",
            got=f"an answer of {'complex ' * is_complex}{shape}",
            expected=f"{tuple(base.shape[1:])}, as what it is added to",
        )
    probes: Tensor = correction.unflatten(0, (-1, len(base)))
    return joined(probes, base).flatten(0, 1)


@final
class UnrolledObjective:
    """Measures how far some corrected steps in a row stray from the reference data.

        L = (1 / n) sum_{k=1..n} mean[ ((u[k] - r[k]) / s)^2 ],
        u[k] = the corrected step from u[k-1], see `CorrectedSolver`

    (Um et al. 2020, eq. 5, with s the training data's standard deviation per channel; the mean is
    over the fluid, by the weights of the cells, where the solver's grid has a mask or weights.
    Where r is NaN, nothing was measured: the mean of each window is over the rest.)
    Under autograd the kind of solver decides what the gradient means, nothing else does:
    with n = 1 it is NON; with a `BlackBox`, which carries no gradient, NOG; with an
    `InterfaceSolver`, ZO-interface; with the differentiable twin, SOL. NON and NOG have no
    gradient where the correction reaches the loss `through_solver` alone.

    Args:
        solver: Advances num_probes * batch states a call: n calls, one less after the step,
            where the window holds the first step; `window.every` times as many.
        window: The stretch of reference data to follow.
        scale: (channel,), standard deviation by which each channel's error is divided.
        injection: Where the correction enters; None is after the step.
        seeds: One for every step of the unroll, with which the solver's noise is fixed: the same
            for every probe; none leaves the solver as it is. See `zopde.contracts.Seeded`.
        loss: What judges the states in place of L, in the state's units; the mean over the windows
            is the objective. See `zopde.hybrid.Loss`.
        nudge: a in [0, 1]: every step but the first starts from u[k] + a (r[k] - u[k]), the state
            that was judged, pulled towards the reference. Each step back damps a gradient by
            1 - a, so it does not grow without bound in a chaotic system. 0: a free run; 1: single
            steps.

    Raises:
        InputError: If the window lacks what the first step starts from, or any measurement, or by a
            wrong `nudge`.
    """

    def __init__(
        self,
        solver: Solver,
        window: Window,
        scale: Float[Tensor, " channel"],
        injection: Injection | None = None,
        seeds: Sequence[int] = (),
        loss: Loss | None = None,
        nudge: float = 0.0,
    ) -> None:
        self._solver, self._loss, self._nudge = repeated(solver, window.every), loss, nudge
        if not 0 <= nudge <= 1:
            raise InputError("nudge", got=nudge, expected="a number in [0, 1]")
        self._seeds = tuple(seeds) if seedable(solver) else ()
        self._plain_scale, self._grid = scale, solver.grid
        self._injection = held(injection or INJECTIONS["after"], window.every)
        if window.initial is None and self._injection.through_solver:
            raise InputError("window", got="no initial state", expected="one, to be corrected")
        self._judge(window)

    def _judge(self, window: Window) -> None:
        """Take the windows, and the scale of their errors; what was not measured has none."""
        self._window, scale = window, self._plain_scale
        self._scale = scale.view(-1, *[1] * (window.targets.dim() - 3))
        weights = getattr(self._grid, "cell_weights", None)
        if weights is not None:  # to count w-fold is to have a scale smaller by the root of w
            self._scale = self._scale / weights.to(scale).sqrt()
        missing = filled(self._grid, window.targets).isnan()  # land is never measured
        self._missing = missing if bool(missing.any()) else None
        if self._missing is not None:  # the rest counts the more
            there = (~missing).to(scale) * (1.0 if weights is None else weights.to(scale))
            share = there.flatten(1).mean(dim=1)
            if not bool(share.all()):
                raise InputError("window", got="no measurement", expected="some in each window")
            self._scale = self._scale * share.sqrt().view(-1, 1, *[1] * (there.dim() - 3))

    def __call__(self, network: Network, num_probes: int = 1) -> Float[Tensor, " num_probes"]:
        """Evaluate `num_probes` losses; see `zopde.contracts.Objective`."""
        if self._loss is not None:
            targets, states = self._window.targets, self._states(network, num_probes)
            reference, domain = repeat_states(targets, num_probes), self._solver.grid
            assert reference is not None
            losses = self._loss(torch.stack(list(states), dim=1), reference, domain)
            return losses.view(num_probes, -1).mean(dim=1)
        errors = [off.square().mean(dim=1) for off in self._residuals(network, num_probes)]
        return sum(errors[1:], errors[0]) / len(errors)

    def residuals(self, network: Network, num_probes: int = 1) -> Float[Tensor, "num_probes n"]:
        """What L squares: its terms' roots (u - r) / s, of every step; 0 where nothing counts."""
        return torch.cat(list(self._residuals(network, num_probes)), dim=1)

    def _residuals(self, network: Network, num_probes: int) -> Iterator[Tensor]:
        """(num_probes, m) of each corrected step."""
        targets = self._window.targets
        for k, state in enumerate(self._states(network, num_probes)):
            off = state.view(num_probes, *targets[:, k].shape) - targets[:, k]
            if self._missing is not None:  # before the square: its derivative at NaN is NaN
                off = torch.where(self._missing[:, k], 0.0, off)
            yield (filled(self._grid, off) / self._scale).flatten(1)

    def _states(self, network: Network, num_probes: int) -> Iterator[State]:
        """(num_probes * batch, channel, *space) after each corrected step."""
        window = self._window
        state = window.stepped if window.initial is None else window.initial
        assert state is not None, "see Window"
        past = window.past
        for k in range(window.unroll):
            solver = self.solver_at(k)
            forcing = None if window.forcing is None else window.forcing[:, k]
            if k == 0:  # all probes start from the same states
                if window.stepped is not None:
                    solver = _KnownStep(solver, state, forcing, window.stepped)
                corrector: Network = partial(ask_shared, network, num_probes)
            else:
                corrector, forcing = network, repeat_states(forcing, num_probes)
            if past is not None:
                corrector = remembering(corrector, past)
                past = next_past(past, state, num_probes if k == 0 else 1)
            state = self._injection.step(solver, corrector, state, forcing)
            yield state
            if self._nudge:
                state = self._pulled(state, window.targets[:, k])

    def _pulled(self, state: State, target: State) -> State:
        """The states of all probes, moved towards the reference where it tells something."""
        probes = state.view(-1, *target.shape)
        known = torch.where(target.isfinite(), target, probes)
        return torch.lerp(probes, known, self._nudge).view_as(state)

    def pieces(self, most: int, steps: int) -> list[UnrolledObjective]:
        """The objective of each of the first windows by itself, over its first steps.

        Windows of which nothing was measured in these steps are left out.

        Args:
            most: So many windows, if there are.
            steps: So many of their steps, >= 1.
        """
        parts = [self._window.part(row, steps) for row in range(min(most, self._window.batch))]
        alone = []
        for part in parts:
            if not bool(part.targets.isnan().all()):
                alone.append(copy(self))
                alone[-1]._judge(part)
        return alone

    def still(self) -> UnrolledObjective:
        """The same without a solver step, see `Still`, to compare ways of asking a network by."""
        other = copy(self)
        other._solver, other._seeds = repeated(Still(self._grid), self._window.every), ()
        return other

    @property
    def unroll(self) -> int:
        """Number of corrected steps that the loss sees."""
        return self._window.unroll

    def solver_at(self, k: int) -> Solver:
        """The solver of step k, counted from 0, with that step's noise."""
        return seeded(self._solver, self._seeds[k]) if self._seeds else self._solver


@final
class _KnownStep:
    """A solver whose step from one batch of states is known; it makes all others itself."""

    def __init__(
        self, solver: Solver, state: State, forcing: Forcing | None, stepped: State
    ) -> None:
        self.grid, self._solver = solver.grid, solver
        self._state, self._forcing, self._stepped = state, forcing, stepped

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        known = state is self._state and forcing is self._forcing
        return self._stepped if known else self._solver.step(state, forcing)
