"""The training loop, and what it leaves on disk so that it may be killed at any moment."""

from __future__ import annotations

import csv
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zopde.contracts import Objective
from zopde.errors import InputError, SolverError
from zopde.files import append_text, load_tensors, reading, save_tensors
from zopde.interface import Agreement
from zopde.progress import Progress
from zopde.training.descent import Gradient, GradientSource, Updating
from zopde.training.history import Row, begin_history
from zopde.training.validation import UNWATCHED, Best, Validation

_AGAIN = "move it away to train this label again, or start over with --overwrite"
_SKIPPED_IN_A_ROW = 50  # then something else is wrong than a run now and then
_ZERO_IN_A_ROW = 10  # gradients: then no weight moves the loss


@dataclass(frozen=True)
class Fitted:
    """Says what a training cost."""

    iterations: int  # updates made
    queries: int  # evaluations of the objective
    solver_steps: int  # in states
    seconds: float  # training time, over all the runs that it took
    stopped: str = ""  # why it ended early; empty if it did not
    failures: dict[str, int] = field(default_factory=dict)  # failed solver steps, by reason
    skipped: int = 0  # iterations without an update, because their base run failed
    # Calls of the network -> evaluations that verified their probes, besides `queries`; "gradient"
    # -> those of looks at such an estimate; "interface" -> solver steps that compared products or
    # looked at other gradients, besides `solver_steps`
    checked: dict[str, int] = field(default_factory=dict)
    best: int | None = None  # updates of the weights that were kept; None without a validation
    validation: float | None = None  # their loss on the validation data
    validating: int = 0  # solver steps of the validation, besides `solver_steps`

    @property
    def all_steps(self) -> int:
        """Solver steps, those included that compared products or looked at a validation."""
        return self.solver_steps + self.checked.get("interface", 0) + self.validating

    @property
    def checking(self) -> int:
        """Evaluations that verified stacked probes, and solver steps that compared products."""
        return sum(self.checked.values())


def not_measured() -> None:
    """Stands for a figure that an iteration does not have."""


