"""Find the forcing of a chaotic model that nobody can differentiate: one number, 40, or a network.

    python examples/14_lorenz96.py # two minutes; seeds may follow

The problems of Gjini, Morzfeld, Dunbar and Schneider, "The Ensemble Kalman Inversion Race" (2025):
Lorenz-96 with a forcing F = 8; with F[k] = 8 + 6 sin(4 pi k / 40), a number for each of 40
variables; with F(x) = 8 + 6 sin(4 pi x / 10) at 100 places, a network of 61 weights; and a drag of
1.3 where the model has 1. Their data are time means, which tell less than the states given here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import zopde

RUNS, SKIP, STEPS = 6, 200, 40


class Values(nn.Module):
    """A weight for each of so many places, or a single one for all of them."""

    def __init__(self, inputs: int, outputs: int, places: int = 1) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(outputs, places))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, place) -> (batch, outputs, place)."""
        return self.values.expand(x.shape[0], -1, x.shape[2])


class OfPlace(nn.Module):
    """A function of the place, x in [-5, 5), by 20 neurons that bend at different places."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 20), nn.Linear(20, outputs)
        self.enter.weight.data.fill_(1.0)
        self.enter.bias.data.copy_(torch.linspace(-5, 5, 20))
        self.leave.weight.data.zero_()  # start from the first guess
        self.leave.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, place) -> (batch, outputs, place)."""
        places = 10 * torch.arange(x.shape[2]).to(x)[:, None] / x.shape[2] - 5
        return self.leave(torch.tanh(self.enter(places))).T.expand(x.shape[0], -1, -1)


@dataclass(frozen=True)
class Case:
    """What is unknown in the model, "force" or "drag", and the network that finds it."""

    unknown: str
    truth: Tensor
    guess: float
    kind: str
    sizes: dict[str, int]
    iterations: int = 100


ONES, PLACES, MORE = torch.ones(40), torch.arange(40) / 40, torch.arange(100) / 100
WAVES, MORE_WAVES = (8 + 6 * torch.sin(4 * torch.pi * x) for x in (PLACES, MORE))
CASES = {
    "drag": Case("drag", 1.3 * ONES, 1.0, "Values", {}),
    "F, 1 weight": Case("force", 8 * ONES, 10.0, "Values", {}),
    "F[k], 40 weights": Case("force", WAVES, 8.0, "Values", {"places": 40}),
    "F(x), 61 weights": Case("force", MORE_WAVES, 8.0, "OfPlace", {}, 200),
}


def find(case: Case, folder: Path, seeds: list[int]) -> list[float]:
    """Errors, as shares of the truth: of the guess, then of what each seed found."""
    options, places = {"slow": len(case.truth), "unknown": case.unknown}, len(case.truth)
    model, truth = zopde.load_solver("lorenz96", options), case.truth.expand(RUNS, 1, -1)
    start = 2.5 + torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    states = zopde.rollout(model, start, SKIP + STEPS, lambda _: truth)[:, SKIP:]
    data = zopde.Trajectories(model.grid, states, torch.full_like(states, case.guess))
    zopde.save_trajectories(data, folder / "data.nc")
    inject = "parameter" if case.unknown == "drag" else "forcing"
    length, plain = f"{case.iterations} iterations", {"loss": "squares", "nudge": 0.0}
    tables: dict[str, Any] = {
        "solver": {"spec": "lorenz96", "options": options},
        "data": {"path": str(folder / "data.nc"), "coarse": [places], "train": 4, "test": 2},
        "corrector": {"kind": f"{__file__}:{case.kind}", "sizes": case.sizes, "inject": inject},
        "training": {"length": length, "unroll": 6, "lr": 5e-2, "init": "scratch", **plain},
        "interface": {"way": "coloured"},
        "run": {"labels": ["SRC", "ZO-interface"], "seeds": seeds},
    }
    zopde.run_correction(zopde.load_config(tables=tables), folder / "run")
    guess = torch.full((1, 1, places), case.guess)
    found = [guess]
    for path in sorted((folder / "run" / "ZO-interface").glob("seed-*/model.safetensors")):
        with torch.no_grad():
            answer = zopde.load_corrector(path)(states[:1, 0], guess)
        found.append(guess * answer.exp() if inject == "parameter" else guess + answer)
    return [float((one - case.truth).abs().mean() / case.truth.mean()) for one in found]


def main(*seeds: int, names: tuple[str, ...] = tuple(CASES)) -> dict[str, float]:
    """Print what was found of each; return the worst of the seeds' errors."""
    worst = {}
    for name in names:
        with TemporaryDirectory() as place:
            guess, *errors = find(CASES[name], Path(place), list(seeds) or [0])
        shown = ", ".join(f"{100 * error:.2f} %" for error in errors)
        print(f"{name:<17} first off by {100 * guess:4.1f} %, then by {shown}")
        worst[name] = max(errors)
    return worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
