"""The interface cut of a run: how the solver's vector-Jacobian product is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from zopde.errors import InputError
from zopde.hybrid import CountedSolver
from zopde.interface import (
    ColouredPullback,
    DensePullback,
    Pullback,
    RandomPullback,
    Step,
    coloured_for,
)
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
    """

    pullback_at: PullbackAt
    cost: Fitted
    note: str


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


def open_interface(config: CorrectionConfig, problem: Problem, seed: int) -> Interface:
    """Measure what the configured way needs to know; a function of (config, data, seed)."""
    began, counter = time.monotonic(), CountedSolver(problem.solver)
    make, note = _ways(config, problem, counter, seed)
    return Interface(make, Fitted(0, 0, counter.steps, time.monotonic() - began), note)


def _ways(
    config: CorrectionConfig, problem: Problem, counter: CountedSolver, seed: int
) -> tuple[PullbackAt, str]:
    table = config.interface
    mu = table.mu * float(problem.scale.square().mean().sqrt())
    if table.kind == "dense":
        dense = DensePullback(mu, table.scheme, table.states)
        return lambda _: dense, "every entry of the state is asked for"
    if table.kind == "random":

        def draw(iteration: int) -> Pullback:
            draws = generator(seed, "probes", iteration)
            return RandomPullback(draws, table.directions, mu, table.scheme, table.states)

        return draw, f"{table.directions} random directions; noise grows with training.unroll"
    step = _typical_step(problem, counter, seed)
    coloured = coloured_for(
        step,
        tuple(table.radius) or None,
        table.allow_bias,
        mu,
        table.scheme,
        table.states,
        probes=_PROBES,
    )
    return lambda _: coloured, _describe(coloured)


def _describe(coloured: ColouredPullback) -> str:
    radius = " x ".join(map(str, coloured.radius))
    text = f"radius {radius} cells, {coloured.probes_per_state} solver steps per state and step"
    return f"{text}, {100 * coloured.bias:.2g} % of a response lies outside"


def _typical_step(problem: Problem, solver: CountedSolver, seed: int) -> Step:
    """Stored steps of the training data, drawn at random; they cost nothing."""
    data = problem.train
    stepped = problem.stepped.flatten(0, 1)
    rows = torch.randperm(len(stepped), generator=generator(seed, "probes"))[:_PROBES]
    rows = rows.to(stepped.device)
    forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[rows]
    return Step(solver, data.states[:, :-1].flatten(0, 1)[rows], forcing, stepped[rows])
