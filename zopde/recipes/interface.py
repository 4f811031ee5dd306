"""The interface cut of a run: how the solver's vector-Jacobian product is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from zopde.errors import InputError
from zopde.hybrid import INJECTIONS, CountedSolver
from zopde.interface import (
    ColouredPullback,
    DensePullback,
    Pullback,
    PullbackByVariable,
    RandomPullback,
    Step,
    check_size,
    coloured_for,
)
from zopde.interface.vjp import Variable
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
        found = AmortisedAt(config, problem, counter, seed, mu_of(config, problem), folder)
        cost = Fitted(0, 0, found.solver_steps, time.monotonic() - began)
        note = f"{len(found.bank)} Jacobians, {found.solver_steps:,} solver steps once"
        return Interface(found, cost, note, found.write)
    make, note = _ways(config, problem, counter, seed)
    return Interface(make, Fitted(0, 0, counter.steps, time.monotonic() - began), note)


def variables(config: CorrectionConfig) -> list[Variable]:
    """Inputs of the solver that the network feeds, in an unrolled rollout."""
    moved = INJECTIONS[config.corrector.inject].adds_to
    return ["state", "forcing"] if moved == "forcing" else ["state"]


def _ways(
    config: CorrectionConfig, problem: Problem, counter: CountedSolver, seed: int
) -> tuple[PullbackAt, str]:
    table = config.interface
    mu = {variable: mu_of(config, problem, variable) for variable in variables(config)}
    if table.kind == "dense":
        dense = _of_each({v: DensePullback(mu[v], table.scheme, table.states) for v in mu})
        return lambda _: dense, f"every entry of the {' and the '.join(mu)} is asked for"
    if table.kind == "random":

        def draw(iteration: int) -> Pullback:
            draws = generator(seed, "probes", iteration)
            given = table.scheme, table.states
            return _of_each({v: RandomPullback(draws, table.directions, mu[v], *given) for v in mu})

        return draw, f"{table.directions} random directions; noise grows with training.unroll"
    ways = {v: _coloured(config, problem, counter, seed, v) for v in mu}
    coloured, grid = _of_each(ways), problem.solver.grid
    note = _describe(ways["state"], len(grid.channels))
    if "forcing" in ways:
        note += f"; forcing: {_describe(ways['forcing'], len(grid.forcing_channels))}"
    return lambda _: coloured, note


def _coloured(
    config: CorrectionConfig,
    problem: Problem,
    counter: CountedSolver,
    seed: int,
    variable: Variable = "state",
) -> ColouredPullback:
    """`interface.radius` is the state's; how far an answer to the forcing reaches is measured."""
    table = config.interface
    return coloured_for(
        _typical_step(problem, counter, seed, variable),
        tuple(table.radius) or None if variable == "state" else None,
        table.allow_bias,
        mu_of(config, problem, variable),
        table.scheme,
        table.states,
        probes=_PROBES,
    )


def _of_each(ways: Mapping[Variable, Pullback]) -> Pullback:
    if "forcing" in ways:
        return PullbackByVariable(ways["state"], ways["forcing"])
    return ways["state"]


def mu_of(config: CorrectionConfig, problem: Problem, variable: Variable = "state") -> float:
    """The finite-difference step in the units of an input of the solver."""
    data = problem.train
    scale = data.state_scale() if variable == "state" else data.forcing_scale()
    return config.interface.mu * float(scale.square().mean().sqrt())


def _describe(coloured: ColouredPullback, channels: int) -> str:
    radius, steps = " x ".join(map(str, coloured.radius)), coloured.probes_per_channel * channels
    text = f"radius {radius} cells, {steps} solver steps per state and step"
    return f"{text}, {100 * coloured.bias:.2g} % of a response lies outside"


def _typical_step(problem: Problem, solver: CountedSolver, seed: int, variable: Variable) -> Step:
    """Stored steps of the training data, drawn at random; they cost nothing."""
    data = problem.train
    stepped = problem.stepped.flatten(0, 1)
    rows = torch.randperm(len(stepped), generator=generator(seed, "probes"))[:_PROBES]
    rows = rows.to(stepped.device)
    forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[rows]
    return Step(solver, data.states[:, :-1].flatten(0, 1)[rows], forcing, stepped[rows], variable)
