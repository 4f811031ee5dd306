"""The points of a solver check that need no finite difference: is the contract kept?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zopde.blackbox import Dropping
from zopde.check.digits import narrower_dtype, significant_digits
from zopde.contracts import Domain, Solver, seedable, seeded
from zopde.errors import SolverError
from zopde.seeding import generator
from zopde.studies.correct.check.states import States
from zopde.studies.correct.memory import habits_of

Verdict = Literal["pass", "warn", "fail"]
_ROUND_OFF = 1000  # units in the last place that a batch may change
_PATIENCE, _LEAST = 100, 20.0  # step times, and seconds, before a step hangs
_FEW_DIGITS = 10
_NEARBY = 1e-2  # standard deviations between states whose answers must differ
_MUCH = 0.25  # share of the cells that nothing should leave as they are


@dataclass(frozen=True)
class Point:
    """One line of the report."""

    name: str  # what was looked at
    verdict: Verdict  # "pass", "warn" or "fail"
    found: str  # what was found, in one line
    remedy: str = ""  # what to change; empty where it passes
    values: dict[str, Any] = field(default_factory=dict)  # the figures in it, by name; plain values


@dataclass
class _Watched:
    """A solver, and what it did to the state that it was given."""

    solver: Solver
    fault: str = ""  # in one line

    @property
    def grid(self) -> Domain:
        """The solver's."""
        return self.solver.grid

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """One step; see `zopde.Solver.step`."""
        given = [values for values in (state, forcing) if values is not None]
        before = [values.clone() for values in given]
        answer = self.solver.step(state, forcing)
        if not all(map(torch.equal, given, before)):
            self.fault = "step changes its argument"
        elif isinstance(answer, Tensor) and answer.layout == state.layout:
            places = [values.untyped_storage().data_ptr() for values in (answer, *given)]
            if places[0] in places[1:]:
                self.fault = "step answers with its argument"
        return answer


def check_contract(
    solver: Solver, states: States, guard: Callable[[Solver], Solver]
) -> tuple[Point, States, Tensor | None]:
    """Type, shape, dtype and device of an answer, the arguments left as they are.

    Where the run leaves out what fails, the states that fail are left out here, too.
    """

    def fail(found: str, remedy: str) -> tuple[Point, States, None]:
        return Point("contract", "fail", found, remedy), states, None

    if not states.state.isfinite().all():
        remedy = "check on states that are numbers: --data, or a scenario that does not diverge"
        return fail(f"NaN or infinity in the state to start from, {states.source}", remedy)
    watched = _Watched(solver)
    box = guard(watched)
    try:
        answer = box.step(*states.rows(slice(None)))
    except SolverError as error:
        remedy = "answer (batch, channel, *space) of the state's dtype; wrap a solver of one state "
        remedy += "in zopde.OneAtATime"
        if error.failures:
            remedy = "mend what the first one that failed says of itself"
        return fail(str(error), remedy)
    if watched.fault:
        return fail(watched.fault, "work on a copy: state.clone()")
    good = answer.isfinite().flatten(1).all(dim=1)
    if not good.all() and not (isinstance(box, Dropping) and good.any()):
        remedy = "check on states that the solver can take: --data, or --amplitude"
        return fail("an answer that is not finite", remedy)
    found = f"{' x '.join(map(str, answer.shape[1:]))} in, the same out, {answer.dtype}"
    if not good.all():
        found += f"; {int((~good).sum())} of {len(good)} states failed and are left out"
        states = States(*states.rows(good), states.source, states.grid)
    return Point("contract", "pass", found), states, answer[good]


def check_batch(solver: Solver, states: States) -> Point:
    """Whether an answer depends on the other states of the batch."""
    answer = solver.step(*states.rows(slice(None)))
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


def check_habits(box: Solver, states: States) -> tuple[Point, Point]:
    """The same answer again, with the same seed where there is one, and after other questions."""
    rows = states.rows(slice(None))
    habits = habits_of(box, *rows)
    values: dict[str, Any] = {"standard_deviation": habits.chance, "seeded": seedable(box)}
    repeats = Point("repeats", "pass", "the same answer twice", "", values)
    if chance := habits.chance:
        told = f"random: two answers to one state differ by {chance:.1e} standard deviations"
        if values["seeded"]:
            habits = habits_of(seeded(box, 1), *rows)
        if habits.chance:
            remedy = "give it with_seed(seed), so that all probes of a gradient meet the same noise"
            repeats = Point("repeats", "fail", told, remedy, values)
            return repeats, Point("memory", "warn", "not told: the answers are random")
        repeats = Point("repeats", "pass", f"{told}; with a seed they do not", "", values)
    values = {"relative_difference": habits.memory}
    if not habits.memory:
        return repeats, Point("memory", "pass", "whatever was asked before", "", values)
    found = f"an answer depends on what was asked before, by {habits.memory:.1e} of its deviation"
    remedy = "a step must start from its state alone: no tendency, first guess or counter of before"
    return repeats, Point("memory", "fail", found, remedy, values)


def check_state(box: Solver, states: States, answer: Tensor) -> Point:
    """Which cells of each channel depend on no state, and which a step passes on unchanged."""
    state, forcing = states.rows(slice(None))
    moved = _NEARBY * torch.randn(state.shape, generator=generator(0, "noise")).to(state)
    fluid = box.grid.filled(torch.ones_like(state[0])) > 0
    inside = box.grid.fluid_values(state).transpose(0, 1).flatten(1)
    deviation = inside.std(dim=1).view(-1, *[1] * (state.dim() - 2))
    off = torch.where(deviation > 0, deviation, state.abs().amax().clamp_min(1)) * moved
    blind = (box.step(state + off, forcing) == answer).all(dim=0) & fluid
    some = (state != 0).any(dim=0)
    kept = (answer == state).all(dim=0) & some
    remedy = 'read the whole state, and write it; a single-precision library takes dtype="float32"'
    values, found = dict[str, Any](), list[str]()
    for name, cells, of, what in (
        ("unchanged_share", kept, some, "come back bit for bit unchanged"),
        ("independent_share", blind, fluid, "ignore the state"),
    ):
        counts = (of_all.flatten(1).sum(dim=1).tolist() for of_all in (cells, of))
        by_channel = dict(zip(box.grid.channels, zip(*counts, strict=True), strict=True))
        values[name] = {channel: n / max(m, 1) for channel, (n, m) in by_channel.items()}
        much = [(c, n, m) for c, (n, m) in by_channel.items() if n and n >= _MUCH * m]
        if much:
            found.append(f"{', '.join(f'{n:,} of {m:,} cells of {c}' for c, n, m in much)} {what}")
    if torch.equal(blind, fluid):
        return Point("state", "fail", "an answer does not depend on the state", remedy, values)
    if found:
        return Point("state", "warn", "; ".join(found), remedy, values)
    return Point("state", "pass", "an answer depends on the state", "", values)


def check_nan(solver: Solver, states: States, seconds: float) -> Point:
    """A NaN in one state: seen in its answer, in no other, and in finite time."""
    state, forcing = states.rows(torch.arange(2) % len(states.state))  # a copy
    fluid = solver.grid.filled(torch.ones_like(state[1])).nonzero()
    state[1][tuple(fluid[0])] = torch.nan
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


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
