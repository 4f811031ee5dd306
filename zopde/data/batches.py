"""Batches of images and of reference data, in an order that a resumed run can recompute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.contracts import Solver, Window, seeded
from zopde.data.images import Images
from zopde.data.trajectories import Trajectories
from zopde.errors import InputError, SolverError
from zopde.seeding import generator
from zopde.validate import check_count


def shuffled(count: int, batch: int, per_epoch: int, seed: int, i: int) -> Int[Tensor, " batch"]:
    """Which of `count` things batch i holds: all are shuffled anew every epoch, by the seed."""
    epoch, place = divmod(i, per_epoch)
    return _order(count, seed, epoch)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=4)  # drawn once an epoch: a shuffle of 50,000 takes as long as a small step
def _order(count: int, seed: int, epoch: int) -> Int[Tensor, " count"]:
    return torch.randperm(count, generator=generator(seed, "order", epoch))


@final
class ImageBatches:
    """Hands out the training images, shuffled anew every epoch, moved and mirrored at random.

    Batch `at(i)` is a function of (seed, i) alone. The last batch of an epoch holds what is
    left over.

    Args:
        images: The training images.
        batch: Images at a time; an epoch of fewer is one batch.
        seed: Decides order, crops and flips.
        pad: Pixels of zeros around an image before a random crop of its old size; 0: none.
        flip: Whether half of the images are mirrored, left to right.

    Raises:
        InputError: If `batch` is not positive or `pad` negative.
    """

    def __init__(
        self, images: Images, batch: int, seed: int, pad: int = 0, flip: bool = False
    ) -> None:
        check_count("batch", batch)
        if pad < 0:
            raise InputError("pad", got=pad, expected="a number of pixels >= 0")
        self._images, self._batch, self._seed = images, batch, seed
        self._pad, self._flip = pad, flip

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._images) // self._batch)

    def at(self, i: int) -> tuple[Shaped[Tensor, "batch channel y x"], Tensor]:
        """Pixels, in the units of the file, and labels of batch i."""
        chosen = shuffled(len(self._images), self._batch, self.per_epoch, self._seed, i)
        draw = generator(self._seed, "augment", i)
        pixels = self._images.pixels[chosen]
        if self._pad:
            pixels = padded_crops(pixels, self._pad, draw)
        if self._flip:
            pixels = flips(pixels, draw)
        return pixels, self._images.labels[chosen]


def padded_crops(
    pixels: Shaped[Tensor, "batch channel y x"], pad: int, draw: Generator
) -> Shaped[Tensor, "batch channel y x"]:
    """Every image moved by up to `pad` pixels along each axis; zeros come in at the border."""
    batch, _, height, width = pixels.shape
    down, right = torch.randint(2 * pad + 1, (2, batch), generator=draw)
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    padded = F.pad(pixels, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    crops = padded[torch.arange(batch)[:, None, None], rows, columns]
    return crops.permute(0, 3, 1, 2).contiguous()


def flips(
    pixels: Shaped[Tensor, "batch channel y x"], draw: Generator
) -> Shaped[Tensor, "batch channel y x"]:
    """Every image mirrored, left to right, with probability 1/2."""
    mirrored = torch.rand(len(pixels), generator=draw) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


@final
class Windows:
    """Hands out all pieces of `unroll` steps of some trajectories, shuffled anew every epoch.

    `batch(i)` is a function of (seed, i) alone. A last incomplete batch of an epoch is left
    out.

    Args:
        trajectories: The reference.
        stepped: (simulation, time, channel, *space), the solver's answer to every reference
            state; see `first_steps`. Pieces that start where it is not finite are left out, and
            those without any measurement.
        unroll: Steps in a window, >= 1.
        batch: Windows side by side, >= 1.
        seed: Decides the order.
        every: Solver steps that are taken as one: `stepped` is behind so many (`later_steps`), the
            targets lie so far apart, and the forcing is that of each; windows start anywhere.
        history: Earlier states that come with each window, `every` steps apart, the newest first:
            those of the data. Where these begin, or a state was measured in part, the oldest state
            from which on all are whole stands for those before it.

    Raises:
        InputError: If the trajectories are shorter than one window, or no window is left.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        stepped: Tensor,
        unroll: int,
        batch: int,
        seed: int,
        every: int = 1,
        history: int = 0,
    ) -> None:
        steps = trajectories.steps
        check_count("every", every)
        if unroll * every > steps:
            got = f"{unroll} times {every} steps" if every > 1 else unroll
            raise InputError("unroll", got=got, expected=f"at most the data's {steps} steps")
        if stepped.shape[1] != steps + 1 - every:
            got, expected = f"{stepped.shape[1]} times", f"{steps + 1 - every}: see later_steps"
            raise InputError("stepped", got=got, expected=expected)
        self._data, self._stepped, self._unroll, self._seed = trajectories, stepped, unroll, seed
        self._every, self._starts = every, steps - unroll * every + 1
        self._history, self._whole = history, trajectories.whole if history else None
        usable = usable_starts(trajectories, stepped, unroll, every)
        self._windows = usable.flatten().nonzero().flatten().cpu()
        self._count = len(self._windows)
        if not self._count:
            whole, of = int(trajectories.whole[:, :-1].sum()), trajectories.simulations * steps
            got = f"{whole:,} of {of:,} whole, and none that the solver answers and a measurement "
            got += f"follows within {unroll} step{'s'[: unroll - 1]}"
            remedy = "a larger training.unroll; without single steps: training.init=scratch, no NON"
            raise InputError("stored states", got=got, expected="some to start at", remedy=remedy)
        self._batch = min(batch, self._count)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self._count // self._batch

    def batch(self, i: int) -> Window:
        """Batch i."""
        return self._cut(shuffled(self._count, self._batch, self.per_epoch, self._seed, i))

    def spread(self, most: int) -> Window:
        """At most so many windows, the same ones always, from the first start to the last."""
        return self._cut(torch.linspace(0, self._count - 1, min(most, self._count)).round().long())

    def _cut(self, numbers: Int[Tensor, " batch"]) -> Window:
        chosen = self._windows[numbers]
        simulation, start = chosen // self._starts, chosen % self._starts
        every, rows = self._every, simulation[:, None]
        times = start[:, None] + torch.arange(self._unroll * every)
        states, forcing = self._data.states, self._data.forcing
        if forcing is not None:
            forcing = forcing[rows, times]
            forcing = forcing if every == 1 else forcing.unflatten(1, (-1, every))
        return Window(
            stepped=self._stepped[simulation, start],
            targets=states[rows, times[:, every - 1 :: every] + 1],
            forcing=forcing,
            initial=states[simulation, start],
            every=every,
            past=self._past(simulation, start),
        )

    def _past(
        self, simulation: Int[Tensor, " batch"], start: Int[Tensor, " batch"]
    ) -> Tensor | None:
        if self._whole is None:
            return None
        at, past = start, []
        for back in range(1, self._history + 1):
            earlier = start - back * self._every
            known = (earlier >= 0) & self._whole[simulation, earlier.clamp_min(0)].to(at.device)
            # Behind a gap nothing is known any more
            at = torch.where(known & (earlier == at - self._every), earlier, at)
            past.append(self._data.states[simulation, at])
        return torch.stack(past, dim=1)


