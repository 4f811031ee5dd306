"""A self-check of the gradient that a correction run would train with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zopde.check import SelfCheck, selfcheck
from zopde.errors import InputError
from zopde.hybrid import UnrolledObjective
from zopde.memory import keep_freed_memory
from zopde.oracle import WeightOracle, relative_mu
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.studies.correct.check.differences import draw_zeros
from zopde.studies.correct.open import open_few
from zopde.studies.correct.problem import Opened
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import start_stage
from zopde.zo import Estimate, rge

_START = 20  # iterations of NON before the check
_COMPARED, _SWEPT = 96, 20  # weights; a query of an unrolled loss takes long


@dataclass(frozen=True)
class GradientCheck:
    """A self-check, and what it was made on."""

    estimator: str  # "CGE", or "RGE" with its number of directions
    data: str  # where the states come from
    start: str  # how the weights were found
    check: SelfCheck  # what was found

    def as_dict(self) -> dict[str, Any]:
        """Plain values only."""
        about = {"estimator": self.estimator, "data": self.data, "start": self.start}
        return {**about, **self.check.as_dict()}


def check_gradient(
    config: CorrectionConfig, directions: int = 0, progress: Progress | None = None
) -> GradientCheck:
    """Judge the gradient of the first iteration of ZO-weights; nothing is written.

    The gradient is compared with autograd through the solver's differentiable twin, where it has
    one; see `zopde.selfcheck` for what happens otherwise, and for the rest that is measured.

    Args:
        config: The run that is planned; its first seed is taken. Of the data file, if one is
            named, as many simulations as a batch has windows; otherwise so many short ones are
            made.
        directions: 0 judges CGE; more, an RGE with so many directions.
        progress: Who is watching.

    Raises:
        InputError: On settings or data that will not do.
        SolverError: If the solver fails at the present weights.
    """
    keep_freed_memory()
    if directions < 0:
        raise InputError("directions", got=directions, expected="a whole number >= 0")
    if directions and config.zo.mu_relative:
        raise InputError(
            "zo.mu_relative", got="true", expected="false where random directions are judged"
        )
    watcher = progress or Silent()
    opened, source = open_few(config, watcher)
    cut, problem, seed = opened.weights, opened.problem, opened.seeds[0]
    network, start = _started(opened, seed, watcher)
    objective = opened.first_objective(problem.solver, seed)
    oracle = WeightOracle(network, objective, cut.chunk or None)
    exact = None
    if problem.twin is not None:
        exact = _autograd(opened.first_objective(problem.twin, seed), network)
    draw = generator(seed, "mask")
    estimate: Estimate | None = None
    with watcher.stage("checking the gradient", 1) as advance:
        if directions:
            estimate = rge(oracle, directions, cut.mu, draw, scheme=cut.scheme)
        scale = relative_mu(network) if cut.mu_relative else None
        check = selfcheck(
            oracle, cut.mu, draw, exact, network, cut.scheme, scale, estimate, _COMPARED, _SWEPT
        )
        advance()
    name = f"RGE, {directions} directions" if directions else "CGE"
    return GradientCheck(name, source, start, check)


def _started(opened: Opened, seed: int, progress: Progress) -> tuple[nn.Module, str]:
    """A corrector after a little of NON: at the very start its gradient is zero but in a layer.

    Where NON has no gradient, the weights that start at zero are drawn at random instead.
    """
    network = opened.new_network(seed)
    if opened.problem.injection.through_solver:
        draw_zeros(network, generator(seed, "weights"))
        return network, "zeros drawn at random"
    stage = start_stage(opened, seed)
    optimise = stage.schedule.optimise
    optimizer = optimise.build(network)
    with progress.stage("a few iterations of NON", _START) as advance:
        for iteration in range(_START):
            stage.gradient(network, stage.objective_at(iteration), iteration)
            optimise.update(optimizer, network, None, iteration, _START)
            advance()
    return network, f"{_START} iterations of NON"


def _autograd(objective: UnrolledObjective, network: nn.Module) -> Tensor:
    weights = [p for p in network.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(
        objective(network, 1)[0], weights, allow_unused=True, materialize_grads=True
    )
    return torch.cat([slope.flatten() for slope in slopes])
