"""Solvers without forcing that are wrong in one way each."""

import torch

from zopde import Grid


class Sound:
    """Diffusion and a little reaction on a periodic grid."""

    def __init__(self, shape=(8, 8)):
        extent = tuple(float(n) for n in shape)
        self.grid = Grid(shape=tuple(shape), extent=extent, dt=0.1, channels=("a", "b"))

    def step(self, state, forcing=None):
        change = state * (1 - state) * (0.3 + state.flip(1))
        for axis in (2, 3):
            change = change + state.roll(1, axis) + state.roll(-1, axis) - 2 * state
        return state + self.grid.dt * change


class Shapeless(Sound):
    def step(self, state, forcing=None):
        return super().step(state)[:, :1]


class Narrow(Sound):
    def step(self, state, forcing=None):
        return super().step(state).float()


class Writes(Sound):
    def step(self, state, forcing=None):
        state += 1
        return super().step(state)


class Returns(Sound):
    def step(self, state, forcing=None):
        return state


class Sticks(Sound):
    def step(self, state, forcing=None):
        if len(state) > 1:
            raise ValueError("only one state at a time")
        return super().step(state)


class Mixes(Sound):
    def step(self, state, forcing=None):
        return super().step(state) + 1e-3 * state.mean(dim=0)


class Random(Sound):
    def __init__(self, shape=(8, 8), seedable=False, seed=None):
        super().__init__(shape)
        self.seed, self.fresh = seed, torch.Generator().manual_seed(0)
        if seedable:
            self.with_seed = lambda seed: Random(shape, True, seed)

    def step(self, state, forcing=None):
        draw = self.fresh if self.seed is None else torch.Generator().manual_seed(self.seed)
        noise = torch.randn(state.shape[1:], generator=draw)
        return super().step(state) + 1e-3 * noise.to(state)


class Swallows(Sound):
    def step(self, state, forcing=None):
        return super().step(state.nan_to_num())


class Spreads(Sound):
    def step(self, state, forcing=None):
        answer = super().step(state)
        return answer if answer.isfinite().all() else answer * torch.nan


class Text(Sound):
    """Writes six digits, as a program's %g does."""

    def step(self, state, forcing=None):
        answer = super().step(state)
        written = [float(f"{value:.6g}") for value in answer.flatten().tolist()]
        return torch.tensor(written, dtype=state.dtype).view_as(answer)