def fit(
    network: nn.Module,
    objective_at: Callable[[int], Objective],
    gradient: GradientSource,
    optimise: Updating,
    iterations: int,
    folder: Path,
    solver_steps: Callable[[], int] = lambda: 0,
    every_seconds: float = 10.0,
    progress: Callable[[float], None] | None = None,
    failures: Callable[[], Mapping[str, int]] = dict,
    agreement: Callable[[], Agreement | None] = not_measured,
    variance: Callable[[], float | None] = not_measured,
    after: Callable[[Fitted], None] | None = None,
    told: Callable[[Fitted, Row], None] | None = None,
    compared: Callable[[], Mapping[str, int]] = dict,
    validation: Validation = UNWATCHED,
) -> Fitted:
    """Train `network` in place, from its checkpoint in `folder` if there is one.

    Everything random is a function of the iteration, and the checkpoint holds all the rest: a
    training that was killed at any moment and called again ends with the same weights, bit for
    bit (same machine, same thread count).

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
        agreement: Reads for the history how far a bank of Jacobians and the solver agreed; called
            once an iteration, before the checkpoint.
        variance: Reads for the history how noisy the latest products were.
        after: Called with the cost so far after every iteration, for example to evaluate the
            network now and then. Its own time does not count.
        told: Called with the cost and the row of the history after that. Its own time does not
            count. If it raises, the checkpoint is written first.
        compared: Reads a counter of what else was checked, as `Fitted.checked` names it.
        validation: Looks at the network now and then. It ends with the weights that were best at a
            look, and not with the last ones; the time and the solver steps of looks count apart.

    Returns:
        What it cost. A loss or gradient that is not finite ends the training at the last
        finite weights, and `stopped` says so. So do 50 iterations in a row that a
        `zopde.training.Skipping` source skipped.

    Raises:
        SolverError: If the solver fails; the checkpoint is then of the last whole iteration.
        InputError: If 10 gradients in a row are exactly zero, though the loss is not.
    """
    optimizer = optimise.build(network)
    files = _Files(folder, network, optimizer)
    before, best = files.begin()
    steps_at_start, *at = solver_steps(), Counter(failures()), Counter(compared())
    began = saved = time.monotonic()
    advance = progress or _unseen
    for _ in range(before.iterations):
        advance(math.nan)

    def now(cost: Fitted, measured: Gradient) -> Fitted:
        return replace(
            cost,
            queries=cost.queries + measured.queries,
            # What a resumed training verifies again was counted.
            checked={**measured.checked, **cost.checked, **_grown(before.checked, compared, at[1])},
            solver_steps=before.solver_steps + solver_steps() - steps_at_start,
            seconds=before.seconds + time.monotonic() - began,
            failures=_grown(before.failures, failures, at[0]),
            validating=best.solver_steps,
        )

    cost, in_a_row, zeros = before, 0, 0
    while not (cost.stopped or best.tired):
        try:
            paused = time.monotonic()
            looked = _looked(validation, network, cost.iterations, iterations, best)
            began += time.monotonic() - paused
            if cost.iterations >= iterations or looked.tired:
                best = looked
                break
            measured = gradient(network, objective_at(cost.iterations), cost.iterations)
        except SolverError:
            files.save(cost, best)
            raise
        best, norm = looked, _gradient_norm(network)
        done = now(cost, measured)
        figures = measured.loss, norm, done.queries, done.solver_steps
        seen = *_cosine_and_error(agreement()), variance()
        checks = done.checking, _loss_at(done.iterations, best)
        files.add(row := Row(done.iterations, *figures, *seen, *checks, round(done.seconds, 3)))
        in_a_row = in_a_row + 1 if measured.skipped else 0
        zeros = zeros + 1 if norm == 0 != measured.loss and not measured.skipped else 0
        _check_moving(zeros, measured.loss)
        if stopped := _why_stopped(measured.loss, norm, in_a_row, cost.iterations):
            cost = replace(done, stopped=stopped)
        else:
            if not measured.skipped:
                optimise.update(optimizer, network, measured.active, cost.iterations, iterations)
            skipped = cost.skipped + measured.skipped
            cost = replace(done, iterations=cost.iterations + 1, skipped=skipped)
            advance(measured.loss)
            paused = time.monotonic()
            if after:
                after(cost)
            _tell(told, cost, row, partial(files.save, best=best))
            began += time.monotonic() - paused
        if time.monotonic() - saved > every_seconds:
            files.save(cost, best)
            saved = time.monotonic()
    return files.end(cost, best)


