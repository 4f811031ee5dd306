"""A corrector of a coarse wake, trained through a tangent on any device; `gpu.py` times it."""

from __future__ import annotations

import time
from typing import Any

import torch
from emulator import Convolutions
from flows import SEEN, Size, reference, solver_of
from roofline import seconds
from torch import Tensor

import zopde
from zopde import CorrectedSolver, Normalised, UnrolledObjective, Window

UNROLL, BATCH = 8, 8
_EXAMPLES = 64  # states at which the tangent gets ready
_START = 400  # iterations on single steps, which need no derivative of the solver


def trained(device: torch.device, steps: int, iterations: int, within: float) -> dict[str, Any]:
    """Fit a tangent, train through it from a start on single steps, and roll unseen runs out.

    Args:
        device: Where the solver, the tangent and the corrector compute.
        steps: Of the reference, kept of every run.
        iterations: Of the training through the tangent, at the most.
        within: Seconds that it may take; it ends after the iteration that exceeds them.

    Returns:
        `fit_seconds`, `fit_steps`, `train_seconds`, `iterations`; the mean absolute error of unseen
        runs without a corrector, with the start and with the end; the tangent's own `report`.
    """
    size = Size("wake", (64, 32), steps)
    states, forcing = (part.to(device) for part in reference(size, seed=0))
    solver, gen = solver_of(size), torch.Generator().manual_seed(0)
    seen, driven = (part[:SEEN, :steps].flatten(0, 1) for part in (states, forcing))
    some = torch.randperm(len(seen), generator=gen)[:_EXAMPLES].to(device)
    fit_seconds, passed = seconds(
        lambda: zopde.differentiable(solver, seen[some], driven[some], way="tangent")
    )
    fit_steps = passed.report().steps
    scale, drive = (part[:SEEN].flatten(0, 1).std(dim=(0, 2, 3)) for part in (states, forcing))
    torch.manual_seed(0)
    network = Normalised(Convolutions(solver.grid), scale, drive.clamp_min(1e-6)).to(device)

    def train(through: zopde.Solver, unroll: int, rate: float, most: int, limit: float) -> int:
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        began, done = time.perf_counter(), 0
        while done < most and time.perf_counter() - began < limit:
            optimizer.zero_grad()
            window = _window(states, forcing, unroll, gen)
            UnrolledObjective(through, window, scale)(network, 1)[0].backward()
            optimizer.step()
            done += 1
        return done

    train(solver, 1, 3e-3, _START, within)
    at_start = _error(CorrectedSolver(solver, network), states, forcing)
    train_seconds, done = seconds(lambda: train(passed, UNROLL, 1e-3, iterations, within))
    return {
        "fit_seconds": fit_seconds,
        "fit_steps": fit_steps,
        "train_seconds": train_seconds,
        "iterations": done,
        "mae_uncorrected": _error(solver, states, forcing),
        "mae_start": at_start,
        "mae_corrected": _error(CorrectedSolver(solver, network), states, forcing),
        "report": str(passed.report()),
    }


def _window(states: Tensor, forcing: Tensor, unroll: int, gen: torch.Generator) -> Window:
    runs = torch.randint(SEEN, (BATCH,), generator=gen)
    first = torch.randint(states.shape[1] - unroll, (BATCH,), generator=gen)
    times = first[:, None] + torch.arange(unroll)
    targets = states[runs[:, None], times + 1]
    return Window(None, targets, forcing[runs[:, None], times], states[runs, first])


def _error(solver: zopde.Solver, states: Tensor, forcing: Tensor) -> float:
    truth, driving = states[SEEN:], forcing[SEEN:]
    predicted = zopde.rollout(solver, truth[:, 0], truth.shape[1] - 1, lambda t: driving[:, t])
    return float((predicted - truth)[:, 1:].abs().mean())
