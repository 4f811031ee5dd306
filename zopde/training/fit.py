"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zopde.protocols import Objective
from zopde.training.checkpoint import load_checkpoint, save_checkpoint
from zopde.training.gradients import GradientSource
from zopde.training.history import History, Row
from zopde.training.optimise import Optimise


@dataclass(frozen=True)
class Fitted:
    """What a training cost.

    Args:
        iterations: Updates made.
        queries: Evaluations of the objective.
        solver_steps: Solver steps, in states.
        seconds: Training time, over all the runs that it took.
        stopped: Why it ended early; empty if it did not.
    """

    iterations: int
    queries: int
    solver_steps: int
    seconds: float
    stopped: str = ""


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
        after: Called with the cost so far after every iteration, for example to evaluate the
            network now and then. Its own time does not count.

    Returns:
        What it cost. A loss or gradient that is not finite ends the training at the last
        finite weights, and `stopped` says so.
    """
    path = folder / "checkpoint.pt"
    optimizer = optimise.build(network)
    done, queries, steps_before, spent, stopped = _restore(path, network, optimizer)
    steps_at_start = solver_steps()
    began = saved = time.monotonic()
    if progress:
        for _ in range(done):
            progress(math.nan)

    def cost(iteration: int) -> Fitted:
        steps = steps_before + solver_steps() - steps_at_start
        return Fitted(iteration, queries, steps, spent + time.monotonic() - began, stopped)

    def save(iteration: int) -> None:
        history.flush()
        _save(path, network, optimizer, cost(iteration))

    with History(folder / "history.csv", start=done) as history:
        iteration = done
        while iteration < iterations and not stopped:
            found = gradient(network, objective_at(iteration), iteration)
            norm = _gradient_norm(network)
            queries += found.queries
            now = cost(iteration)
            history.add(
                Row(iteration, found.loss, norm, queries, now.solver_steps, round(now.seconds, 3))
            )
            if math.isinf(found.loss) or not math.isfinite(norm):
                stopped = f"gradient not finite at iteration {iteration}"
                break
            optimise.update(optimizer, network, found.active, iteration, iterations)
            iteration += 1
            if progress:
                progress(found.loss)
            if after:
                paused = time.monotonic()
                after(cost(iteration))
                began += time.monotonic() - paused
            if time.monotonic() - saved > every_seconds:
                save(iteration)
                saved = time.monotonic()
        save(iteration)
        return cost(iteration)


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


def _restore(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, int, int, float, str]:
    state: dict[str, Any] | None = load_checkpoint(path)
    if state is None:
        return 0, 0, 0, 0.0, ""
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return (
        state["iterations"],
        state["queries"],
        state["solver_steps"],
        state["seconds"],
        state["stopped"],
    )
