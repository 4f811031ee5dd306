"""A batch of states as runs side by side, and what is left of those that failed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, final

import numpy as np
import torch
from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import Failure, SolverError, first_line
from zopde.grid import Grid, check_forcing, check_state
from zopde.solvers.files import Array, Files
from zopde.solvers.rows import said
from zopde.solvers.runs import Program, RunError, Running, last_lines

_PREFIX = "zopde-run-"
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class KeptRuns:
    """Where the folders of failed runs go.

    Args:
        folder: Made when the first run fails; None for zopde-failed-<user's number> in the
            system's temporary folder.
        most: Folders at most; the oldest go. 0 keeps none.
    """

    folder: Path | None = None
    most: int = 10

    def keep(self, runs: list[Path]) -> list[str]:
        """Move the first ones of a batch here; where each is now, "" for those left behind."""
        if not runs or not self.most:
            return [""] * len(runs)
        target = self.folder or Path(tempfile.gettempdir()) / f"zopde-failed-{os.getuid()}"
        target.mkdir(parents=True, exist_ok=True)
        kept = [Path(shutil.move(run, target / run.name)) for run in runs[: self.most]]
        self._thin_out(target, set(kept))
        return [str(run) for run in kept] + [""] * (len(runs) - len(kept))

    def _thin_out(self, target: Path, latest: set[Path]) -> None:
        ages = {}
        for run in target.glob(f"{_PREFIX}*"):
            if run not in latest:
                with suppress(FileNotFoundError):  # another process thins out, too
                    ages[run] = run.stat().st_mtime
        spare = len(ages) + len(latest) - self.most
        for run in sorted(ages, key=lambda one: ages[one])[: max(0, spare)]:
            shutil.rmtree(run, ignore_errors=True)


@final
@dataclass(frozen=True)
class Batches:
    """Advances every state of a batch by a run of its own.

    Args:
        name: For messages.
        grid: The solver's.
        program: What is run.
        files: What it reads and writes.
        kept: Where failed runs go.
        concurrency: Runs side by side.
        values: Placeholder -> value, beside those of `files` and "folder".
    """

    name: str
    grid: Grid
    program: Program
    files: Files
    kept: KeptRuns = field(default_factory=KeptRuns)
    concurrency: int = 1
    values: Mapping[str, str] = field(default_factory=dict)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """See `zopde.Solver.step`; an interrupt ends all runs first.

        Raises:
            SolverError: If a run fails; it carries the answers of the others.
        """
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        rows = state.detach().double().cpu().numpy()
        forces: Sequence[Array | None] = [None] * len(rows)
        if forcing is not None:
            forces = list(forcing.detach().double().cpu().numpy())
        answers = torch.full(state.shape, torch.nan, dtype=torch.float64)
        with TemporaryDirectory(
            prefix=_PREFIX, dir=self.program.work, ignore_cleanup_errors=True
        ) as place:
            failed = []
            for row, found in enumerate(self._runs(Path(place), rows, forces)):
                if isinstance(found, _Failed):
                    failed.append((row, found))
                else:
                    answers[row] = torch.from_numpy(found)
            answers = answers.to(state)
            if failed:
                raise self._error(failed, answers)
        return answers

    def _runs(
        self, place: Path, states: Array, forces: Sequence[Array | None]
    ) -> list[Array | _Failed]:
        """What comes of each, all at an end when this returns or raises."""
        running = Running()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                futures = [
                    pool.submit(self._run, running, place / f"{place.name}-{row}", state, forcing)
                    for row, (state, forcing) in enumerate(zip(states, forces, strict=True))
                ]
                return [future.result() for future in futures]
            except BaseException:  # Ctrl-C, above all
                pool.shutdown(wait=False, cancel_futures=True)
                running.stop()
                raise

    def _run(
        self, running: Running, folder: Path, state: Array, forcing: Array | None
    ) -> Array | _Failed:
        if not np.isfinite(state).all():
            return _Failed("the state to start from is not finite")
        self.program.furnish(folder)
        try:
            answer = self._answer(running, folder, state, forcing)
        except RunError as error:
            return _Failed(str(error), folder, last_lines(folder, self.program.error_pattern))
        shutil.rmtree(folder, ignore_errors=True)
        return answer

    def _answer(self, running: Running, folder: Path, state: Array, forcing: Array | None) -> Array:
        _guarded("writing the state", lambda: self.files.write(folder, state, forcing))
        values = {**self.values, **self.files.names, "folder": str(folder)}
        arguments = [filled(part, values) for part in self.program.arguments]
        running.run(self.program, arguments, folder)
        answer = _guarded("reading the answer", lambda: self.files.read(folder))
        if answer.shape != self.grid.state_shape:
            raise RunError(f"an answer of shape {answer.shape}, expected {self.grid.state_shape}")
        answer = answer.astype(np.float64)
        bad = int((~np.isfinite(answer)).sum())
        if bad:
            raise RunError(f"{bad:,} of {answer.size:,} values of the answer are NaN or infinite")
        return answer

    def _error(self, failed: list[tuple[int, _Failed]], answers: Tensor) -> SolverError:
        runs = [one.folder for _, one in failed if one.folder]
        places = dict(zip(runs, self.kept.keep(runs), strict=True))
        failures = []
        for row, one in failed:
            folder = places[one.folder] if one.folder else ""
            failures.append(Failure(row, one.reason, folder, one.log))
        message = f"{self.name}: {said(failures, len(answers), 'runs')}"
        return SolverError(message, failures, answers)


@dataclass(frozen=True)
class _Failed:
    """One run of a batch, and where its files are."""

    reason: str
    folder: Path | None = None
    log: str = ""


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with the value of every {placeholder} that has one; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def _guarded(what: str, do: Callable[[], _T]) -> _T:
    try:
        return do()
    except RunError:
        raise
    except Exception as error:  # a user's functions, or a file of garbage, may raise anything
        raise RunError(f"{what}: {type(error).__name__}: {first_line(error)}") from error
