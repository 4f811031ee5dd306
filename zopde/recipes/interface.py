"""The interface cut of a run: how the solver's vector-Jacobian product is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zopde.errors import InputError
from zopde.hybrid import INJECTIONS, CountedSolver
from zopde.interface import (
    ColouredPullback,
    DensePullback,
    Pullback,
    RandomPullback,
    Step,
    check_size,
    coloured_for,
)
from zopde.interface.vjp import Variable, by_variable
from zopde.recipes.bank import AmortisedAt
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.labels import WAYS
from zopde.recipes.problem import Problem
from zopde.seeding import generator
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
        finish: To be called after so many iterations.
    """

    pullback_at: PullbackAt
    cost: Fitted
    note: str
    finish: Callable[[int], None] = lambda _: None


def check_interface(config: CorrectionConfig, problem: Problem) -> None:
    """Require, before anything is trained, that the configured way suits the solver.

    Raises:
        InputError: If the solver is not local enough for colours, or the radius is not one for
            each axis.
    """
    if any(WAYS[label].interface for label in config.run.labels):
        declared, space = config.interface.radius, problem.solver.grid.shape
        if declared and len(declared) != len(space):
            raise InputError(
                "interface.radius",
                got=list(declared),
                expected=f"{len(space)} numbers of cells, one for each axis, or none",
            )
        if config.interface.kind == "coloured":
            open_interface(config, problem, 0)
        if config.interface.kind == "amortised":
            count = config.interface.snapshots + config.interface.more_snapshots
            entries = problem.train.states[0, 0].numel()
            check_size(entries, entries, count, config.interface.limit_gib)


def open_interface(
    config: CorrectionConfig, problem: Problem, seed: int, folder: Path | None = None
) -> Interface:
    """Measure what the configured way needs to know; a function of (config, data, seed).

    Args:
        config: The run's settings.
        problem: Solver and data.
        seed: The run's.
        folder: The label's, where a bank is kept; None keeps it in memory.
    """
    began, counter = time.monotonic(), CountedSolver(problem.solver)
    if config.interface.kind == "amortised":
        found = AmortisedAt(config, problem, counter, seed, mu_of(config, problem)["state"], folder)
        cost = Fitted(0, 0, found.solver_steps, time.monotonic() - began)
        note = f"{len(found.bank)} Jacobians, {found.solver_steps:,} solver steps once"
        return Interface(found, cost, note, found.write)
    make, note = _ways(config, problem, counter, seed)
    return Interface(make, Fitted(0, 0, counter.steps, time.monotonic() - began), note)


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
    if table.kind == "random":
        mu = mu_of(config, problem)

        def draw(iteration: int) -> Pullback:
            draws = generator(seed, "probes", iteration)
            ways: dict[Variable, Pullback] = {
                v: RandomPullback(draws, table.directions, m, table.scheme, table.states)
                for v, m in mu.items()
            }
            return by_variable(ways)

        return draw, f"{table.directions} random directions; noise grows with training.unroll"
    coloured = coloured_of(config, problem, counter, seed)
    pullback = by_variable(coloured)
    return lambda _: pullback, "; ".join(_describe(v, one) for v, one in coloured.items())


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
