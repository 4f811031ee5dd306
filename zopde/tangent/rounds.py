"""Measuring and fitting a tangent in rounds, until it predicts well or the budget is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zopde.contracts import Forcing, Solver, State
from zopde.errors import InputError
from zopde.files import load_tensors, reading, save_tensors
from zopde.interface.scales import channel_scale
from zopde.interface.vjp import Probing, Variable
from zopde.progress import Progress, Silent
from zopde.seeding import generator, global_stream
from zopde.tangent.fit import fit, held_out_error
from zopde.tangent.multigrid import PLACES
from zopde.tangent.net import Tangent
from zopde.tangent.pairs import Pairs, PairStore, joined
from zopde.validate import check_count, check_positive

_ROUNDS = (0.5, 1.0)  # shares of the budget that are spent at the end of each round
_HELD_OUT = 8  # one base of so many is not learned from
_WARM = 0.5  # of the learning rate, in a round that goes on from the one before
_SAME = 1e-3  # of the change in a step: a solver that is the same everywhere
_SHIFT = 3  # a shift by a third of every axis shows it


@dataclass(frozen=True)
class Learning:
    """Says how much is measured for a tangent, and how long it is fitted.

    Raises:
        InputError: If a number is not positive.
    """

    budget: int = 1280  # solver steps at most, for all inputs together
    target: float = 0.03  # held-out error at which no more is measured
    directions: int = 4  # perturbations of each state
    width: int = 16  # channels of the tangent
    iterations: int = 400  # updates of the fit in a round

    def __post_init__(self) -> None:
        for name in ("budget", "directions", "width", "iterations"):
            check_count(name, getattr(self, name))
        check_positive("target", self.target)

    def bases(self, sides: int, inputs: int, name: str = "budget") -> list[int]:
        """States that are measured at for each input, at the end of each round.

        Raises:
            InputError: If the budget, which its owner calls `name`, is too small.
        """
        each = (1 + self.directions * sides) * inputs
        counts = [int(self.budget * share) // each for share in _ROUNDS]
        if counts[0] < 2 * _HELD_OUT:
            least = int(2 * _HELD_OUT * each / _ROUNDS[0])
            got, expected = f"{self.budget} solver steps", f"at least {least} for a tangent"
            raise InputError(
                name, got=got, expected=expected, remedy="raise it, or name another way"
            )
        return counts


@dataclass(frozen=True)
class Learned:
    """Holds a fitted tangent, and says how good it is."""

    tangent: Tangent  # ready for products
    pairs: Mapping[Variable, Pairs]  # that it was fitted to
    held_out: Mapping[Variable, Pairs]  # that it was not
    error: Mapping[Variable, float]  # |N d - J d| / |J d| of those, root mean square
    unlearned: Mapping[Variable, float]  # the same of N d = d_u, which takes no solver step
    steps: int  # solver steps, measured now or before


def learn(
    solver: Solver,
    state: State,
    forcing: Forcing | None,
    probing: Mapping[Variable, Probing],
    learning: Learning,
    store: PairStore,
    folder: Path,
    seed: int = 0,
    files: Sequence[Path] = (),
    watcher: Progress | None = None,
) -> Learned:
    """Measure pairs at some states and fit a tangent to them, in two rounds at most.

    The first round spends half of the budget. If the error of the pairs that were held out is above
    the target, the second round spends the rest, and fits on from the first. What was measured is
    in the store, and the fit in `folder`: a call that was cut off and is made again ends with the
    same tangent, bit for bit.

    Args:
        solver: The solver.
        state: (states, channel, *space), examples of the states at which products will be taken.
        forcing: (states, forcing_channel, *space), or None.
        probing: How each perturbed input is measured; `scale` is needed.
        learning: How much, and how long.
        store: Measures the pairs and keeps them.
        folder: Where the fit is kept.
        seed: Of all that is random.
        files: Where the fitted tangent is kept; the first that exists is taken, and all are
            written.
        watcher: Who is told how far it is.
    """
    watcher, inputs = watcher or Silent(), list(probing)
    counts = learning.bases(max(p.steps for p in probing.values()), len(inputs))
    scale = torch.as_tensor(probing["state"].scale).expand(state.shape[1])
    order = torch.randperm(len(state), generator=generator(seed, "probes"))
    order = order.repeat(-(-counts[-1] // len(order))).to(state.device)
    steps = 2 * (all(solver.grid.periodic) and solver.grid.fluid is None)
    parts: dict[Variable, list[Pairs]] = {variable: [] for variable in inputs}
    known = next((path for path in files if path.exists()), None)
    kept = None if known is None else _read(known)
    tangent, done, learned = None, 0, None
    for number, count in enumerate(counts):
        for n, variable in enumerate(inputs):
            rows, ask = order[done:count], probing[variable]
            draws = generator(seed, "probes", 1 + number * len(inputs) + n)
            driven = None if forcing is None else forcing[rows]
            what = state[rows], driven, variable, learning.directions, ask, scale, draws
            parts[variable].append(store.measure(solver, *what))
            steps += len(rows) * (1 + learning.directions * ask.steps)
        done = count
        split = {variable: joined(found).split(_HELD_OUT) for variable, found in parts.items()}
        pairs, held = ({v: both[k] for v, both in split.items()} for k in (0, 1))
        share = 1.0 if tangent is None else _WARM
        if tangent is None:
            places = PLACES if varies(solver, state, forcing) else 0
            sizes = probing["state"].mu, learning.width, places
            tangent = _new(solver, scale, forcing, pairs, *sizes, seed)
            unlearned = {v: held_out_error(tangent, part) for v, part in held.items()}
        if kept is not None and kept["round"] > number:
            continue
        where, title = folder / f"round-{number + 1}", f"tangent, round {number + 1}"
        if kept is None:
            fit(tangent, pairs, learning.iterations, where, seed, watcher, title, share)
        else:
            tangent.load_state_dict(kept["weights"])
        error = {variable: held_out_error(tangent, part) for variable, part in held.items()}
        learned = Learned(tangent, pairs, held, error, unlearned, steps)
        if kept is not None or max(error.values()) <= learning.target:
            break
    assert learned is not None
    for path in files:
        if not path.exists():
            save_tensors(path, {"weights": learned.tangent.state_dict(), "round": number})
    return learned


def _read(path: Path) -> dict[str, Any]:
    """A fitted tangent, and the number of the round in which it was."""
    with reading("tangent", path, "what a run of zopde wrote", "move it away: it is fitted again"):
        content: dict[str, Any] = load_tensors(path)
        if not isinstance(content["round"], int):
            raise TypeError("the round is no number")
        return content


def _new(
    solver: Solver,
    scale: Tensor,
    forcing: Forcing | None,
    pairs: Mapping[Variable, Pairs],
    mu: float,
    width: int,
    places: int,
    seed: int,
) -> Tangent:
    """A tangent that knows the sizes of things, and nothing else."""
    drive, gain = None, 1.0
    if forcing is not None:
        drive = sizes_of(solver, forcing, mu)
    forced = pairs.get("forcing")
    if forced is not None and drive is not None:
        _, _, moved, response = forced.at(torch.arange(len(forced)))
        sized = (response / scale.view(-1, *[1] * (response.dim() - 3))).square().mean().sqrt()
        gain = float(
            sized / (moved / drive.view(-1, *[1] * (moved.dim() - 3))).square().mean().sqrt()
        )
    like = solver.grid, scale, drive, forced is not None, gain, width, places
    with global_stream(generator(seed, "weights")):
        return Tangent(*like).to(scale)


def sizes_of(solver: Solver, forcing: Forcing, mu: float) -> Tensor:
    """(forcing_channel,), what a forcing is divided by."""
    return channel_scale(solver.grid.fluid_values(forcing).transpose(0, 1).flatten(1), mu)


def varies(solver: Solver, state: State, forcing: Forcing | None) -> bool:
    """Whether the step depends on where things are; two solver steps for a periodic domain."""
    grid = solver.grid
    if not all(grid.periodic) or grid.fluid is not None:
        return True
    axes = tuple(range(2, 2 + len(grid.shape)))
    shifts = tuple(cells // _SHIFT for cells in grid.shape)

    def step(shift: Sequence[int]) -> Tensor:
        driven = None if forcing is None else forcing[:1].roll(shift, axes)
        return solver.step(state[:1].roll(tuple(shift), axes), driven)

    here, there = step([0] * len(axes)), step(shifts)
    off = (here.roll(shifts, axes) - there).norm()
    return not bool(off <= _SAME * (here - state[:1]).norm())
