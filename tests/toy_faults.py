"""Solvers that fail in every way, built on the toy solver; their faults come from a counter."""

import os
import random
import signal
import time
from pathlib import Path

import torch

from zopde import Grid, SolverError, load_solver
from zopde.errors import Failure

_TOY = f"{Path(__file__).parent / 'toy_solver.py'}:Blind"


class Flaky:
    """Fails at about one state in ten: `how` is raise, nan, whole, crash or hang.

    With `whole` the error does not say which states failed. Every state asked about leaves a
    byte in a file in the folder `asked`, where one is named. (A file that an option names would be
    part of who the solver is, and a store would know nothing of another one.)
    """

    def __init__(self, how="raise", share=0.1, shape=(8, 8), asked="", seed=0):
        self.toy = load_solver(_TOY).at(tuple(shape))
        self.grid: Grid = self.toy.grid
        self.options = {"how": how, "share": share, "asked": asked, "seed": seed}
        self.draw = random.Random(seed)

    def at(self, shape):
        return Flaky(shape=shape, **self.options)

    def scenario(self, simulations, generator):
        return self.toy.scenario(simulations, generator)

    def step(self, state, forcing=None):
        if self.options["asked"]:
            with open(Path(self.options["asked"]) / "asked", "ab") as file:
                file.write(b"x" * len(state))
        answer = self.toy.step(state, forcing)
        # The finer grid makes the reference: there everything goes well.
        share = self.options["share"] if self.grid.shape[0] < 16 else 0.0
        bad = [row for row in range(len(state)) if self.draw.random() < share]
        if bad:
            getattr(self, self.options["how"])(answer, bad)
        return answer

    def raise_(self, answer, bad):
        answer[bad] = torch.nan
        failures = [Failure(row, "no convergence") for row in bad]
        raise SolverError("some failed", failures, answer)

    def nan(self, answer, bad):
        answer[bad, 0, 0] = torch.nan

    def whole(self, answer, bad):
        raise ArithmeticError("pressure is negative")

    def crash(self, answer, bad):
        os.kill(os.getpid(), signal.SIGSEGV)

    def hang(self, answer, bad):
        time.sleep(60)


setattr(Flaky, "raise", Flaky.raise_)


class Slow:
    """The toy; once the file `armed` is there, the first process at its third step dies."""

    def __init__(self, marks):
        self.toy = load_solver(_TOY).at((8, 8))
        self.grid, self.marks, self.steps = self.toy.grid, Path(marks), 0

    def step(self, state, forcing=None):
        self.steps += 1
        if self.steps >= 3 and (self.marks / "armed").exists():
            try:
                os.rename(self.marks / "armed", self.marks / f"killed-{os.getpid()}")
            except FileNotFoundError:  # another one was faster
                return self.toy.step(state, forcing)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.toy.step(state, forcing)


class Noisy:
    """The toy with noise: fresh at every step, or fixed by a seed for every state alike."""

    def __init__(self, size=0.01, shape=(8, 8), seed=None):
        self.toy = load_solver(f"{_TOY.rpartition(':')[0]}:ToyTwin").at(tuple(shape))
        self.grid, self.size, self.seed = self.toy.grid, size, seed
        self.fresh = torch.Generator().manual_seed(0)

    def with_seed(self, seed):
        return Noisy(self.size, self.grid.shape, seed)

    def step(self, state, forcing=None):
        if self.seed is None:
            noise = torch.randn(state.shape, generator=self.fresh)
        else:
            noise = torch.randn(state.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        return self.toy.step(state, forcing) + self.size * noise.to(state)