def usable_starts(
    trajectories: Trajectories, stepped: Tensor, unroll: int, every: int = 1
) -> Bool[Tensor, "simulation start"]:
    """Which states begin a window: the solver has answered, and something was measured in it."""
    starts = trajectories.steps - unroll * every + 1
    known = stepped[:, :starts].flatten(2).isfinite().all(dim=2)
    ends = range(every, unroll * every + 1, every)
    seen = torch.stack([trajectories.seen[:, end : end + starts] for end in ends])
    return known & seen.any(dim=0)


def first_steps(
    solver: Solver,
    trajectories: Trajectories,
    chunk: int = 256,
    progress: Callable[[int], None] | None = None,
    drop: bool = False,
    partial: bool = False,
    seed: int = 0,
) -> Float[Tensor, "simulation time channel *space"]:
    """Step every reference state once, S(u[t], f[t]), but the last of each simulation.

    This is the stored data on which NON trains, and the first step of every window of the
    others where the correction comes after it. It costs simulations * steps solver steps, once.

    Args:
        solver: The coarse solver.
        trajectories: The reference.
        chunk: States per solver call.
        progress: Called with the number of states after every call.
        drop: Whether an answer that is not finite stays, for `Windows` to leave out.
        partial: Whether a state with NaN in it was measured in part: it is not stepped, and its
            answer is NaN.
        seed: Of the noise of a stochastic solver at the first of the states.

    Raises:
        SolverError: If an answer is not finite, or the solver changed the state it was given.
    """
    states = trajectories.states[:, :-1].flatten(0, 1)
    forcing = None if trajectories.forcing is None else trajectories.forcing[:, :-1].flatten(0, 1)
    rows, stepped = torch.arange(len(states)), states * torch.nan
    if partial:
        rows = trajectories.whole[:, :-1].flatten().nonzero().flatten()
    for a in range(0, len(rows), chunk):
        now = rows[a : a + chunk]
        state = states[now]
        before = state.clone()
        driven = None if forcing is None else forcing[now]
        answer = seeded(solver, seed + a).step(state, driven)
        if not torch.allclose(state, before, rtol=0, atol=0, equal_nan=True):
            raise SolverError("step: got a changed argument, expected the state left as it was")
        bad = (~answer.isfinite()).flatten(1).any(dim=1).nonzero()
        if len(bad) and not drop:
            where = f"stored state {int(now[int(bad[0])])}"
            raise SolverError(f"step: got NaN or infinity for {where}, expected numbers")
        stepped[now] = answer
        if progress:
            progress(len(state))
    return stepped.view_as(trajectories.states[:, :-1])


def later_steps(
    solver: Solver,
    trajectories: Trajectories,
    stepped: Tensor,
    every: int,
    progress: Callable[[int], None] | None = None,
    drop: bool = False,
    partial: bool = False,
) -> Float[Tensor, "simulation time channel *space"]:
    """Step on what `first_steps` answers, to `every` steps from each state that has so many.

    It costs simulations * (steps - k) solver steps for k = 1 .. every - 1, once.

    Args:
        solver: As in `first_steps`.
        trajectories: The reference.
        stepped: What `first_steps` answered.
        every: Steps of each state, the first included.
        progress: As in `first_steps`.
        drop: As in `first_steps`.
        partial: As in `first_steps`.
    """
    for k in range(1, every):
        forcing = None if trajectories.forcing is None else trajectories.forcing[:, k:]
        states = replace(trajectories, states=stepped, forcing=forcing)
        seed = k * trajectories.simulations * trajectories.steps  # noise of its own
        stepped = first_steps(solver, states, 256, progress, drop, partial, seed)
    return stepped
