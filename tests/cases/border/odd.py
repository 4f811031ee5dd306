"""Solvers that are wrong, or strange, in one way each: one channel on 8 x 8 periodic cells."""

import io
import os
import random
import signal
import sys
from dataclasses import replace

import numpy as np
import torch

from zopde import Grid, SolverError

GRID = Grid(shape=(8, 8), extent=(8.0, 8.0), dt=0.1, channels=("a",))


def diffused(u):
    around = sum(u.roll(way, axis) for way in (1, -1) for axis in (-2, -1))
    return u + 0.1 * (around - 4 * u) * (1 + 0.1 * u)


class Honest:
    """Diffusion."""

    grid = GRID

    def __init__(self):
        self.calls, self.kept, self.known = 0, None, {}
        self.draws = np.random.default_rng(0)

    def step(self, state, forcing=None):
        self.calls += 1
        return self.answer(state)

    def answer(self, u):
        return diffused(u)


class OwnMemory(Honest):
    def answer(self, u):
        if self.kept is None or self.kept.shape != u.shape:
            self.kept = np.empty(u.shape, np.float32)
        self.kept[:] = diffused(u).numpy()
        return torch.from_numpy(self.kept)


class OneBuffer(Honest):
    def answer(self, u):
        if self.kept is None:
            self.kept = torch.zeros(999, 1, 8, 8)
        self.kept[: len(u)] = diffused(u)
        return self.kept[: len(u)]


class InPlace(Honest):
    def answer(self, u):
        return u.copy_(diffused(u))


class Scratch(Honest):
    def answer(self, u):
        answer = diffused(u)
        u.numpy()[:] = -7
        return answer


class Subclass(Honest):
    def answer(self, u):
        return diffused(u).as_subclass(type("Mine", (torch.Tensor,), {}))


class Complex(Honest):
    def answer(self, u):
        return torch.complex(torch.zeros_like(u), -diffused(u)).conj().imag


class Restless(Honest):
    """Changes all that a process shares."""

    def answer(self, u):
        answer = diffused(u)
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.set_grad_enabled(True)
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(self.calls)
        return answer


class Global(Honest):
    """Noise from the streams that everybody shares."""

    def answer(self, u):
        return diffused(u) + 1e-3 * torch.randn_like(u) + 1e-3 * np.random.randn()


class Raises(Honest):
    """Raises what it is told to at every fifth call."""

    def __init__(self, what="SystemExit"):
        super().__init__()
        odd = {"Odd": type("Odd", (BaseException,), {}), "SolverError": SolverError}
        self.what = odd.get(what) or getattr(__import__("builtins"), what)

    def answer(self, u):
        if self.calls % 5 == 3:
            raise self.what
        return diffused(u)


class Interrupted(Honest):
    """As if the user pressed Ctrl-C in the middle of a step."""

    def answer(self, u):
        os.kill(os.getpid(), signal.SIGINT)
        return sum(diffused(u) for _ in range(99999))


class Half(Honest):
    def answer(self, u):
        return diffused(u).half()


class Array(Honest):
    def answer(self, u):
        return diffused(u).numpy()


class Nothing(Honest):
    def answer(self, u):
        return None


class Fewer(Honest):
    def answer(self, u):
        return diffused(u)[:1]


class Sparse(Honest):
    def answer(self, u):
        return diffused(u).to_sparse()


class Diverges(Honest):
    """Has no answer to about a third of all states."""

    def answer(self, u):
        if bool((u[:, 0, 0, 0] > 0.0).any()):
            raise RuntimeError("diverged")
        return diffused(u)


class AdamsBashforth(Honest):
    def answer(self, u):
        tendency = diffused(u) - u
        before = tendency if self.kept is None else self.kept
        self.kept = tendency[-1:].clone()
        return u + 1.5 * tendency - 0.5 * before


class Leapfrog(Honest):
    def answer(self, u):
        before = u[-1:] if self.kept is None else self.kept
        self.kept = u[-1:].clone()
        return before + 2 * (diffused(u) - u)


class WarmStart(Honest):
    """An implicit step, solved from the last solution to a tolerance of 1e-4."""

    def answer(self, u):
        x = torch.zeros_like(u) if self.kept is None else self.kept.expand_as(u)
        for _ in range(200):
            new = (u + 0.1 * (diffused(x) - x)) * 0.5 + 0.5 * x
            x, off = new, float((new - x).abs().max())
            if off < 1e-4:
                break
        self.kept = x[-1:].clone()
        return x


class Counts(Honest):
    def answer(self, u):
        return diffused(u) * (1 + 1e-5 * self.calls)


class InTurn(Honest):
    """Sweeps in four directions in turn."""

    def answer(self, u):
        return diffused(u) + 1e-3 * u.roll(self.calls % 4, -1)


class ByShape(Honest):
    """A cache whose key is too short."""

    def answer(self, u):
        return self.known.setdefault(u.shape, diffused(u))


class ByMean(Honest):
    def answer(self, u):
        key = (u.shape, round(float(u.mean()), 1))
        return self.known.setdefault(key, diffused(u))


class Drawn(Honest):
    """One random number for a whole step, of a generator of its own."""

    def answer(self, u):
        return diffused(u) * (1 + 1e-2 * self.draws.standard_normal())


class TwoValued(Honest):
    def answer(self, u):
        return diffused(u) * (1 + 1e-2 * int(self.draws.integers(2)))


class Constant(Honest):
    def answer(self, u):
        return torch.full_like(u, 0.3) + 0.1 * torch.arange(8)


class HalfKept(Honest):
    def answer(self, u):
        return torch.cat([u[..., :4], diffused(u)[..., 4:]], dim=-1)


class HalfConstant(Honest):
    def answer(self, u):
        return torch.cat([torch.ones_like(u)[..., :4], diffused(u)[..., 4:]], dim=-1)


class Single(Honest):
    def answer(self, u):
        return diffused(u.float()).to(u)


class NotFinite(Honest):
    """Its own scenario does not stay finite."""

    @property
    def options(self):
        return {}

    def at(self, shape):
        return self

    def scenario(self, simulations, generator):
        from zopde import Scenario

        return Scenario(torch.randn(simulations, 1, 8, 8, generator=generator))

    def answer(self, u):
        return torch.where(u.abs() > 1e9, torch.nan, 1e4 * diffused(u))


class Mute(Honest):
    """Takes stdout and stderr away, as programs do that write a log of their own."""

    def __init__(self, way="replace"):
        super().__init__()
        self.way = way

    def answer(self, u):
        if self.way == "replace":
            sys.stdout = sys.stderr = io.StringIO()
        elif self.way == "close":
            sys.stdout.close()
            sys.stderr.close()
        elif self.way == "none":
            sys.stdout = sys.stderr = None
        else:
            os._exit(0)
        return diffused(u)


class Many(Honest):
    """Of the second of eight channels one cell depends on the state; all others do throughout."""

    grid = replace(GRID, channels=tuple("abcdefgh"))

    def answer(self, u):
        answer = diffused(u)
        answer[:, 1].fill_(0.5)
        answer[:, 1, 3, 3] = u[:, 1, 3, 3] ** 2
        return answer
