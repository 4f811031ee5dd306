"""The interface cut of a run: how the solver's vector-Jacobian product is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import torch

from zopde.blackbox import CountedSolver
from zopde.errors import InputError
from zopde.interface import (
    Agreement,
    CheckedAt,
    ColouredPullback,
    CorrectedPullback,
    DensePullback,
    IdentityPullback,
    Pullback,
    PullbackAt,
    RegressedPullback,
    Step,
    Variable,
    always,
    by_variable,
    coloured_for,
)
from zopde.interface.coloured import STEPS_OF_A_CHECK
from zopde.interface.identity import check_source
from zopde.seeding import generator
from zopde.studies.correct.bank import BankAt, check_bank
from zopde.studies.correct.cuts import EmulatorCut, InterfaceCut
from zopde.studies.correct.emulator import EmulatorAt
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.looks import Keeping, Looks
from zopde.studies.correct.loss import check_judged
from zopde.studies.correct.pictures import check_pictures
from zopde.studies.correct.problem import Opened, Problem, products_of
from zopde.studies.correct.tangent import TangentAt, learning_of
from zopde.tangent.choose import check_learnable
from zopde.training import Fitted, not_measured
from zopde.zo.kalman import check_localised

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
    # Keeps what the latest iteration's watch saw, and tells it; None if it did not look
    agreement: Callable[[], Agreement | None] = not_measured
    # Mean squared error of the entries of the latest iteration's corrected products, estimated;
    # None without any
    variance: Callable[[], float | None] = not_measured
    of_a_look: int = 0  # solver steps that compare a product of every input, counted apart


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
        if cut.radius and len(cut.radius) != axes:
            raise InputError(
                "interface.radius",
                got=list(cut.radius),
                expected=f"{axes} numbers of cells, one for each axis, or none",
            )
        ways = cut.ways
        if cut.way == "identity" and "forcing" in problem.variables:
            check_source(problem.solver.grid)
        if "bank" in ways:
            check_bank(cut, problem.solver.grid, problem.variables)
        if cut.way == "auto" and not cut.hears_above(opened.chance):
            raise InputError(
                "interface.way",
                got="'auto' with a random solver, whose answers to one state differ by "
                f"{opened.chance:.1e} standard deviations",
                expected="noise of at most a tenth of interface.mu",
                remedy="give the solver with_seed(seed), or name a way that bears noise",
            )
        if learned := {"tangent", "emulator"}.intersection(ways):
            name = "interface.around" if cut.way == "random" else "interface.way"
            check_learnable(name, problem.solver.grid, learned.pop())
        if {"tangent", "auto"}.intersection(ways):
            learning_of(cut).bases(cut.sides, len(problem.variables), "interface.budget")
        watched = {"bank", "tangent", "regressed", "emulator"}.intersection(ways)
        if cut.way in ("coloured", "regressed") or (watched and cut.fallback == "coloured"):
            coloured_of(cut, problem, CountedSolver(problem.solver), 0)
    if opened.ensemble.localised and "EKI" in opened.labels:
        check_localised(opened.judged_numbers)
    check_judged(opened.training, problem, opened.seeds[0], opened.labels, opened.metrics)
    check_pictures(opened.pictures, opened.possible, problem.test)


def open_interface(
    cut: InterfaceCut,
    problem: Problem,
    seed: int,
    unroll: int,
    keeping: Keeping | None = None,
    emulator: EmulatorCut | None = None,
) -> Interface:
    """Measure what a way needs to know; a function of (cut, data, seed, steps of an unroll)."""
    assert cut.way != "auto", "see `ways.decided`"
    began, counter = time.monotonic(), CountedSolver(problem.solver)
    keeping, odd = keeping or Keeping(), problem.odd_channels(cut)
    inputs = len(problem.variables)

    def cost(steps: int) -> Fitted:
        compared = {"interface": counter.compared} if counter.compared else {}
        return Fitted(0, 0, steps, time.monotonic() - began, checked=compared)

    if cut.way == "random":
        base = None
        if cut.around != "identity":
            inner = replace(cut, way=cut.around)
            base = open_interface(inner, problem, seed, unroll, keeping, emulator)
        return corrected(cut, problem, seed, keeping.executor, base)
    if cut.way == "identity":
        return Interface(always(IdentityPullback()), cost(0), "the gradient passes as it is")
    if cut.way == "dense":
        dense = always(_dense(cut, problem, keeping.executor))
        return Interface(dense, cost(0), f"every entry is asked for{odd}")
    if cut.way == "coloured":
        coloured = coloured_of(cut, problem, counter, seed, keeping.executor)
        note = "; ".join(_describe(variable, pullback) for variable, pullback in coloured.items())
        file, say = None if keeping.own is None else keeping.own / REACH, keeping.progress.note
        draws = partial(generator, seed, "probes")
        checked = CheckedAt(coloured, draws, cut.watch_every, file, say)
        look = STEPS_OF_A_CHECK * inputs
        return Interface(checked, cost(counter.steps), f"{note}{odd}", of_a_look=look)
    fallback: Pullback | None = None
    if cut.fallback == "coloured":
        fallback = by_variable(coloured_of(cut, problem, counter, seed, keeping.executor))
    elif cut.fallback == "dense":
        fallback = _dense(cut, problem, keeping.executor)
    before, products = counter.steps, products_of(problem.injection, unroll, problem.every)
    what = cut, problem, counter, seed, products, keeping, fallback
    watched: BankAt | TangentAt | _RegressedAt | EmulatorAt
    if cut.way == "bank":
        watched = BankAt(*what)
        spent = cost(before + watched.solver_steps)
    elif cut.way == "emulator":
        watched = EmulatorAt(cut, emulator or EmulatorCut(), *what[1:])
        spent = cost(counter.steps)
    else:
        watched = TangentAt(*what) if cut.way == "tangent" else _RegressedAt(*what)
        spent = cost(counter.steps)
    look = 2 * cut.sides * inputs
    if isinstance(watched, _RegressedAt):
        look += watched.probes
    saw = watched.finish, watched.agreement
    return Interface(watched, spent, f"{watched.note}{odd}", *saw, of_a_look=look)


def corrected(
    cut: InterfaceCut,
    problem: Problem,
    seed: int,
    executor: Executor | None = None,
    base: Interface | None = None,
) -> Interface:
    """What corrects an interface by queries; None is the identity."""
    drawn = _RandomAt(cut, problem, seed, executor, None if base is None else base.pullback_at)
    note = f"{cut.directions} directions; error grows with training.unroll"
    if base is None:
        note += problem.odd_channels(cut)
        return Interface(drawn, Fitted(0, 0, 0, 0.0), note, variance=drawn.variance)
    note = f"{note}; around: {base.note}"
    return replace(base, pullback_at=drawn, note=note, variance=drawn.variance)


class _RandomAt:
    """Fresh directions at every iteration, and how far off the latest products were."""

    def __init__(
        self,
        cut: InterfaceCut,
        problem: Problem,
        seed: int,
        executor: Executor | None,
        around_at: PullbackAt | None,
    ) -> None:
        self._cut, self._seed, self._executor = cut, seed, executor
        self._around_at = around_at
        self._scales = problem.scales(cut)
        self._pullbacks: dict[Variable, CorrectedPullback] = {}

    def __call__(self, iteration: int) -> Pullback:
        draws, cut = generator(self._seed, "probes", iteration), self._cut
        around = self._around_at and self._around_at(iteration)
        self._pullbacks = {
            variable: CorrectedPullback(
                draws, cut.directions, around, cut.mu, cut.scheme, cut.states, scale, self._executor
            )
            for variable, scale in self._scales.items()
        }
        return by_variable(self._pullbacks)

    def variance(self) -> float | None:
        """Of the latest iteration's products with respect to the state."""
        return self._pullbacks["state"].variance if self._pullbacks else None


