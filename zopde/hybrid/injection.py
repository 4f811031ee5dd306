"""Where a network's answer enters the step of a solver.

A solver and a corrector as one solver.
"""

from __future__ import annotations

from typing import Literal, Protocol, final

from torch import Tensor

from zopde.contracts import Forcing, Network, Solver, State, repeat_states, seeded
from zopde.errors import InputError
from zopde.grid import Grid


class Injection(Protocol):
    """One step of a solver with a network in it.

    Attributes:
        adds_to: What the network's answer is added to; it has the channels of that.
        through_solver: Whether the answer reaches the next state through the solver alone. Then
            a loss has no gradient at all where the solver has none.
    """

    adds_to: Literal["state", "forcing"]
    through_solver: bool

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """The next state.

        Args:
            solver: S.
            network: C, from (state, forcing) to what is added. It may answer for several probes
                side by side, (num_probes * batch, ...), probe-major; the others' states and
                forcings are then common to all.
            state: (batch, channel, *space), u.
            forcing: (batch, forcing_channel, *space), f, or None.

        Returns:
            As many states as the network answered for.
        """
        ...


@final
class InjectAfter:
    """The solver's answer is corrected.

    v = S(u, f),   u' = v + C(v, f)
    """

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
    """The state is corrected before the solver sees it.

    u' = S(u + C(u, f), f)
    """

    adds_to: Literal["state", "forcing"] = "state"
    through_solver = True

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`."""
        moved = _add(state, network(state, forcing))
        return solver.step(moved, _as_many(forcing, moved))


@final
class InjectForcing:
    """The network is a learned source term, or a closure, in the solver's forcing.

    u' = S(u, f + C(u, f))
    """

    adds_to: Literal["state", "forcing"] = "forcing"
    through_solver = True

    def step(
        self, solver: Solver, network: Network, state: State, forcing: Forcing | None
    ) -> State:
        """See `Injection`.

        Raises:
            InputError: If the solver has no forcing.
        """
        if forcing is None:
            raise InputError(
                "inject", got="'forcing' without a forcing", expected="one to add to, such as zeros"
            )
        driven = _add(forcing, network(state, forcing))
        moved = _as_many(state, driven)
        assert moved is not None
        return solver.step(moved, driven)


INJECTIONS: dict[str, Injection] = {
    "after": InjectAfter(),
    "before": InjectBefore(),
    "forcing": InjectForcing(),
}


def _add(base: Tensor, answer: Tensor) -> Tensor:
    """The sum, where every probe of the answer has the same base."""
    if answer.shape[1:] != base.shape[1:]:
        raise InputError(
            "corrector",
            got=f"an answer of {tuple(answer.shape[1:])}",
            expected=f"{tuple(base.shape[1:])}, as what it is added to",
        )
    probes: Tensor = answer.unflatten(0, (-1, len(base)))
    return (probes + base).flatten(0, 1)


def _as_many(values: Tensor | None, states: Tensor) -> Tensor | None:
    """Repeated for every probe, if there are several."""
    return values if values is None else repeat_states(values, len(states) // len(values))


@final
class CorrectedSolver:
    """Lets a network correct every step of a solver.

        after:    v = S(u, f),   u' = v + C(v, f)
        before:   u' = S(u + C(u, f), f)
        forcing:  u' = S(u, f + C(u, f))

    The solver stays a black box; the result is again a `Solver`.

    Args:
        solver: The solver S.
        network: The corrector C, from (state, forcing) to a correction of the state's shape, or
            of the forcing's.
        injection: `InjectAfter()`, `InjectBefore()` or `InjectForcing()`. None: where the
            network belongs by its own account (`network.inject`, which `load_corrector` brings
            back), or after the step if it gives none.
    """

    def __init__(
        self, solver: Solver, network: Network, injection: Injection | None = None
    ) -> None:
        self._solver = solver
        self._network = network
        self._injection = injection or INJECTIONS[getattr(network, "inject", "after")]

    @property
    def grid(self) -> Grid:
        """The solver's grid."""
        return self._solver.grid

    def with_seed(self, seed: int) -> CorrectedSolver:
        """The same with the solver's noise fixed; see `zopde.contracts.Seeded`."""
        return CorrectedSolver(seeded(self._solver, seed), self._network, self._injection)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One corrected step; see `zopde.Solver.step`."""
        return self._injection.step(self._solver, self._network, state, forcing)
