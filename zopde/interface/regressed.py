"""Local solvers with noise: all entries move in every probe, and least squares tell them apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from zopde.contracts import Domain, State
from zopde.interface.colours import in_fluid
from zopde.interface.near import near_of
from zopde.interface.vjp import (
    Call,
    Probing,
    Responses,
    Rows,
    Scale,
    Step,
    Variable,
    Varied,
    failed,
    responses,
    varied_shape,
    without_failed,
)
from zopde.interface.watch import Watch
from zopde.validate import checked
from zopde.zo.cge import Scheme


@final
class RegressedPullback:
    """Fits the local Jacobian to probes that move all entries, and takes J^T v from the fit.

        min over J_ij, j within the radius of i:   sum_k ( y_ki - sum_j J_ij d_kj )^2,
        y_k = [S(x + mu d_k) - S(x)] / mu,         k = 1 .. K

    for every entry i of the answer; d is in units of the scale. The unknowns of an entry are as
    many as colours * channels at most, for entries of one colour never meet in one answer (see
    `ColouredPullback`). So K - 1 = colours * channels directions of cosines do, which are constant
    over a colour,

        d_kj = sqrt(2) cos(pi (k - 1/2) c_j / K),   c_j = 1 .. K - 1 the number of j's colour

    They are orthogonal, and have the mean 0: the fit is a sum, and noise of S(x) drops out.

    Noise of the solver reaches a product 1 / sqrt(2 K) times as strongly as with
    `ColouredPullback`; curvature some times as strongly at the same mu, for all entries move at
    once. What lies beyond the radius goes to the wrong entries, as it does there. Probes that
    failed are left out of the fit: one is borne, without noise, at no loss.

    Queries: K = colours * channels + 1 solver steps per state and step (`probes_for`), twice as
    many with the central scheme. A look of the watch fits anew at one state, and compares the fit
    with a random direction that is not in it, the held-out error: K + 2 steps, counted apart, as
    "checking". No randomness but the watch's. Memory: K numbers for each cell of one state.
    Sources: regression on a local pattern, Frolov et al. 2018 and Amsel et al. 2024; orthogonal
    designs, Hotelling 1944.

    Args:
        grid: The solver's grid; its boundary decides what is near.
        radius: Cells along each axis that the response to one cell may reach, or, on a mesh,
            (neighbours,); see `measure_radius`, which needs a solver without noise.
        mu: As in `Probing`, like `scheme`, `states` and `scale`.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        scale: (channel,), what `mu` is in units of; None measures it.
        watch: Compares fits with the solver; None looks at every tenth product, and warns where
            they fit badly.
        executor: As in `Probing`.

    Attributes:
        colours: How many there are.
        watch: What compares fits with the solver from now on.

    Raises:
        InputError: If a setting is out of range.
    """

    @checked
    def __init__(
        self,
        grid: Domain,
        radius: tuple[int, ...],
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        scale: Scale = None,
        watch: Watch | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._probing, self._grid = Probing(mu, scheme, states, executor, scale), grid
        self._near, self._radius = near_of(grid), radius
        self._colour = in_fluid(self._near.colours(radius), grid.fluid)
        self.colours = int(self._colour.max()) + 1
        self.watch = watch or Watch(Generator().manual_seed(0))

    def probes_for(self, variable: Variable = "state") -> int:
        """Solver steps per state and step, for the channels of an input."""
        channels: int = varied_shape(self._grid, variable)[0]
        return self._probing.steps * (self.colours * channels + 1)

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        instead = self.watch.instead(step, self._push, self._probing)
        if instead is not None:
            return instead(step, cotangent)
        product, colour = torch.zeros_like(step.point), self._colour.to(step.point.device)
        own = colour.clamp_min(0)[None, None]

        def weighted(rows: Rows, found: Responses) -> Tensor:
            return (found * cotangent[rows]).sum(dim=1)

        for row, fitted in enumerate(self._fits(step, weighted)):
            sums = self._near.sums(fitted, self._radius).unflatten(0, (-1, self.colours))
            product[row] = sums.gather(1, own.expand(len(sums), 1, *colour.shape))[:, 0]
        return product.masked_fill(colour < 0, 0.0) / self._probing.units(step)

    def _push(self, step: Step, direction: Varied) -> State:
        """J d by the fit at one state: every cell meets one entry of each colour and channel."""
        (fitted,) = self._fits(step, lambda _, found: found)
        moved = (direction / self._probing.units(step)).transpose(0, 1) * self._masks(direction)
        met = self._near.sums(moved.flatten(0, 1), self._radius)
        return (fitted * met[:, None]).sum(dim=0, keepdim=True)

    def _masks(self, like: Varied) -> Tensor:
        """(colours, *space): 1 in the cells of each colour, else 0."""
        colours = torch.arange(self.colours).view(-1, *[1] * self._colour.dim())
        return (self._colour == colours).to(like)

    def _fits(
        self, step: Step, weigh: Callable[[Rows, Responses], Tensor]
    ) -> Iterator[Float[Tensor, "unknowns ..."]]:
        """Least squares of what `weigh` makes of the responses, one state after the other."""
        point, probing, masks = step.point, self._probing, self._masks(step.point)
        design = cosines(point.shape[1] * self.colours)
        count, units = len(design), probing.units(step)
        by_channel = design.to(point).view(count, point.shape[1], self.colours)
        probes = probing.calls(len(point) * count, point)

        def calls() -> Iterator[Call]:
            for numbers in probes:
                moved = torch.tensordot(by_channel[numbers % count], masks, dims=1)
                yield numbers // count, units[numbers // count] * moved

        values, good = list[Tensor](), list[Tensor]()
        for numbers, found in zip(probes, responses(step, calls(), probing), strict=True):
            values.append(weigh(numbers // count, without_failed(found)))
            good.append(~failed(found))
            while sum(map(len, good)) >= count:
                whole, sound = torch.cat(values), torch.cat(good)
                yield _fitted(design, whole[:count], sound[:count])
                values, good = [whole[count:]], [sound[count:]]


def cosines(unknowns: int) -> Float[Tensor, "probes unknowns"]:
    """One probe more than unknowns; orthogonal columns of mean 0 and mean square 1.

    Example:
        >>> (cosines(2).T @ cosines(2)).round().tolist()
        [[3.0, 0.0], [0.0, 3.0]]
    """
    probes = torch.arange(unknowns + 1, dtype=torch.float64)[:, None] + 0.5
    numbers = torch.arange(1, unknowns + 1, dtype=torch.float64)
    return 2**0.5 * torch.cos(math.pi / (unknowns + 1) * probes * numbers)


def _fitted(design: Tensor, values: Tensor, good: Bool[Tensor, " probes"]) -> Tensor:
    """Least squares over the good probes; the values of the others are 0."""
    good = good.to(design.device)
    fit = design.T / len(design)
    if not good.all():
        fit = torch.linalg.pinv(design * good[:, None])
    fitted: Tensor = torch.tensordot(fit.to(values), values, dims=1)
    return fitted
