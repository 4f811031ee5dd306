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
from zopde.interface import (
    ColouredPullback,
    DensePullback,
    Pullback,
    PullbackAt,
    RandomPullback,
    Step,
    Variable,
    always,
    by_variable,
    coloured_for,
)
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.studies.correct.bank import BankAt, Places, forms_of_bank
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import Opened, Problem
from zopde.training import Fitted, not_measured

_PROBES = 64


@dataclass(frozen=True)
class Interface:
    """What answers the backward pass at every iteration, and what it took to get ready."""

    # Iteration -> pullback; a function of the iteration, for an exact resume
    pullback_at: PullbackAt
    cost: Fitted  # of no iteration
    note: str  # what was found, for whom it may concern
    # To be called after so many iterations; what there is to say then, or ""
    finish: Callable[[int], str] = lambda _: ""
    # What the latest iteration's watch saw, a cosine; None if there was none
    agreement: Callable[[], float | None] = not_measured
    # Of random directions, in the latest iteration's products; None without any
    variance: Callable[[], float | None] = not_measured


def check_cut(cut: InterfaceCut, problem: Problem) -> None:
    """Require, before anything is trained, that a way suits the solver.

    Raises:
        InputError: If the solver is not local enough for colours, the radius is not one for each
            axis, or a bank does not fit.
    """
    axes = len(problem.solver.grid.shape)
    for name, declared in (("radius", cut.radius), ("near", cut.near)):
        if declared and len(declared) != axes:
            raise InputError(
                f"interface.{name}",
                got=list(declared),
                expected=f"{axes} numbers of cells, one for each axis, or none",
            )
    if cut.way == "bank":
        forms_of_bank(cut, problem)
    if "coloured" in cut.ways:
        coloured_of(cut, problem, CountedSolver(problem.solver), 0)


def check_suits(opened: Opened) -> None:
    """Require, before anything is trained, that solver and data suit every label.

    Raises:
        InputError: If a score needs a derivative that the solver has not, or a way of the
            interface cut does not suit the solver.
    """
    problem = opened.problem
    scored = any(opened.needs_scores(LABELS[label]) for label in opened.labels)
    if scored and opened.weights.score == "grasp" and problem.twin is None:
        raise InputError(
            "zo.score",
            got="'grasp' with a solver that has no differentiable twin",
            expected="a score that needs no gradient",
            remedy="use 'zo-grasp', its estimate from queries",
        )
    for cut in opened.cuts.values():
        check_cut(cut, problem)


def open_interface(
    cut: InterfaceCut,
    problem: Problem,
    seed: int,
    identity: str = "",
    places: Places | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Interface:
    """Measure what a way needs to know; a function of (cut, data, seed).

    Args:
        cut: The way, and its figures.
        problem: Solver and data.
        seed: The run's.
        identity: What decides the solver's answers, for a bank that is kept.
        places: Where a bank is kept; None keeps it in memory.
        executor: Worker processes that fill a bank; None is this process.
        progress: Who is watching.
    """
    began, counter = time.monotonic(), CountedSolver(problem.solver)

    def cost(steps: int) -> Fitted:
        return Fitted(0, 0, steps, time.monotonic() - began)

    if cut.way == "random":
        drawn = _RandomAt(cut, problem, seed)
        return Interface(drawn, cost(0), drawn.note, variance=drawn.variance)
    if cut.way == "dense":
        dense = _dense(cut, problem)
        return Interface(always(dense), cost(0), "every entry is asked for")
    if cut.way == "coloured":
        coloured = coloured_of(cut, problem, counter, seed)
        pullback = by_variable(coloured)
        note = "; ".join(_describe(v, one) for v, one in coloured.items())
        return Interface(always(pullback), cost(counter.steps), note)
    fallback: Pullback | None = None
    if cut.fallback == "coloured":
        fallback = by_variable(coloured_of(cut, problem, counter, seed))
    elif cut.fallback == "dense":
        fallback = _dense(cut, problem)
    before = counter.steps
    bank = BankAt(
        cut, problem, identity, counter, seed, places or Places(), executor, fallback, progress
    )
    spent = cost(before + bank.solver_steps)
    return Interface(bank, spent, bank.note, bank.finish, bank.agreement)


def products(problem: Problem, unroll: int) -> int:
    """How many products a backward pass takes, each for all states of the batch."""
    first = int(problem.injection.through_solver)  # a network before it makes the first step count
    return unroll - 1 + first + (unroll - 1) * (len(problem.variables) - 1)


@final
class _RandomAt:
    """Fresh directions at every iteration, and how noisy the latest ones were."""

    def __init__(self, cut: InterfaceCut, problem: Problem, seed: int) -> None:
        self._cut, self._seed = cut, seed
        self._mu = {v: cut.mu * problem.scale_of(v) for v in problem.variables}
        self._pullbacks: dict[Variable, RandomPullback] = {}
        self.note = f"{cut.directions} random directions; noise grows with training.unroll"

    def __call__(self, iteration: int) -> Pullback:
        draws, cut = generator(self._seed, "probes", iteration), self._cut
        self._pullbacks = {
            variable: RandomPullback(draws, cut.directions, mu, cut.scheme, cut.states)
            for variable, mu in self._mu.items()
        }
        return by_variable(self._pullbacks)

    def variance(self) -> float | None:
        """Of an entry of the latest iteration's products with respect to the state."""
        return self._pullbacks["state"].variance if self._pullbacks else None


def coloured_of(
    cut: InterfaceCut, problem: Problem, counter: CountedSolver, seed: int
) -> dict[Variable, ColouredPullback]:
    """The coloured interface, its radius measured, or measured against.

    `radius` is the state's; how far a response to the forcing reaches is measured.
    """
    step = _typical_step(problem, counter, seed)
    return {
        variable: coloured_for(
            replace(step, variable=variable),
            tuple(cut.radius) or None if variable == "state" else None,
            cut.allow_bias,
            cut.mu * problem.scale_of(variable),
            cut.scheme,
            cut.states,
            probes=_PROBES,
        )
        for variable in problem.variables
    }


def _dense(cut: InterfaceCut, problem: Problem) -> Pullback:
    return by_variable(
        {
            variable: DensePullback(cut.mu * problem.scale_of(variable), cut.scheme, cut.states)
            for variable in problem.variables
        }
    )


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
