"""How a label's mask is shared out over the layers: scored once, on the first batch."""

from __future__ import annotations

import time
from concurrent.futures import Executor

from torch import nn

from zopde.blackbox import CountedSolver
from zopde.errors import InputError
from zopde.hybrid import UnrolledObjective
from zopde.oracle import relative_mu
from zopde.seeding import generator
from zopde.sparsity import LayerRatios, Scores, layer_ratios, random_scores
from zopde.studies.correct.labels import WAYS, Way
from zopde.studies.correct.problem import Problem, first_objective
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.folder import RunFolder
from zopde.studies.scores import (
    FILE,
    Scoring,
    queries_of,
    ratios_from,
    read_scoring,
    scores_by,
    write_scoring,
)
from zopde.studies.workers import oracle_at
from zopde.training import Fitted, OracleAt


def needs_scores(config: CorrectionConfig, way: Way) -> bool:
    """Whether a label begins with scoring its layers."""
    return way.gradient == "zo" and config.zo.score != "none"


def check_score(config: CorrectionConfig, problem: Problem) -> None:
    """Require a solver that can be differentiated where the score needs it."""
    asked = any(needs_scores(config, WAYS[label]) for label in config.run.labels)
    if asked and config.zo.score == "grasp" and problem.twin is None:
        raise InputError(
            "zo.score",
            got="'grasp' with a solver that has no differentiable twin",
            expected="a score that needs no gradient",
            remedy="use 'zo-grasp', its estimate from queries",
        )


def scoring_queries(config: CorrectionConfig) -> int:
    """Queries that the configured score takes."""
    return queries_of(config.zo.score, config.zo.score_directions)


def score_layers(
    config: CorrectionConfig,
    problem: Problem,
    network: nn.Module,
    seed: int,
    pool: Executor | None = None,
) -> Scoring:
    """Score the network on the label's first batch; a function of (config, network, seed)."""
    began = time.monotonic()
    solver = problem.twin if config.zo.score == "grasp" else problem.solver
    assert solver is not None, "see check_score"
    counter = CountedSolver(solver)
    objective = first_objective(config, problem, counter, seed)
    oracles = oracle_at(config, pool, counter, config.zo.score_directions)
    scores = _scores(config, network, objective, seed, oracles)
    cost = Fitted(0, scores.queries, counter.steps, time.monotonic() - began)
    return ratios_from(network, scores, config.zo.sparsity, cost)


def kept_scoring(
    config: CorrectionConfig,
    problem: Problem,
    network: nn.Module,
    folder: RunFolder,
    label: str,
    seed: int,
    pool: Executor | None = None,
) -> Scoring:
    """`score_layers`, kept in the label's folder: an interrupted run finds it there."""
    path = folder.of(label, seed) / FILE
    if path.exists():
        return read_scoring(path)
    found = score_layers(config, problem, network, seed, pool)
    write_scoring(folder, path, found, config.zo.score, config.zo.sparsity)
    return found


def stand_in_ratios(config: CorrectionConfig, network: nn.Module) -> LayerRatios | None:
    """For a dry run: other layers than the score's, but as many active weights, at no cost."""
    if config.zo.score == "none":
        return None
    scores = random_scores(network, generator(0, "scores"))
    return layer_ratios(network, scores, config.zo.sparsity)


def _scores(
    config: CorrectionConfig,
    network: nn.Module,
    objective: UnrolledObjective,
    seed: int,
    oracles: OracleAt,
) -> Scores:
    mu = config.zo.mu
    if config.zo.mu_relative:  # a direction moves all tensors at once: as far as their own steps
        mu = float(relative_mu(network, mu).square().mean().sqrt())
    directions = config.zo.score_directions
    return scores_by(config.zo.score, network, objective, directions, mu, seed, oracles)
