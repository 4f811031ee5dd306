"""What a product is compared with while it is in use: the solver, asked again."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Generator, Tensor

from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Forcing, State, counted_apart
from zopde.errors import SolverError
from zopde.interface import Probing, Pullback, Step, Variable
from zopde.interface.vjp import Due, Varied, failed
from zopde.interface.watch import at_other_steps

_ALIKE = 0.1  # of a finite-difference step: by what answers to the same state may differ
_ROUND_OFF = 16  # units in the last place, of another order of the same sums in another batch


@final
class Finite(Wrapper):
    """Takes an answer that is not finite for a failed step, as one that raises is."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        stepped = self._solver.step(state, forcing)
        lost = int(failed(stepped).sum())
        if lost:
            whose = "the answer" if bool(state.isfinite().all()) else "the state itself"
            raise SolverError(f"step: {whose} is not finite, at {lost} of {len(state)} states")
        return stepped


@final
class Compared:
    """Takes products another way, and compares some of them with the solver.

    At the products 1, 2, 4, 8 and then every tenth of an input, the solver is asked again where it
    was stepped (one solver step), and, if `draws` are given, for its derivative along a random
    direction (four); see `zopde.interface.watch.at_other_steps`. All are counted apart.

    Args:
        around: Gives the products.
        probing: How the response to each input is measured.
        draws: Source of the directions; None compares answers alone.
        say: What there is to warn of, from how far a product is off and what is said of its step.

    Attributes:
        seen: By how much of their size the products that were looked at were off.
    """

    def __init__(
        self,
        around: Pullback,
        probing: Mapping[Variable, Probing],
        draws: Generator | None = None,
        say: Callable[[float, str], str] = lambda _, text: text,
    ) -> None:
        self._around, self._probing, self._draws, self._say = around, probing, draws, say
        self._products, self.seen = Counter[Variable](), list[float]()

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `zopde.interface.Pullback`."""
        probing, looks = self._probing[step.variable], self._products[step.variable] in Due()
        self._products[step.variable] += 1
        if looks:
            check_same(step, probing.mu)
        product = self._around(step, cotangent)
        if looks and self._draws is not None and not failed(product).any():
            off, text = at_other_steps(step, cotangent, product, probing, self._draws)
            self.seen.append(off)
            if text := self._say(off, text):
                warnings.warn(text, stacklevel=2)
        return product


def check_same(step: Step, mu: float) -> None:
    """Refuse a solver that answers otherwise than it did: differences of its answers mean nothing.

    Queries: one solver step of the first state, counted apart; two or more before it is refused.
    """
    units = Probing(mu).units(replace(step, variable="state"))[:1]
    digits = _ROUND_OFF * torch.finfo(step.stepped.dtype).eps
    single, before = step.at(0), step.stepped[:1]

    def alike(answer: Tensor, other: Tensor) -> bool:
        away, size = (answer - other).abs(), digits * other.abs().max()
        return bool((away <= torch.maximum(_ALIKE * mu * units, size)).all())

    with counted_apart():
        answer = single.solver.step(single.state, single.forcing)
        if alike(answer, before):
            return
        if not alike(single.solver.step(single.state, single.forcing), answer):
            why = "it answers the same state otherwise each time (chance, or a memory)"
        elif len(step.state) > 1 and alike(step.solver.step(step.state, step.forcing)[:1], before):
            why = "it answers a state otherwise alone than beside others: a batch must not matter"
        else:
            why = "a parameter of it has changed since: go backward before you change it"
    raise SolverError(f"the solver answers otherwise than in the forward pass: {why}")