class _Files:
    """The checkpoint and the history of a training; both are of one iteration."""

    def __init__(self, folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._checkpoint, self._history = folder / "checkpoint.pt", folder / "history.csv"
        self._network, self._optimizer, self._pending = network, optimizer, StringIO()

    def begin(self) -> tuple[Fitted, Best]:
        """Go on from the checkpoint; what it cost so far, and the best network."""
        cost, best = _restore(self._checkpoint, self._network, self._optimizer)
        begin_history(self._history, cost.iterations)
        return cost, best

    def add(self, row: Row) -> None:
        """A row of the history; it is written with a checkpoint."""
        csv.writer(self._pending).writerow(vars(row).values())

    def save(self, cost: Fitted, best: Best) -> None:
        """Write both."""
        append_text(self._history, self._pending.getvalue())
        self._pending.seek(0)
        self._pending.truncate()
        kept = {"kept": vars(best)} if best.weights else {}
        network, optimizer = self._network.state_dict(), self._optimizer.state_dict()
        states = {"network": network, "optimizer": optimizer, **kept}
        save_checkpoint(self._checkpoint, {**states, **vars(cost)})

    def end(self, cost: Fitted, best: Best) -> Fitted:
        """Write both, and give the network its best weights; the checkpoint has the last, too."""
        if not best.weights:
            self.save(cost, best)
            return cost
        steps = best.solver_steps
        cost = replace(cost, best=best.iteration, validation=best.loss, validating=steps)
        self.save(cost, best)
        self._network.load_state_dict(best.weights)
        return cost


def _looked(
    validation: Validation, network: nn.Module, iteration: int, iterations: int, best: Best
) -> Best:
    """The best after a look where one is due."""
    due = validation.every and (iteration == iterations or iteration % validation.every == 0)
    return validation.look(network, iteration, best) if due else best


def _loss_at(iteration: int, best: Best) -> float | None:
    """What a look after so many updates found; None where there was none."""
    return best.latest if best.looked == iteration else None


def _unseen(loss: float) -> None:
    """Stands for a bar that nobody draws."""


def _tell(
    told: Callable[[Fitted, Row], None] | None,
    cost: Fitted,
    row: Row,
    save: Callable[[Fitted], None],
) -> None:
    """Let whoever listens hear of an iteration, and save the training if they raise."""
    try:
        if told:
            told(cost, row)
    except BaseException:
        save(cost)
        raise


def _why_stopped(loss: float, norm: float, skipped: int, iteration: int) -> str:
    if math.isinf(loss) or not math.isfinite(norm):
        return f"gradient not finite at iteration {iteration}"
    return f"{skipped} iterations in a row failed" if skipped == _SKIPPED_IN_A_ROW else ""


def _check_moving(zeros: int, loss: float) -> None:
    if zeros == _ZERO_IN_A_ROW:
        raise InputError(
            "gradient",
            got=f"exactly 0 at {zeros} iterations in a row, while the loss is {loss:.3g}",
            expected="weights that move the loss",
            remedy="see that what the network answers reaches the loss and, of queries, that zo.mu "
            "or interface.mu moves the loss by more than rounding",
        )


def _cosine_and_error(seen: Agreement | None) -> tuple[float | None, float | None]:
    return (seen.cosine, seen.error) if seen else (None, None)


def _grown(
    before: Mapping[str, int], now: Callable[[], Mapping[str, int]], at_start: Counter[str]
) -> dict[str, int]:
    """Counts of earlier processes, and what a counter of this one has gained since its start."""
    return dict(Counter(before) + (Counter(now()) - at_start))


def _gradient_norm(network: nn.Module) -> float:
    grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return float(torch.cat(grads).norm()) if grads else 0.0


def _restore(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Fitted, Best]:
    state = load_checkpoint(path)
    if state is None:
        return Fitted(0, 0, 0, 0.0), Best()
    with reading("checkpoint", path, "a checkpoint of this training", _AGAIN):
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if not all(bool(p.isfinite().all()) for p in network.parameters()):
            raise ValueError("weights that are not finite")
        cost = Fitted(**{f.name: state[f.name] for f in fields(Fitted) if f.name in state})
        return cost, Best(**state.get("kept", {}))


def fit_watched(
    network: nn.Module,
    objective_at: Callable[[int], Objective],
    gradient: GradientSource,
    optimise: Updating,
    iterations: int,
    folder: Path,
    watcher: Progress,
    title: str,
    shown: str = "loss",
    **more: Any,  # noqa: ANN401 - as `fit` takes it
) -> Fitted:
    """Train as `fit` does, and tell a watcher how far it is."""
    with watcher.stage(title, iterations) as advance:
        what = network, objective_at, gradient, optimise, iterations, folder
        cost = fit(*what, progress=lambda loss: advance(1, f"{shown} {loss:.4g}"), **more)
    if cost.stopped:
        watcher.note(f"{title}: stopped early, {cost.stopped}")
    if cost.best is not None:
        ended = f"{cost.iterations} of {iterations}"
        watcher.note(f"{title}: ended after {ended} iterations, {told_of(cost)}")
    return cost


def told_of(cost: Fitted) -> str:
    """Which weights a training with a validation has kept."""
    return f"kept the weights of {cost.best}, validation loss {cost.validation:.4g}"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, plain values) to `path`; a kill leaves the old file or the new."""
    save_tensors(path, state)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read the checkpoint at `path`, and run nothing in it; None where there is no such file.

    Raises:
        InputError: If the file is not a complete checkpoint, or a bit of it is wrong.
    """
    if not path.exists():
        return None
    with reading("checkpoint", path, "a checkpoint of zopde", _AGAIN):
        state: dict[str, Any] = load_tensors(path)
        if not isinstance(state, dict):
            raise ValueError(f"a {type(state).__name__}")
        return state
