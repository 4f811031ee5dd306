"""A small solver of our own for tests of the core: no package behind it, microseconds a step."""

import os
import signal
from pathlib import Path

import torch

from zopde import Grid, InputError, Scenario, SolverError


class Toy:
    """Advection-diffusion of two channels by finite differences, periodic."""

    differentiable = False

    def __init__(self, shape=(8, 8), viscosity=0.2):
        self.grid = Grid(
            shape=tuple(shape),
            extent=(8.0, 8.0),
            dt=0.1,
            channels=("velocity_y", "velocity_x"),
            forcing_channels=("force_y", "force_x"),
            units={"velocity_y": "m/s", "velocity_x": "m/s", "time": "s", "space": "m"},
        )
        self.viscosity, self.spacing = viscosity, self.grid.spacing

    def step(self, state, forcing=None):
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            change = forcing.clone()
            for axis, dx in zip((2, 3), self.spacing, strict=True):
                ahead, behind = state.roll(-1, axis), state.roll(1, axis)
                speed = state[:, axis - 2 : axis - 1]
                change = change - speed * (ahead - behind) / (2 * dx)
                change = change + self.viscosity * (ahead - 2 * state + behind) / dx**2
            return state + self.grid.dt * change

    @property
    def options(self):
        return {"viscosity": self.viscosity}

    def at(self, shape):
        return type(self)(shape, self.viscosity)

    def scenario(self, simulations, generator):
        angle = 6.283 * torch.rand(simulations, 2, 1, 1, generator=generator)
        y, x = torch.meshgrid(*map(torch.tensor, map(self.grid.centres, (0, 1))), indexing="ij")
        waves = torch.sin(0.785 * (x + 2 * y) + angle)
        return Scenario(0.5 * waves, lambda step: 0.3 * torch.cos(0.1 * step + 0.785 * x + angle))

    def differentiable_twin(self):
        return ToyTwin(self.grid.shape, self.viscosity)


class ToyTwin(Toy):
    """The same with its gradient."""

    differentiable = True


class Blind(Toy):
    """Makes its own data, and has no gradient."""

    differentiable_twin = None


class Everywhere(Toy):
    """The toy with a change of the mean, which every cell feels."""

    differentiable_twin = None

    def step(self, state, forcing=None):
        return super().step(state, forcing) - 0.3 * state.mean((2, 3), keepdim=True)


class NoTwin:
    """A black box as users have them: a grid and a step."""

    def __init__(self):
        self._toy = Toy((4, 4))
        self.grid = self._toy.grid

    def step(self, state, forcing=None):
        return self._toy.step(state, forcing)


class Exploding(NoTwin):
    """Grows tenfold a step."""

    def step(self, state, forcing=None):
        return 10 * state


class Mortal(NoTwin):
    """Kills its own process at step `after`, as often as `lives` says; then it lives on."""

    def __init__(self, marks, lives=1, after=3):
        super().__init__()
        self.marks, self.lives, self.after = Path(marks), lives, after
        self.steps_here = 0

    def step(self, state, forcing=None):
        self.steps_here += 1
        if self.steps_here == self.after and self._takes_a_life():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(state, forcing)

    def _takes_a_life(self):
        """Whether one was left. Two that die at once do not take the same: a file is made once."""
        for life in range(self.lives):
            try:
                (self.marks / f"{life}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


class OddError(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Failing(NoTwin):
    """Raises what it is told to."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def step(self, state, forcing=None):
        if self.how == "solver":
            raise SolverError("pressure did not converge")
        if self.how == "input":
            raise InputError("viscosity", got=3.0, expected="less", remedy="try 1")
        if self.how == "odd":
            raise OddError(1, 2)
        raise torch.OutOfMemoryError("no memory")


class Unpicklable(Toy):
    """Holds what cannot be sent to another process."""

    def __init__(self, shape=(8, 8), viscosity=0.2):
        super().__init__(shape, viscosity)
        self.secret = lambda: None


class NotASolver:
    """Has neither."""
