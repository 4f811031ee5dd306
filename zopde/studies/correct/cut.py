"""The interface cut of a run: how the solver's vector-Jacobian product is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from zopde.blackbox import CountedSolver
from zopde.errors import InputError
from zopde.interface import (
    CheckedAt,
    ColouredPullback,
    DensePullback,
    Pullback,
    PullbackAt,
    RandomPullback,
    Variable,
    always,
    by_variable,
    coloured_for,
)
from zopde.seeding import generator
from zopde.studies.correct.bank import BankAt, Keeping, forms_of_bank
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import InterfaceCut, Opened, Problem
from zopde.training import Fitted, not_measured

REACH = "reach.json"  # what a check widened, and when
REACH_PROBES = 64  # solver steps that measure how far a response reaches


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


def check_suits(opened: Opened) -> None:
    """Require, before anything is trained, that solver and data suit every label."""
    problem = opened.problem
    scored = any(opened.needs_scores(LABELS[label]) for label in opened.labels)
    if scored and opened.weights.score == "grasp" and problem.twin is None:
        raise InputError(
            "zo.score",
            got="'grasp' with a solver that has no differentiable twin",
            expected="a score that needs no gradient",
            remedy="use 'zo-grasp', its estimate from queries",
        )
    axes = len(problem.solver.grid.shape)
    for cut in opened.cuts.values():
        for name, declared in (("radius", cut.radius), ("near", cut.near)):
            if declared and len(declared) != axes:
                raise InputError(
                    f"interface.{name}",
                    got=list(declared),
                    expected=f"{axes} numbers of cells, one for each axis, or none",
                )
        if cut.way == "bank":
            forms_of_bank(cut, problem.solver.grid, problem.variables)
        if cut.way == "coloured" or (cut.way, cut.fallback) == ("bank", "coloured"):
            coloured_of(cut, problem, CountedSolver(problem.solver), 0)


def open_interface(
    cut: InterfaceCut, problem: Problem, seed: int, keeping: Keeping | None = None
) -> Interface:
    """Measure what a way needs to know; a function of (cut, data, seed)."""
    began, counter = time.monotonic(), CountedSolver(problem.solver)
    keeping, odd = keeping or Keeping(), problem.odd_channels(cut)

    def cost(steps: int) -> Fitted:
        compared = {"interface": counter.compared} if counter.compared else {}
        return Fitted(0, 0, steps, time.monotonic() - began, checked=compared)

    if cut.way == "random":
        drawn = _RandomAt(cut, problem, seed)
        note = f"{cut.directions} random directions; noise grows with training.unroll{odd}"
        return Interface(drawn, cost(0), note, variance=drawn.variance)
    if cut.way == "dense":
        return Interface(always(_dense(cut, problem)), cost(0), f"every entry is asked for{odd}")
    if cut.way == "coloured":
        coloured = coloured_of(cut, problem, counter, seed)
        note = "; ".join(_describe(variable, pullback) for variable, pullback in coloured.items())
        file, say = None if keeping.own is None else keeping.own / REACH, keeping.progress.note
        draws = partial(generator, seed, "probes")
        checked = CheckedAt(coloured, draws, cut.check_every, file, say)
        return Interface(checked, cost(counter.steps), f"{note}{odd}")
    fallback: Pullback | None = None
    if cut.fallback == "coloured":
        fallback = by_variable(coloured_of(cut, problem, counter, seed))
    elif cut.fallback == "dense":
        fallback = _dense(cut, problem)
    before = counter.steps
    bank = BankAt(cut, problem, counter, seed, keeping, fallback)
    spent = cost(before + bank.solver_steps)
    return Interface(bank, spent, f"{bank.note}{odd}", bank.finish, bank.agreement)


class _RandomAt:
    """Fresh directions at every iteration, and how noisy the latest ones were."""

    def __init__(self, cut: InterfaceCut, problem: Problem, seed: int) -> None:
        self._cut, self._seed = cut, seed
        self._scales = problem.scales(cut)
        self._pullbacks: dict[Variable, RandomPullback] = {}

    def __call__(self, iteration: int) -> Pullback:
        draws, cut = generator(self._seed, "probes", iteration), self._cut
        self._pullbacks = {
            variable: RandomPullback(
                draws, cut.directions, cut.mu, cut.scheme, cut.states, scale=scale
            )
            for variable, scale in self._scales.items()
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
    order = torch.randperm(len(problem.answered), generator=generator(seed, "probes"))
    rows = problem.answered[order[:REACH_PROBES]]
    step = problem.stored_steps(counter, rows)
    return {
        variable: coloured_for(
            replace(step, variable=variable),
            tuple(cut.radius) or None if variable == "state" else None,
            cut.allow_bias,
            cut.mu,
            cut.scheme,
            cut.states,
            REACH_PROBES,
            scale,
            check_every=0,  # see `CheckedAt`
        )
        for variable, scale in problem.scales(cut).items()
    }


def _dense(cut: InterfaceCut, problem: Problem) -> Pullback:
    return by_variable(
        {
            variable: DensePullback(cut.mu, cut.scheme, cut.states, scale)
            for variable, scale in problem.scales(cut).items()
        }
    )


def _describe(variable: Variable, coloured: ColouredPullback) -> str:
    radius, steps = " x ".join(map(str, coloured.radius)), coloured.probes_for(variable)
    text = f"{variable}: radius {radius} cells, {steps} solver steps per state and step"
    text += f", {100 * coloured.bias:.2g} % of a response lies outside"
    return f"{text}; {coloured.measured}"
