"""The interface cut of a run: how the solver's vector-Jacobian product is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import final

import torch

from zopde.blackbox import CountedSolver
from zopde.errors import InputError
from zopde.hybrid import INJECTIONS
from zopde.interface import (
    ColouredPullback,
    DensePullback,
    Pullback,
    RandomPullback,
    Step,
    coloured_for,
)
from zopde.interface.vjp import Variable, by_variable
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.studies.correct.bank import AmortisedAt, Places, forms_of_bank
from zopde.studies.correct.labels import WAYS
from zopde.studies.correct.problem import Problem
from zopde.studies.correct.settings import CorrectionConfig
from zopde.training import Fitted

PullbackAt = Callable[[int], Pullback]

_PROBES = 64


@dataclass(frozen=True)
class Interface:
    """What answers the backward pass at every iteration, and what it took to get ready.

    Args:
        pullback_at: Iteration -> pullback; a function of the iteration, for an exact resume.
        cost: Of no iteration.
        note: What was found, for whom it may concern.
        finish: To be called after so many iterations; what there is to say then, or "".
        agreement: What the latest iteration's watch saw, a cosine; None if there was none.
        variance: Of random directions, in the latest iteration's products; None without any.
    """

    pullback_at: PullbackAt
    cost: Fitted
    note: str
    finish: Callable[[int], str] = lambda _: ""
    agreement: Callable[[], float | None] = lambda: None
    variance: Callable[[], float | None] = lambda: None


def check_interface(config: CorrectionConfig, problem: Problem) -> None:
    """Require, before anything is trained, that the configured way suits the solver.

    Raises:
        InputError: If the solver is not local enough for colours, or the radius is not one for
            each axis.
    """
    if any(WAYS[label].interface for label in config.run.labels):
        space = problem.solver.grid.shape
        for name in ("radius", "near"):
            declared = getattr(config.interface, name)
            if declared and len(declared) != len(space):
                raise InputError(
                    f"interface.{name}",
                    got=list(declared),
                    expected=f"{len(space)} numbers of cells, one for each axis, or none",
                )
        kind, fallback = config.interface.kind, config.interface.fallback
        if kind == "amortised":
            forms_of_bank(config, problem, variables(config))
        if "coloured" in (kind, fallback if kind == "amortised" else ""):
            coloured_of(config, problem, CountedSolver(problem.solver), 0)


def open_interface(
    config: CorrectionConfig,
    problem: Problem,
    seed: int,
    places: Places | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Interface:
    """Measure what the configured way needs to know; a function of (config, data, seed).

    Args:
        config: The run's settings.
        problem: Solver and data.
        seed: The run's.
        places: Where a bank is kept; None keeps it in memory.
        executor: Who fills a bank; None is this process.
        progress: Who is watching.
    """
    began, counter = time.monotonic(), CountedSolver(problem.solver)
    if config.interface.kind == "random":
        drawn = _RandomAt(config, problem, seed)
        cost = Fitted(0, 0, 0, time.monotonic() - began)
        return Interface(drawn, cost, drawn.note, variance=drawn.variance)
    if config.interface.kind != "amortised":
        make, note = _ways(config, problem, counter, seed)
        return Interface(make, Fitted(0, 0, counter.steps, time.monotonic() - began), note)
    fallback, mu = _fallback(config, problem, counter, seed), mu_of(config, problem)
    extra = counter.steps
    found = AmortisedAt(
        config, problem, counter, seed, mu, places or Places(), executor, fallback, progress
    )
    cost = Fitted(0, 0, extra + found.solver_steps, time.monotonic() - began)
    return Interface(found, cost, found.note, found.finish, found.agreement)


def variables(config: CorrectionConfig) -> list[Variable]:
    """Inputs of the solver that the network feeds, in an unrolled rollout."""
    moved = INJECTIONS[config.corrector.inject].adds_to
    return ["state", "forcing"] if moved == "forcing" else ["state"]


def products(config: CorrectionConfig) -> int:
    """How many products a backward pass asks for, each for all states of the batch."""
    injection, unroll = INJECTIONS[config.corrector.inject], config.training.unroll
    first = int(injection.through_solver)  # a network before the first step makes it count, too
    return unroll - 1 + first + (unroll - 1) * (len(variables(config)) - 1)


def _ways(
    config: CorrectionConfig, problem: Problem, counter: CountedSolver, seed: int
) -> tuple[PullbackAt, str]:
    table = config.interface
    if table.kind == "dense":
        dense = _dense(config, problem)
        return lambda _: dense, "every entry is asked for"
    coloured = coloured_of(config, problem, counter, seed)
    pullback = by_variable(coloured)
    return lambda _: pullback, "; ".join(_describe(v, one) for v, one in coloured.items())


@final
class _RandomAt:
    """Fresh directions at every iteration, and how noisy the latest ones were."""

    def __init__(self, config: CorrectionConfig, problem: Problem, seed: int) -> None:
        self._table, self._mu, self._seed = config.interface, mu_of(config, problem), seed
        self._ways: dict[Variable, RandomPullback] = {}
        self.note = f"{self._table.directions} random directions; noise grows with training.unroll"

    def __call__(self, iteration: int) -> Pullback:
        draws, table = generator(self._seed, "probes", iteration), self._table
        self._ways = {
            variable: RandomPullback(draws, table.directions, mu, table.scheme, table.states)
            for variable, mu in self._mu.items()
        }
        return by_variable(self._ways)

    def variance(self) -> float | None:
        """Of an entry of the latest iteration's products with respect to the state."""
        return self._ways["state"].variance if self._ways else None


