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


def trained(device: torch.device, steps: int, iterations: int, within: float) -> dict[str, Any]:
    """Fit a tangent, train through it, and roll unseen runs out.

    Args:
        device: Where the solver, the tangent and the corrector compute.
        steps: Of the reference, kept of every run.
        iterations: Of the training, at the most.
        within: Seconds that the training may take; it ends after the iteration that exceeds them.

    Returns:
        `fit_seconds`, `fit_steps`, `train_seconds`, `iterations`; the mean absolute error of unseen
        runs without and with the corrector; the tangent's own `report`.
    """
    size = Size("wake", (64, 32), steps)
    states, forcing = (part.to(device) for part in reference(size, seed=0))
    solver = solver_of(size)
    gen = torch.Generator().manual_seed(0)
    seen = states[:SEEN, :-1].flatten(0, 1)
    some = torch.randperm(len(seen), generator=gen)[:_EXAMPLES].to(device)
    driven = forcing[:SEEN, : states.shape[1] - 1].flatten(0, 1)[some]
    fit_seconds, passed = seconds(
        lambda: zopde.differentiable(solver, seen[some], driven, way="tangent")
    )
    fit_steps = passed.report().steps
    scale, drive = (part[:SEEN].flatten(0, 1).std(dim=(0, 2, 3)) for part in (states, forcing))
    torch.manual_seed(0)
    network = Normalised(Convolutions(solver.grid), scale, drive.clamp_min(1e-6)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    began, done = time.perf_counter(), 0
    while done < iterations and time.perf_counter() - began < within:
        window = _window(states, forcing, gen)
        optimizer.zero_grad()
        UnrolledObjective(passed, window, scale)(network, 1)[0].backward()
        optimizer.step()
        done += 1
    spent = seconds(lambda: network(seen[:1], driven[:1]))  # an accelerator has ended by then
    return {
        "fit_seconds": fit_seconds,
        "fit_steps": fit_steps,
        "train_seconds": time.perf_counter() - began - spent[0],
        "iterations": done,
        "mae_uncorrected": _error(solver, states, forcing),
        "mae_corrected": _error(CorrectedSolver(solver, network), states, forcing),
        "report": str(passed.report()),
    }


def _window(states: Tensor, forcing: Tensor, gen: torch.Generator) -> Window:
    runs = torch.randint(SEEN, (BATCH,), generator=gen)
    first = torch.randint(states.shape[1] - UNROLL, (BATCH,), generator=gen)
    times = first[:, None] + torch.arange(UNROLL)
    targets = states[runs[:, None], times + 1]
    return Window(None, targets, forcing[runs[:, None], times], states[runs, first])


def _error(solver: zopde.Solver, states: Tensor, forcing: Tensor) -> float:
    truth, driving = states[SEEN:], forcing[SEEN:]
    predicted = zopde.rollout(solver, truth[:, 0], truth.shape[1] - 1, lambda t: driving[:, t])
    return float((predicted - truth)[:, 1:].abs().mean())
