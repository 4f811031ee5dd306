"""A small ocean for tests: a closed basin with an island, on which every answer is NaN."""

import torch

from zopde import Grid, Scenario

ISLAND = torch.ones(16, 24, dtype=torch.bool)
ISLAND[5:10, 8:14] = False
ISLAND[:4, 20:] = False  # and a corner of the mainland


class Basin:
    """Currents that drag, diffuse, and carry warm water; nothing flows through a coast."""

    differentiable = False

    def __init__(self, shape=(16, 24), mask=ISLAND):
        whole = Grid(
            shape=tuple(ISLAND.shape),
            extent=(16.0, 24.0),
            dt=0.2,
            channels=("u", "T"),
            boundary="open",
            units={"u": "m/s", "T": "degC", "space": "km"},
            mask=mask,
        )
        self.grid = whole.with_shape(shape)
        self.fluid = torch.ones(self.grid.shape).bool() if mask is None else self.grid.fluid

    def step(self, state, forcing=None):
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            state = torch.where(self.fluid, state, 0.0)
            u, warm = state.unbind(1)
            slope = torch.zeros_like(state)
            for axis, dx in zip((1, 2), self.grid.spacing, strict=True):
                flows = self._inner(self.fluid, axis - 1)  # faces with fluid on both sides
                ahead = state.narrow(axis + 1, 1, state.shape[axis + 1] - 1)
                behind = state.narrow(axis + 1, 0, state.shape[axis + 1] - 1)
                flux = flows * (ahead - behind) / dx**2
                carried = flows * (ahead[:, :1] + behind[:, :1]) * (ahead - behind) / (4 * dx)
                zero = flux.narrow(axis + 1, 0, 1) * 0
                slope = slope + torch.cat([flux - carried, zero], axis + 1)
                slope = slope - torch.cat([zero, flux + carried], axis + 1)
            push = torch.stack([0.05 * (warm - 10) - 0.2 * u * u.abs(), 0 * warm], dim=1)
            after = state + self.grid.dt * (slope + push)
            return torch.where(self.fluid, after, torch.nan)

    @staticmethod
    def _inner(fluid, axis):
        many = fluid.shape[axis] - 1
        return fluid.narrow(axis, 1, many) & fluid.narrow(axis, 0, many)

    @property
    def options(self):
        return {}

    def at(self, shape):
        return type(self)(shape)

    def scenario(self, simulations, generator):
        turn = 6.283 * torch.rand(simulations, 2, 1, 1, generator=generator)
        y, x = torch.meshgrid(*map(torch.tensor, map(self.grid.centres, (0, 1))), indexing="ij")
        waves = torch.sin(0.26 * x + turn[:, :1] + 0.4 * torch.cos(0.4 * y + turn[:, 1:]))
        state = torch.cat([0.5 * waves, 10 + 3 * waves.flip(-1)], dim=1)
        return Scenario(torch.where(self.fluid, state, torch.nan))

    def differentiable_twin(self):
        return BasinTwin(self.grid.shape)


class BasinTwin(Basin):
    """The same with its gradient."""

    differentiable = True
