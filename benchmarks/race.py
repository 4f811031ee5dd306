"""The race of ensembles and derivatives: who finds a forcing of a chaotic model in fewest steps?

    python benchmarks/race.py --json

The problem of Gjini, Morzfeld, Dunbar and Schneider, "The Ensemble Kalman Inversion Race" (2025,
arXiv 2511.15853): Lorenz-96 with a forcing F of the place. Case "61": 100 variables, F(x) = 8 + 6
sin(4 pi x / 10), and a network of 61 weights; case "1000": as many variables, F[k] = 8 + 2 e[k]
with independent normal e[k], and a weight for each. Every way starts from F = 8 and is judged
alike: the means and standard deviations in time of each variable, over eight runs of what it has
found, against those of the truth over 64 runs, in standard deviations sigma of one run (1,000 steps
of 0.05 after 80 that are left out). The root mean square of that is `rmse`; the goal is 1.0, as in
the race. Judging is not counted.

Two kinds of data. *Climate*: only those means and deviations, of the truth, which is the race's own
problem. *Windows*: stretches of six steps of the truth, from known states. `etki` moves 100
networks by what each predicts, `localised` is EKI with chance correlations damped, `measured` goes
down the gradient that `zopde.differentiable` measures at the solver's interface (Adam), `identity`
takes the derivative for the identity and dt, which is free. Solver steps until the goal was reached
first, and those of all iterations. What the paper counts, runs of the model, are these divided by
1,080.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import zopde
from zopde.blackbox import CountedSolver
from zopde.zo import eki_update, etki_update, misfit_variance

SPIN_UP, STEPS, MEMBERS, WINDOW, BATCH = 80, 1000, 100, 6, 16
GUESS, GOAL = 8.0, 1.0


class OfPlace(nn.Module):
    """F(x) at 100 places, x in [-5, 5), by 20 neurons that bend at different places."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 20), nn.Linear(20, 1)
        self.enter.weight.data.fill_(1.0)
        self.enter.bias.data.copy_(torch.linspace(-5, 5, 20))
        self.leave.weight.data.zero_()
        self.leave.bias.data.zero_()

    def forward(self) -> Tensor:
        """(place,)."""
        places = torch.arange(-5, 5, 0.1)[:, None]
        return GUESS + 6 * self.leave(torch.tanh(self.enter(places)))[:, 0]


class EachPlace(nn.Module):
    """F[k] at 1,000 places, a weight for each."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1000))

    def forward(self) -> Tensor:
        """(place,)."""
        return GUESS + 2 * self.values


@dataclass(frozen=True)
class Case:
    """A truth, and the network that looks for it."""

    truth: Tensor  # (place,)
    network: Callable[[], nn.Module]
    spread: float  # of the first members, in each weight


def cases() -> dict[str, Case]:
    """By name."""
    waves = 8 + 6 * torch.sin(0.4 * math.pi * torch.arange(-5, 5, 0.1))
    chance = 8 + 2 * torch.randn(1000, generator=Generator().manual_seed(7))
    return {"61": Case(waves, OfPlace, 0.3), "1000": Case(chance, EachPlace, 1.0)}


def climate(solver: Any, forcing: Tensor, draw: Generator) -> Tensor:  # noqa: ANN401
    """Means and deviations in time, (run, 2 place), of a run for each row of the forcing."""
    given = forcing[:, None]
    state = 2.5 + torch.randn(given.shape, generator=draw)
    sums = squares = torch.zeros(())
    for at in range(SPIN_UP + STEPS):
        state = solver.step(state, given)
        if at >= SPIN_UP:
            sums, squares = sums + state.double(), squares + state.double() ** 2
    mean = sums / STEPS
    deviations = (squares / STEPS - mean**2).clamp_min(1e-12).sqrt()
    return torch.cat([mean, deviations], dim=2)[:, 0]


class World:
    """The solver that is asked, and what is known of the truth."""

    def __init__(self, case: Case) -> None:
        self.case, places = case, len(case.truth)
        self.plain = zopde.load_solver("lorenz96", {"slow": places, "unknown": "force"})
        draw = Generator().manual_seed(1)
        runs = climate(self.plain, case.truth.expand(64, -1), draw)
        self.known, self.sigma = runs.mean(dim=0), runs.std(dim=0)
        state = 2.5 + torch.randn(64, 1, places, generator=draw)
        given = case.truth.expand(64, 1, -1)
        for _ in range(SPIN_UP):
            state = self.plain.step(state, given)
        states = [state]
        for _ in range(10 * WINDOW):
            states.append(self.plain.step(states[-1], given))
        self.states = torch.stack(states, dim=1)  # (run, time, 1, place)

    def whitened(self, solver: Any, forcing: Tensor, draw: Generator) -> Tensor:  # noqa: ANN401
        """(run, 2 place), the misfit of a run in sigma."""
        return (climate(solver, forcing, draw) - self.known) / self.sigma

    def rmse(self, network: nn.Module) -> float:
        """Of the climate of what a network says."""
        with torch.no_grad():
            forcing = network().expand(8, -1)
        draw = Generator().manual_seed(2)
        return float(self.whitened(self.plain, forcing, draw).mean(dim=0).square().mean().sqrt())

    def windows(self, draw: Generator) -> Tensor:
        """(BATCH, WINDOW + 1, 1, place), drawn from the truth."""
        runs = torch.randint(len(self.states), (BATCH,), generator=draw)
        starts = torch.randint(self.states.shape[1] - WINDOW, (BATCH,), generator=draw)
        rows = [
            self.states[run, at : at + WINDOW + 1] for run, at in zip(runs, starts, strict=True)
        ]
        return torch.stack(rows)


Way = Callable[[World, nn.Module, CountedSolver, int], Iterator[None]]
"""Moves the network, an iteration at a time."""


def ensemble(
    world: World,
    network: nn.Module,
    solver: CountedSolver,
    seed: int,
    data: str,
    localised: bool = False,
) -> Iterator[None]:
    """Ensemble Kalman inversion; the network becomes the mean of the members."""
    draw, weights = Generator().manual_seed(seed), list(network.parameters())
    centre = parameters_to_vector(weights).detach().double()
    drawn = torch.randn(MEMBERS, len(centre), generator=draw, dtype=torch.float64)
    members = centre + world.case.spread * (drawn - drawn.mean(dim=0))
    while True:
        forcing = vmap(partial(forcing_of, network))(members.float()).detach()
        if data == "climate":
            found = world.whitened(solver, forcing, draw)
        else:
            window = world.windows(draw)
            found = torch.stack([stepped(solver, window, one).flatten() for one in forcing])
        found = found.double()
        goal = torch.zeros_like(found[0])
        variance = misfit_variance(found, goal)
        if localised:
            members = eki_update(members, found, goal, variance, draw, localised=True)
        else:
            members = etki_update(members, found, goal, variance)
        vector_to_parameters(members.mean(dim=0).float(), weights)
        yield


def forcing_of(network: nn.Module, flat: Tensor) -> Tensor:
    """What a network says with other weights."""
    named, at = {}, 0
    for name, weight in network.named_parameters():
        named[name] = flat[at : at + weight.numel()].view_as(weight)
        at += weight.numel()
    said: Tensor = functional_call(network, named, ())
    return said


def stepped(solver: Any, window: Tensor, forcing: Tensor) -> Tensor:  # noqa: ANN401
    """(batch, time, 1, place), how far the solver with this forcing is off the truth's states."""
    state, given, off = window[:, 0], forcing.expand(BATCH, 1, -1), []
    for at in range(1, WINDOW + 1):
        state = solver.step(state, given)
        off.append(state - window[:, at])
    return torch.stack(off, dim=1)


