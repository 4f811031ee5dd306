"""The training loop."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zopde.contracts import Objective
from zopde.errors import SolverError
from zopde.training.checkpoint import load_checkpoint, save_checkpoint
from zopde.training.gradients import GradientSource
from zopde.training.history import History, Row
from zopde.training.optimise import Optimise

_SKIPPED_IN_A_ROW = 50  # then something else is wrong than a run now and then


@dataclass(frozen=True)
class Fitted:
    """What a training cost.

    Args:
        iterations: Updates made.
        queries: Evaluations of the objective.
        solver_steps: Solver steps, in states.
        seconds: Training time, over all the runs that it took.
        stopped: Why it ended early; empty if it did not.
        failures: Solver steps that failed, by reason; each attempt counts.
        skipped: Iterations without an update, because their base run failed.
    """

    iterations: int
    queries: int
    solver_steps: int
    seconds: float
    stopped: str = ""
    failures: dict[str, int] = field(default_factory=dict)
    skipped: int = 0


_COSTS = tuple(f.name for f in fields(Fitted))


def fit(
    network: nn.Module,
    objective_at: Callable[[int], Objective],
    gradient: GradientSource,
    optimise: Optimise,
    iterations: int,
    folder: Path,
    solver_steps: Callable[[], int] = lambda: 0,
    every_seconds: float = 10.0,
    progress: Callable[[float], None] | None = None,
    failures: Callable[[], Mapping[str, int]] = dict,
    agreement: Callable[[], float | None] = lambda: None,
    variance: Callable[[], float | None] = lambda: None,
    after: Callable[[Fitted], None] | None = None,
) -> Fitted:
    """Train `network` in place, from its checkpoint in `folder` if there is one.

    Everything random is a function of the iteration, and the checkpoint holds weights, buffers,
    optimiser, counts and time, so a training that was killed at any moment and called again
    ends with the same weights, bit for bit (same machine, same thread count).

    Args:
        network: The module to train.
        objective_at: Iteration -> objective, for example on that iteration's batch.
        gradient: Where gradients come from.
        optimise: How they become updates.
        iterations: Length of the training.
        folder: Where `checkpoint.pt` and `history.csv` are kept.
        solver_steps: Reads a counter of solver steps.
        every_seconds: Time between two checkpoints.
        progress: Called with the loss after every iteration, and once per resumed one.
        failures: Reads a counter of failed solver steps, by reason.
        agreement: Reads what the latest gradient's watch saw, for the history.
        variance: Reads how noisy the latest gradient's products were, for the history.
        after: Called with the cost so far after every iteration, for example to evaluate the
            network now and then. Its own time does not count.

    Returns:
        What it cost. A loss or gradient that is not finite ends the training at the last
        finite weights, and `stopped` says so. So do 50 iterations in a row that a
        `zopde.training.Skipping` source skipped.

    Raises:
        SolverError: If the solver fails; the checkpoint is then of the last whole iteration.
    """
    path = folder / "checkpoint.pt"
    optimizer = optimise.build(network)
    before = _restore(path, network, optimizer)
    steps_at_start, failed_at_start = solver_steps(), Counter(failures())
    began = saved = time.monotonic()
    if progress:
        for _ in range(before.iterations):
            progress(math.nan)

    def now(cost: Fitted, queries: int) -> Fitted:
        return replace(
            cost,
            queries=cost.queries + queries,
            solver_steps=before.solver_steps + solver_steps() - steps_at_start,
            seconds=before.seconds + time.monotonic() - began,
            failures=dict(Counter(before.failures) + (Counter(failures()) - failed_at_start)),
        )

    def save(cost: Fitted) -> None:
        history.flush()
        _save(path, network, optimizer, cost)

    with History(folder / "history.csv", start=before.iterations) as history:
        cost, in_a_row = before, 0
        while cost.iterations < iterations and not cost.stopped:
            try:
                found = gradient(network, objective_at(cost.iterations), cost.iterations)
            except SolverError:
                save(cost)
                raise
            norm = _gradient_norm(network)
            done = now(cost, found.queries)
            history.add(_row(done, found.loss, norm, agreement(), variance()))
            in_a_row = in_a_row + 1 if found.skipped else 0
            if math.isinf(found.loss) or not math.isfinite(norm):
                cost = replace(done, stopped=f"gradient not finite at iteration {cost.iterations}")
            elif in_a_row == _SKIPPED_IN_A_ROW:
                cost = replace(done, stopped=f"{in_a_row} iterations in a row failed")
            else:
                if not found.skipped:
                    optimise.update(optimizer, network, found.active, cost.iterations, iterations)
                skipped = cost.skipped + found.skipped
                cost = replace(done, iterations=cost.iterations + 1, skipped=skipped)
                if progress:
                    progress(found.loss)
                if after:
                    paused = time.monotonic()
                    after(cost)
                    began += time.monotonic() - paused
            if time.monotonic() - saved > every_seconds:
                save(cost)
                saved = time.monotonic()
        save(cost)
        return cost


def _row(cost: Fitted, loss: float, norm: float, seen: float | None, noise: float | None) -> Row:
    steps, seconds = cost.solver_steps, round(cost.seconds, 3)
    return Row(cost.iterations, loss, norm, cost.queries, steps, seen, noise, seconds)


def _gradient_norm(network: nn.Module) -> float:
    grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return float(torch.cat(grads).norm()) if grads else 0.0


def _save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, cost: Fitted) -> None:
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        **cost.__dict__,
    }
    save_checkpoint(path, state)


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> Fitted:
    state: dict[str, Any] | None = load_checkpoint(path)
    if state is None:
        return Fitted(0, 0, 0, 0.0)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return Fitted(**{name: state[name] for name in _COSTS if name in state})