def coloured_of(
    config: CorrectionConfig, problem: Problem, counter: CountedSolver, seed: int
) -> dict[Variable, ColouredPullback]:
    """The coloured interface with the run's settings, its radius measured, or measured against.

    `interface.radius` is the state's; how far an answer to the forcing reaches is measured.
    """
    table, step = config.interface, _typical_step(problem, counter, seed)
    return {
        variable: coloured_for(
            replace(step, variable=variable),
            tuple(table.radius) or None if variable == "state" else None,
            table.allow_bias,
            mu,
            table.scheme,
            table.states,
            probes=_PROBES,
        )
        for variable, mu in mu_of(config, problem).items()
    }


def _dense(config: CorrectionConfig, problem: Problem) -> Pullback:
    table = config.interface
    return by_variable(
        {
            variable: DensePullback(mu, table.scheme, table.states)
            for variable, mu in mu_of(config, problem).items()
        }
    )


def _fallback(
    config: CorrectionConfig, problem: Problem, counter: CountedSolver, seed: int
) -> Pullback | None:
    """What answers where a watched bank does not fit."""
    if config.interface.fallback == "coloured":
        return by_variable(coloured_of(config, problem, counter, seed))
    return _dense(config, problem) if config.interface.fallback == "dense" else None


def mu_of(config: CorrectionConfig, problem: Problem) -> dict[Variable, float]:
    """The finite-difference step by input of the solver, in its units."""
    data, mu = problem.train, config.interface.mu
    scales = {"state": data.state_scale, "forcing": data.forcing_scale}
    return {v: mu * float(scales[v]().square().mean().sqrt()) for v in variables(config)}


def _describe(variable: Variable, coloured: ColouredPullback) -> str:
    radius, steps = " x ".join(map(str, coloured.radius)), coloured.probes_for(variable)
    text = f"{variable}: radius {radius} cells, {steps} solver steps per state and step"
    return f"{text}, {100 * coloured.bias:.2g} % of a response lies outside"


def _typical_step(problem: Problem, solver: CountedSolver, seed: int) -> Step:
    """Stored steps of the training data, drawn at random; they cost nothing."""
    data = problem.train
    stepped = problem.stepped.flatten(0, 1)
    rows = torch.randperm(len(stepped), generator=generator(seed, "probes"))[:_PROBES]
    rows = rows.to(stepped.device)
    forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[rows]
    return Step(solver, data.states[:, :-1].flatten(0, 1)[rows], forcing, stepped[rows])