def descent(
    world: World, network: nn.Module, solver: CountedSolver, seed: int, data: str, way: str
) -> Iterator[None]:
    """Adam, down a gradient that passes the solver by `way`."""
    draw, optimizer = Generator().manual_seed(seed), torch.optim.Adam(network.parameters(), lr=5e-2)
    truth = world.case.truth.expand(len(world.states), 1, -1)
    through = zopde.differentiable(solver, world.states[:, 0], truth, way=way)
    while True:
        optimizer.zero_grad()
        if data == "climate":
            loss = world.whitened(through, network()[None], draw).square().mean()
        else:
            loss = stepped(through, world.windows(draw), network()).square().mean()
        loss.backward()
        optimizer.step()
        yield


WAYS: dict[str, tuple[Way, int]] = {  # name -> way, iterations
    "climate, etki": (partial(ensemble, data="climate"), 20),
    "climate, localised": (partial(ensemble, data="climate", localised=True), 20),
    "climate, measured": (partial(descent, data="climate", way="coloured"), 5),
    "windows, etki": (partial(ensemble, data="windows"), 20),
    "windows, measured": (partial(descent, data="windows", way="coloured"), 150),
    "windows, identity": (partial(descent, data="windows", way="identity"), 150),
}


def raced(world: World, way: Way, iterations: int, seed: int) -> dict[str, Any]:
    """Solver steps until the goal, and the errors on the way there."""
    network, solver = world.case.network(), CountedSolver(world.plain)
    look = max(1, iterations // 20)
    reached, errors = None, [world.rmse(network)]
    moves = way(world, network, solver, seed)
    for iteration in range(1, iterations + 1):
        try:
            next(moves)
        except zopde.SolverError:  # its gradient left no numbers
            errors.append(math.nan)
            break
        if iteration % look:
            continue
        errors.append(world.rmse(network))
        if reached is None and errors[-1] <= GOAL:
            reached = solver.steps
    return {"to_goal": reached, "steps": solver.steps, "rmse": errors}


def main() -> None:
    """Race, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="61,1000")
    parser.add_argument("--ways", default=";".join(WAYS), help="apart by semicolons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.cases.split(","):
        world = World(cases()[name])
        for title in given.ways.split(";"):
            for seed in range(given.seeds):
                found = raced(world, *WAYS[title], seed)
                if given.json:
                    print(
                        json.dumps({"case": name, "way": title, "seed": seed, **found}), flush=True
                    )
                else:
                    what, steps = f"{name:>4} weights, {title}, seed {seed}", found["steps"]
                    ends = f"{steps} in all, rmse {found['rmse'][-1]:.2f}"
                    print(f"{what}: {found['to_goal']} steps to the goal, {ends}", flush=True)


if __name__ == "__main__":
    main()
