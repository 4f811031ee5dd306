"""Directional derivatives of a solver step, many as one solver call.

A solver's step as a black box of one state's entries, for the tools that judge a mu.
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.contracts import State
from zopde.errors import SolverError
from zopde.interface.vjp import Step
from zopde.validate import check_choice, check_count, check_positive
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


@final
class EntryOracle:
    """Answers l(x) = <v, S(x)> around one state: its gradient is J^T v.

    A `zopde.contracts.Oracle`, so that `sweep_mu` and `measure_noise` work on a solver's step as
    on a loss.

    Args:
        step: A step of one state.
        cotangent: (1, channel, *space), v.
        states: States of a solver call at most.
    """

    def __init__(self, step: Step, cotangent: State, states: int = 64) -> None:
        self._step, self._cotangent, self._states = step, cotangent, states

    @property
    def num_coordinates(self) -> int:
        """Entries of the varied input."""
        return self._step.point[0].numel()

    def base(self) -> Float[Tensor, ""]:
        """l(x), asked anew."""
        return self._ask(self._step.point.flatten(1))[0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(x + mu e_i) for every i; see `zopde.contracts.Oracle`."""
        points = self._step.point.flatten(1).repeat(len(indices), 1)
        far = torch.as_tensor(mu, dtype=points.dtype, device=points.device)
        points[torch.arange(len(indices)), indices] += far
        return self._ask(points)

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(x + mu u_j) for every row; see `zopde.contracts.Oracle`."""
        return self._ask(self._step.point.flatten(1) + mu * directions.to(self._step.point))

    def _ask(self, points: Tensor) -> Tensor:
        found = []
        for part in points.split(self._states):
            rows = torch.zeros(len(part), dtype=torch.long, device=part.device)
            answers = self._step.ask(rows, part.view(-1, *self._step.point.shape[1:]))
            found.append((answers * self._cotangent).double().flatten(1).sum(dim=1))
        return torch.cat(found)