class _RegressedAt:
    """Fits local Jacobians at every iteration, and on some compares one with the solver."""

    def __init__(
        self,
        cut: InterfaceCut,
        problem: Problem,
        counter: CountedSolver,
        seed: int,
        products: Mapping[Variable, int],
        keeping: Keeping,
        fallback: Pullback | None,
    ) -> None:
        coloured, scales = coloured_of(cut, problem, counter, seed), problem.scales(cut)
        grid, how = problem.solver.grid, (cut.mu, cut.scheme, cut.states)
        self._fits = {
            v: RegressedPullback(grid, c.radius, *how, scales[v], executor=keeping.executor)
            for v, c in coloured.items()
        }
        self._looks = Looks(cut, seed, products, keeping.own, self._badly, fallback)
        self._keeping, self._told = keeping, set[Variable]()
        asked = {variable: fit.probes_for(variable) for variable, fit in self._fits.items()}
        self.probes = sum(asked.values())
        self.note = "; ".join(_describe(v, c, asked[v]) for v, c in coloured.items())

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        for variable, watch in self._looks.watches(iteration).items():
            self._fits[variable].watch = watch
        return by_variable(self._fits)

    def _badly(self, iteration: int, variable: Variable, single: Step) -> bool:  # noqa: ARG002
        text = f"iteration {iteration}: the fit by the {variable} is bad along a direction that is "
        text += "not in it: give a larger interface.mu against noise, or a larger radius"
        if variable not in self._told:
            self._keeping.progress.note(text)
        self._told.add(variable)
        return False

    def agreement(self) -> Agreement | None:
        """What this iteration's watch saw, the worst; None without a look."""
        return self._looks.agreement(0)

    def finish(self, iteration: int) -> str:
        """Say in a line what the watch saw."""
        return self._looks.said(iteration, "fits")[0]


def coloured_of(
    cut: InterfaceCut,
    problem: Problem,
    counter: CountedSolver,
    seed: int,
    executor: Executor | None = None,
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
            executor=executor,
        )
        for variable, scale in problem.scales(cut).items()
    }


def _dense(cut: InterfaceCut, problem: Problem, executor: Executor | None) -> Pullback:
    return by_variable(
        {
            variable: DensePullback(cut.mu, cut.scheme, cut.states, scale, executor)
            for variable, scale in problem.scales(cut).items()
        }
    )


def _describe(variable: Variable, coloured: ColouredPullback, steps: int = 0) -> str:
    radius, steps = " x ".join(map(str, coloured.radius)), steps or coloured.probes_for(variable)
    text = f"{variable}: radius {radius} cells, {steps} solver steps per state and step"
    text += f", {100 * coloured.bias:.2g} % of a response lies outside"
    return f"{text}; {coloured.measured}"
