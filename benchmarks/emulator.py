"""An emulator, which `tangent.py` sets beside the tangent, and a corrector."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from zopde import Grid
from zopde.training import cosine


class Convolutions(nn.Sequential):
    """A corrector's body for any number of axes."""

    def __init__(self, grid: Grid, width: int = 16, depth: int = 4) -> None:
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(grid.shape) - 1]
        mode = "circular" if all(grid.periodic) else "zeros"
        layers: list[nn.Module] = []
        channels = len(grid.channels + grid.forcing_channels), len(grid.channels)
        counts = [channels[0], *[width] * (depth - 1), channels[1]]
        for before, after in pairwise(counts):
            layers += [conv(before, after, 3, padding=1, padding_mode=mode), nn.GELU()]
        nn.init.zeros_(layers[-2].weight)  # type: ignore[arg-type]
        super().__init__(*layers[:-1])


class Emulator(nn.Module):
    """Predicts a step's result: E(u, f) = u + s M(u / s, f / s_f), M a multigrid of convolutions.

    Its width is the largest with which it has no more than `weights` weights, and 2 at least.
    """

    def __init__(self, grid: Grid, scale: Tensor, drive: Tensor | None, weights: int) -> None:
        super().__init__()
        self._axes, self._mode = len(grid.shape), "circular" if all(grid.periodic) else "zeros"
        space = [1] * self._axes
        self.scale = scale.view(-1, *space)
        self.drive = scale.new_ones(1) if drive is None else drive.view(-1, *space)
        maps = 0 if all(grid.periodic) else 4
        self.maps = nn.Parameter(torch.zeros(maps, *grid.shape))
        self._ends = len(grid.channels + grid.forcing_channels) + maps, len(grid.channels)
        self._levels = min(n.bit_length() - 2 for n in grid.shape)
        width = 4
        while self._build(width + 2) <= weights:
            width += 2
        self._build(width)

    def _build(self, width: int) -> int:
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self._axes - 1]
        raised = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[self._axes - 1]

        def same(inputs: int, outputs: int) -> nn.Module:
            return conv(inputs, outputs, 3, padding=1, padding_mode=self._mode)

        levels = range(self._levels)
        self.enter, self.leave = same(self._ends[0], width), same(width, self._ends[1])
        self.down = nn.ModuleList(conv(width, width, 2, stride=2) for _ in levels)
        self.along = nn.ModuleList(same(width, width) for _ in levels)
        self.up = nn.ModuleList(raised(width, width, 2, stride=2) for _ in levels)
        self.back = nn.ModuleList(same(2 * width, width) for _ in levels)
        return sum(p.numel() for p in self.parameters())

    def forward(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        """(batch, channel, *space), the state a step later."""
        seen = [state / self.scale, self.maps.expand(len(state), *self.maps.shape)]
        if forcing is not None:
            seen.append(forcing / self.drive)
        gelu = nn.functional.gelu
        x = gelu(self.enter(torch.cat(seen, dim=1)))
        skips = []
        for down, along in zip(self.down, self.along, strict=True):
            skips.append(x)
            x = gelu(along(down(x)))
        for up, back in zip(reversed(self.up), reversed(self.back), strict=True):
            x = gelu(back(torch.cat([up(x), skips.pop()], dim=1)))
        return state + self.scale * self.leave(x)

    def learn(
        self,
        states: Tensor,
        forcing: Tensor | None,
        rows: Tensor,
        stepped: Tensor,
        batch: int,
        iterations: int,
    ) -> None:
        """Fit the values; `rows[n]` is the forcing of state n."""
        optimizer: Any = torch.optim.Adam(self.parameters(), lr=3e-3, betas=(0.9, 0.99))
        change = ((stepped - states) / self.scale).square().mean()
        for i in range(iterations):
            some = torch.randint(len(states), (batch,))
            driven = None if forcing is None else forcing[rows[some]]
            off = (self(states[some], driven) - stepped[some]) / self.scale
            optimizer.zero_grad()
            (off.square().mean() / change).backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = 3e-3 * cosine(i, iterations, iterations // 5)
            optimizer.step()
