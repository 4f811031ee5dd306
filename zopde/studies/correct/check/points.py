"""The points of a solver check that need no finite difference: is the contract kept?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zopde.blackbox import BlackBox
from zopde.check.digits import narrower_dtype, significant_digits
from zopde.contracts import Seeded, Solver, seeded
from zopde.errors import SolverError
from zopde.studies.correct.check.states import States

Verdict = Literal["pass", "warn", "fail"]
_ROUND_OFF = 1000  # units in the last place that a batch may change
_PATIENCE, _LEAST = 100, 20.0  # step times, and seconds, before a step hangs
_FEW_DIGITS = 10


@dataclass(frozen=True)
class Point:
    """One line of the report."""

    name: str  # what was looked at
    verdict: Verdict  # "pass", "warn" or "fail"
    found: str  # what was found, in one line
    remedy: str = ""  # what to change; empty where it passes
    values: dict[str, Any] = field(default_factory=dict)  # the figures in it, by name; plain values


def check_contract(solver: Solver, states: States) -> tuple[Point, Tensor | None]:
    """Type, shape, dtype and device of an answer, the arguments left as they are."""
    state, forcing = states.state.clone(), states.forcing
    given = None if forcing is None else forcing.clone()

    def fail(found: str, remedy: str) -> tuple[Point, None]:
        return Point("contract", "fail", found, remedy), None

    try:
        answer = BlackBox(solver).step(state, given)
    except SolverError as error:
        if error.failures:
            return fail(str(error), "mend what the first one that failed says of itself")
        return fail(
            str(error),
            "answer (batch, channel, *space) of the state's dtype; wrap a solver of one state "
            "in zopde.OneAtATime",
        )
    changed = not torch.equal(state, states.state)
    if given is not None and forcing is not None:
        changed |= not torch.equal(given, forcing)
    if changed or answer.data_ptr() == state.data_ptr():
        what = "changes its argument" if changed else "answers with its argument"
        return fail(f"step {what}", "work on a copy: state.clone()")
    if not answer.isfinite().all():
        remedy = "check on states that the solver can take: --data, or --amplitude"
        return fail("an answer that is not finite", remedy)
    shape = " x ".join(map(str, state.shape[1:]))
    return Point("contract", "pass", f"{shape} in, the same out, {state.dtype}"), answer


def check_batch(solver: Solver, states: States, answer: Tensor) -> Point:
    """Whether an answer depends on the other states of the batch."""
    count = len(answer)
    alone = torch.cat([solver.step(*states.rows(slice(i, i + 1))) for i in range(count)])
    size = answer.abs().amax().double()
    off = float((alone - answer).abs().amax().double() / size.clamp_min(1e-300))
    values = {"relative_difference": off}
    if off <= _ROUND_OFF * torch.finfo(answer.dtype).eps:
        exact = "bit for bit" if off == 0 else f"to {off:.0e}"
        return Point("batch", "pass", f"alone as in a batch of {count}, {exact}", "", values)
    remedy = "a state's answer must not depend on the others: wrap the solver in zopde.OneAtATime"
    return Point("batch", "fail", f"alone and in a batch differ by {off:.1e}", remedy, values)


def check_repeats(solver: Solver, states: States) -> Point:
    """The same input twice; with the same seed, where there is one."""
    off = _repeat_error(solver, states)
    values: dict[str, Any] = {"standard_deviation": off, "seeded": isinstance(solver, Seeded)}
    if off == 0:
        return Point("repeats", "pass", "the same answer twice, bit for bit", "", values)
    told = f"two answers to one state differ by {off:.1e} (root mean square)"
    if isinstance(solver, Seeded) and _repeat_error(seeded(solver, 1), states) == 0:
        return Point("repeats", "pass", f"{told}; with a seed they do not", "", values)
    remedy = "give it with_seed(seed), so that all probes of a gradient meet the same noise"
    return Point("repeats", "fail", told, remedy, values)


def check_nan(solver: Solver, states: States, seconds: float) -> Point:
    """A NaN in one state: seen in its answer, in no other, and in finite time."""
    state, forcing = states.rows(slice(0, 2))
    state = state.clone()
    state[1, 0].view(-1)[0] = torch.nan
    answers: list[Any] = []

    def step() -> None:
        try:
            answers.append(solver.step(state, forcing))
        except Exception as error:  # to raise is a good answer
            answers.append(error)

    limit = max(_LEAST, _PATIENCE * seconds)
    stepping = threading.Thread(target=step, daemon=True)
    stepping.start()
    stepping.join(limit)
    if not answers:
        found = f"no answer to a NaN within {limit:.0f} s"
        remedy = "stop a step that takes too long: run.apart, run.timeout"
    elif isinstance(answers[0], Exception):
        return Point("NaN", "pass", f"raises {type(answers[0]).__name__}")
    elif answers[0][1].isfinite().all():
        found = "a finite answer to a NaN: faults would go unseen"
        remedy = "raise SolverError, or let NaN through, where a step fails"
    elif not answers[0][0].isfinite().all():
        found = "a NaN in one state spoils another's answer"
        remedy = "one bad state must not spoil the others: wrap the solver in zopde.OneAtATime"
    else:
        return Point("NaN", "pass", "NaN in, NaN out")
    return Point("NaN", "fail", found, remedy)


def check_time(solver: Solver, states: States, batch: int) -> Point:
    """Seconds of a step, alone and side by side."""
    single, many = (states.rows(torch.arange(n) % len(states.state)) for n in (1, batch))
    alone = _least_seconds(lambda: solver.step(*single))
    together = _least_seconds(lambda: solver.step(*many)) / batch
    found = f"{_time(alone)} alone, {_time(together)} in a batch of {batch}"
    return Point("time", "pass", found, "", {"alone": alone, "in_batch": together, "batch": batch})


def check_digits(answer: Tensor) -> Point:
    """How many digits an answer has."""
    digits, narrower = significant_digits(answer), narrower_dtype(answer)
    values = {"significant_digits": digits, "held_by": narrower}
    if digits is not None and digits <= _FEW_DIGITS:
        found = f"answers of {digits} significant digits, as of text output"
        return Point("precision", "warn", found, "write binary, or more digits", values)
    if narrower:
        found = f"answers that {narrower} holds, in {answer.dtype}"
        return Point("precision", "warn", found, "compute in the precision of the state", values)
    full = f"about {-torch.tensor(torch.finfo(answer.dtype).eps).log10():.0f} digits"
    return Point("precision", "pass", f"answers fill {answer.dtype}, {full}", "", values)


def _least_seconds(work: Callable[[], object], enough: float = 1.0) -> float:
    """Least seconds of a few calls after the first; of one where it takes long."""
    work()
    times: list[float] = []
    while len(times) < 5 and sum(times) < enough:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _repeat_error(solver: Solver, states: States) -> float:
    first, second = (solver.step(*states.rows(slice(None))) for _ in range(2))
    return float((first - second).double().square().mean().sqrt())


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
