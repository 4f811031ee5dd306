"""Whether chance, or what a solver was asked before, decides its answers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from zopde.contracts import Solver
from zopde.errors import SolverError

_ROUND_OFF = 4  # units in the last place by which answers may differ
_IN_A_ROW, _LONG = 8, 20  # answers to one state; where they do not settle


@dataclass(frozen=True)
class Habits:
    """By how much answers to one state differ: root mean square, in the answer's deviations."""

    chance: float  # asked again and again; 0 where the last answers are alike
    memory: float  # asked after other states; 0 where answers depend on their state alone
    steps: int  # solver steps that it took
    beside: float = 0.0  # alone, and beside others, which is how `stepped` were made


def habits_of(
    solver: Solver,
    states: Tensor,
    forcing: Tensor | None,
    patient: bool = True,
    stepped: Tensor | None = None,
) -> Habits:
    """Ask about one state again and again, and about all, one at a time, in two orders.

    A random solver has no memory: what it answers later differs, but by chance. A patient look
    also asks about the states after one that is far away, three times as large. Answers of a solver
    that is not random are compared with `stepped`, to the same states side by side with others.

    Raises:
        SolverError: If the solver fails.
    """
    asked = 0

    def ask(row: int, far: bool = False) -> Tensor:
        nonlocal asked
        asked += 1
        driven = None if forcing is None else forcing[row : row + 1]
        answer = solver.step((3 if far else 1) * states[row : row + 1], driven)
        if not answer.isfinite().all():
            raise SolverError("an answer that is not finite")
        return answer

    run = [ask(0) for _ in range(_IN_A_ROW if patient else 2)]
    if any(_off(run[0], answer) for answer in run[1:]):
        run += [ask(0) for _ in range(_LONG - len(run))]
    if len(run) == _LONG and _by_chance(run):
        return Habits(_off(run[-2], run[-1]), 0.0, asked)
    memory = max(_off(answer, run[-1]) for answer in run)
    known = {0: run[-1]}
    for row in range(1, len(states)):
        known[row] = ask(row)
    for row in reversed(range(len(states) - (not patient))):
        memory = max(memory, _off(ask(row), known[row]))
        if patient:
            with suppress(SolverError):  # where it fails it was asked before as well
                ask(row, far=True)
            memory = max(memory, _off(ask(row), known[row]))
    others = {} if stepped is None else dict(enumerate(stepped.split(1)))
    sure = [k for k, answer in others.items() if answer.isfinite().all()]
    beside = max((_off(known[k], others[k]) for k in sure), default=0.0)
    return Habits(0.0, memory, asked, beside)


def _by_chance(run: list[Tensor]) -> bool:
    """Whether answers to one state scatter; those of a memory settle, come again, or drift."""
    late = run[len(run) // 2 :]
    for period in range(1, len(late) // 2 + 1):
        if not any(map(_off, late[period:], late[:-period])):
            return False
    moves = torch.stack(late).double().flatten(1).diff(dim=0)
    turns = torch.cosine_similarity(moves[1:], moves[:-1])
    return bool(turns.min() < 0.5)


def _off(answer: Tensor, other: Tensor) -> float:
    """Root mean square of the difference, in standard deviations; 0 within round-off."""
    size, eps = answer.abs().amax(), torch.finfo(answer.dtype).eps
    difference = (answer - other).double()
    if torch.equal(answer, other) or difference.abs().amax() <= _ROUND_OFF * eps * size:
        return 0.0
    deviation = answer.double().std() if answer.numel() > 1 else answer.double().abs().amax()
    return float(difference.square().mean().sqrt() / (deviation or 1.0))
