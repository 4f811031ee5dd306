"""Directional derivatives of a solver step, many as one solver call."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.checks import check_choice, check_count, check_positive
from zopde.errors import SolverError
from zopde.interface.vjp import Step
from zopde.zo.cge import Scheme


def differences(
    step: Step,
    rows: Int[Tensor, " probes"],
    directions: Float[Tensor, "probes varied_channel *space"],
    mu: float,
    scheme: Scheme = "forward",
) -> Float[Tensor, "probes channel *space"]:
    """J d for every probe, by finite differences; one solver call.

        forward:  [S(x + mu d) - S(x)] / mu                error mu/2 S''[d, d] + O(mu^2)
        central:  [S(x + mu d) - S(x - mu d)] / (2 mu)     error O(mu^2)

    The step's own answer is S(x), so a forward difference is one solver step, a central one two.
    Where one of those two failed (its answer is not finite), the other one and S(x) make a
    one-sided difference; where nothing is left, the answer is not finite.

    Args:
        step: The step at which to differentiate.
        rows: (probes,), which state of its batch each probe belongs to.
        directions: (probes, varied_channel, *space), d.
        mu: Finite-difference step, in the units of the varied input; > 0.
        scheme: "forward" or "central".
    """
    point = step.point[rows]
    ahead = point + mu * directions
    if scheme == "forward":
        return (step.ask(rows, ahead) - step.stepped[rows]) / mu
    both = step.ask(rows.repeat(2), torch.cat([ahead, point - mu * directions]))
    first, second = both.chunk(2)
    found = (first - second) / (2 * mu)
    lost = failed(found)
    if lost.any():
        here = step.stepped[rows]
        sides = torch.where(_shaped(failed(first), first), here - second, first - here) / mu
        found = torch.where(_shaped(lost, found), sides, found)
    return found


def entry_responses(
    step: Step,
    rows: Int[Tensor, " probes"],
    entries: Int[Tensor, " probes"],
    mu: float,
    scheme: Scheme,
) -> Float[Tensor, "probes channel *space"]:
    """J e_j for single entries of the varied input, each of the state in its row."""
    point = step.point
    directions = point.new_zeros(len(entries), point[0].numel())
    directions[torch.arange(len(entries), device=point.device), entries] = 1
    return differences(step, rows, directions.view(-1, *point.shape[1:]), mu, scheme)


def check_whole(answers: Float[Tensor, "probes channel *space"]) -> None:
    """Require that no probe failed: a Jacobian must be whole.

    Raises:
        SolverError: With how many did.
    """
    lost = failed(answers)
    if lost.any():
        raise SolverError(f"Jacobian: {int(lost.sum())} of {len(lost)} probes failed")


def failed(answers: Float[Tensor, "probes channel *space"]) -> Bool[Tensor, " probes"]:
    """Which probes have an answer that is not finite."""
    if math.isfinite(float(answers.detach().sum())):
        return torch.zeros(len(answers), dtype=torch.bool, device=answers.device)
    return ~answers.flatten(1).isfinite().all(dim=1)


def without_failed(
    answers: Float[Tensor, "probes channel *space"],
) -> Float[Tensor, "probes channel *space"]:
    """Nothing instead of the answers of probes that failed."""
    lost = failed(answers)
    if not lost.any():
        return answers
    return torch.where(_shaped(lost, answers), torch.zeros_like(answers), answers)


def _shaped(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))


def probes_per_call(states: int, scheme: Scheme) -> int:
    """Probes of one solver call of at most `states` states."""
    return max(1, states // 2) if scheme == "central" else states


def check_probing(mu: float, scheme: str, states: int) -> None:
    """Require a positive step, a known scheme, and room for one state."""
    check_positive("mu", mu)
    check_choice("scheme", scheme, ("forward", "central"))
    check_count("states", states)
