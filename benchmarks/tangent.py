"""The tangent: what it asks the solver for, how well its gradients fit, and what it costs.

    python benchmarks/tangent.py --json
    python benchmarks/tangent.py --json --sizes wake-256x128 --ways tangent,nog,id

A corrector is trained a little on single steps and frozen. `cosine_n` and `relative_error_n`
compare its gradient through n steps with that through the solver's differentiable twin (SOL), on
windows of runs from which pairs were drawn, and in `unseen` on windows of runs from which none
was. `held_out_error` is |N d - J d| / |J d| of pairs that the tangent was not fitted to; all ways
are measured on the same. `solver_steps` are those that a way takes before its first gradient,
`seconds` what it takes before that, `fit_seconds` the part in which the solver rests. Each way of
each size has a process of its own, of which `peak_mib` is the memory; reference data and SOL's
gradients are made in another one before. The reference of the 3-D flow and of the largest wake has
half the viscosity, that of the others twice as many cells along each axis; a wake begins on 128 x
64 at most. The `emulator` is a network of about the tangent's size, fitted to the values of as many
solver steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from emulator import Convolutions, Emulator
from flows import SEEN, SIZES, reference, solver_of
from torch import Tensor

from zopde import (
    BankPullback,
    BlackBox,
    IdentityPullback,
    InterfaceSolver,
    Normalised,
    Solver,
    UnrolledObjective,
    Window,
)
from zopde.interface import (
    Bank,
    JacobianStore,
    Key,
    Probing,
    Pullback,
    Step,
    Watch,
    farthest_points,
)
from zopde.memory import keep_freed_memory
from zopde.tangent import Learning, Pairs, PairStore, TangentPullback, learn, smoothed_noise

UNROLLS = (8, 16, 32)
FIRST = 4  # state of a run at which the windows start
MU = 1e-3


SMALL = ("wake-64x32", "burgers-128x128", "flow3d-32", "wake-128x64")
WAYS = ("tangent", "nog", "id", "bank", "emulator")


class Timed:
    """A solver that counts its steps and their seconds."""

    def __init__(self, solver: Solver) -> None:
        self._solver, self.grid = BlackBox(solver), solver.grid
        self.steps, self.seconds = 0, 0.0

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """See `zopde.Solver`."""
        began = time.perf_counter()
        stepped = self._solver.step(state, forcing)
        self.seconds += time.perf_counter() - began
        self.steps += len(state)
        return stepped


class Case:
    """Solver, data and corrector of one size, and the gradients to compare with."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.size = options, SIZES[options.size]
        self.folder = Path(options.folder) / options.size
        self.folder.mkdir(parents=True, exist_ok=True)
        self.solver = solver_of(self.size)
        made = self.folder / "reference.pt"
        kept = torch.load(made) if made.exists() else None
        data = kept["data"] if kept else reference(self.size, options.seed)
        self.states, self.forcing = data
        self.scale = deviations(self.states[:SEEN])
        self.drive = None if self.forcing is None else deviations(self.forcing[:SEEN])
        torch.manual_seed(options.seed)
        drive = self.scale.new_zeros(0) if self.drive is None else self.drive
        axes, body = len(self.size.shape), Convolutions(self.solver.grid)
        self.network = Normalised(body, self.scale, drive, dims=axes)
        if kept:
            self.network.load_state_dict(kept["network"])
            self.sol = kept["sol"]
        else:
            self._train(options.train)
            twin = self.solver.differentiable_twin()
            self.sol = self.gradients(twin)
            kept = {"data": data, "network": self.network.state_dict(), "sol": self.sol}
            torch.save(kept, made)

    def drawn(self) -> tuple[Tensor, Tensor | None]:
        """The states that pairs are drawn from, and their forcing."""
        forcing = None if self.forcing is None else self.forcing[:SEEN, :-1].flatten(0, 1)
        return self.states[:SEEN, :-1].flatten(0, 1), forcing

    def _window(self, runs: Tensor, first: Tensor, unroll: int) -> Window:
        times = first[:, None] + torch.arange(unroll)
        forcing = None if self.forcing is None else self.forcing[runs[:, None], times]
        targets = self.states[runs[:, None], times + 1]
        return Window(None, targets, forcing, self.states[runs, first])

    def _train(self, iterations: int) -> None:
        """NON, for a gradient in every layer."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
        draw = torch.Generator().manual_seed(self.options.seed)
        batch = max(1, min(8, 2**15 // prod(self.size.shape)))
        for _ in range(iterations):
            runs = torch.randint(SEEN, (batch,), generator=draw)
            first = torch.randint(self.size.steps, (batch,), generator=draw)
            optimizer.zero_grad()
            self._loss(self.solver, self._window(runs, first, 1)).backward()
            optimizer.step()

    def _loss(self, solver: Solver, window: Window) -> Tensor:
        return UnrolledObjective(solver, window, self.scale)(self.network, 1)[0]

    def gradients(self, solver: Solver) -> dict[str, Tensor]:
        """Of all weights, by unroll, on windows of both kinds of runs."""
        found = {}
        for kind, run in (("seen", 0), ("unseen", SEEN)):
            runs = run + torch.arange(self.size.windows)
            for unroll in UNROLLS:
                self.network.zero_grad()
                window = self._window(runs, torch.full_like(runs, FIRST), unroll)
                self._loss(solver, window).backward()
                grads = [p.grad.flatten().double() for p in self.network.parameters()]
                found[f"{kind}_{unroll}"] = torch.cat(grads)
        return found

    def fits(self, solver: Solver) -> dict[str, Any]:
        """Cosines and relative errors of a way's gradients."""
        found = self.gradients(solver)

        def of(kind: str) -> dict[str, float]:
            figures = {}
            for unroll in UNROLLS:
                own, sol = found[f"{kind}_{unroll}"], self.sol[f"{kind}_{unroll}"]
                figures[f"cosine_{unroll}"] = float(torch.cosine_similarity(own, sol, dim=0))
                figures[f"relative_error_{unroll}"] = float((own - sol).norm() / sol.norm())
            return figures

        return {**of("seen"), "unseen": of("unseen")}


def deviations(values: Tensor) -> Tensor:
    """Standard deviation of every channel of (run, time, channel, *space)."""
    found = values.transpose(0, 2).flatten(1).std(dim=1)
    return torch.where(found > 0, found, 1.0)


def held_out_of(case: Case, push: Callable[..., Tensor]) -> float:
    """|N d - J d| / |J d|, root mean square, on the pairs that the tangent was not fitted to."""
    kept = torch.load(case.folder / "held-out.pt")
    pairs, off = Pairs.of("state", kept), []
    scale = case.scale.view(-1, *[1] * len(case.size.shape))
    for row in range(len(pairs)):
        state, forcing, moved, response = pairs.at(torch.tensor([row]))
        for n in range(moved.shape[1]):
            wrong = (push(state, forcing, moved[:, n]) - response[:, n]) / scale
            off.append((wrong.norm() / (response[:, n] / scale).norm()).square())
    return float(torch.stack(off).mean().sqrt().detach())


def tangent(case: Case, solver: Timed) -> tuple[Pullback, float]:
    """Learned, and its pairs kept for the other ways."""
    options, (states, forcing) = case.options, case.drawn()
    rounds = options.iterations or case.size.iterations
    settings = Learning(options.budget, width=options.width, iterations=rounds)
    probing = Probing(MU, states=min(512, max(5, 2**21 // prod(case.size.shape))), scale=case.scale)
    store = PairStore(case.folder / "pairs", "benchmark")
    with tempfile.TemporaryDirectory() as work:
        what = solver, states, forcing, {"state": probing}, settings, store, Path(work)
        learned = learn(*what, options.seed)
    torch.save(learned.held_out["state"].tensors(), case.folder / "held-out.pt")
    weights = sum(p.numel() for p in learned.tangent.parameters())
    spent = {"steps": learned.steps, "weights": weights, "iterations": rounds}
    (case.folder / "spent.json").write_text(json.dumps(spent))
    unwatched = Watch(torch.Generator(), at=())
    return TangentPullback(learned.tangent, watch=unwatched), learned.error["state"]


def nog(case: Case, solver: Timed) -> tuple[None, float]:  # noqa: ARG001 - as every way
    """No gradient through the solver: N = 0."""
    return None, 1.0


def identity(case: Case, solver: Timed) -> tuple[Pullback, float]:  # noqa: ARG001
    """N d = d."""
    return IdentityPullback(), held_out_of(case, lambda *given: given[-1])


def bank(case: Case, solver: Timed) -> tuple[Pullback, None] | None:
    """Jacobians at a few states that are far apart; its error on pairs is not taken."""
    if not case.size.snapshots:
        return None
    states, forcing = case.drawn()
    key = Key(case.scale, case.drive)
    groups = torch.arange(SEEN).repeat_interleave(case.size.steps)
    at = farthest_points(key(states, forcing).flatten(1), case.size.snapshots, groups)
    made = Bank(case.size.snapshots, key, probing=Probing(MU), store=JacobianStore())
    driven = None if forcing is None else forcing[at]
    made.add(Step(solver, states[at], driven, solver.step(states[at], driven)))
    return BankPullback(made, "nearest"), None


def emulator(case: Case, solver: Timed) -> tuple[Pullback, float]:
    """Fitted to the values of as many solver steps, in as many iterations."""
    spent, draw = json.loads((case.folder / "spent.json").read_text()), torch.Generator()
    states, forcing = case.drawn()
    draw.manual_seed(case.options.seed)
    rows = torch.randperm(len(states), generator=draw).repeat(spent["steps"] // len(states) + 1)
    rows, shape = rows[: spent["steps"]], states.shape[1:]
    near = smoothed_noise(len(rows), shape, solver.grid.periodic, draw, [7])
    near = near.mul_(0.02 * case.scale.view(-1, *[1] * (len(shape) - 1))).add_(states[rows])
    calls = [
        solver.step(near[n : n + 64], None if forcing is None else forcing[rows[n : n + 64]])
        for n in range(0, len(rows), 64)
    ]
    stepped = torch.cat(calls)
    torch.manual_seed(case.options.seed)
    network = Emulator(solver.grid, case.scale, case.drive, spent["weights"])
    batch = max(1, min(16, 2**15 // prod(case.size.shape)))
    network.learn(near, forcing, rows, stepped, batch, 2 * spent["iterations"])

    def back(step: Step, cotangent: Tensor) -> Tensor:
        with torch.enable_grad():
            point = step.state.detach().requires_grad_()
            (product,) = torch.autograd.grad(network(point, step.forcing), point, cotangent)
        return product

    def push(state: Tensor, forcing: Tensor | None, moved: Tensor) -> Tensor:
        _, pushed = torch.func.jvp(lambda point: network(point, forcing), (state,), (moved,))
        return pushed

    return back, held_out_of(case, push)


MAKE: Mapping[str, Callable[[Case, Timed], Any]] = {
    **{"tangent": tangent, "nog": nog, "id": identity, "bank": bank, "emulator": emulator}
}


def measure(options: argparse.Namespace) -> dict[str, Any] | None:
    """One way at one size, in this process."""
    case = Case(options)
    if options.way == "reference":
        return None
    solver, began = Timed(case.solver), time.perf_counter()
    made = MAKE[options.way](case, solver)
    if made is None:
        return None
    seconds, steps, waited = time.perf_counter() - began, solver.steps, solver.seconds
    pullback, error = made
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    way = BlackBox(case.solver) if pullback is None else InterfaceSolver(solver, pullback)
    return {
        "solver_steps": steps,
        "held_out_error": error,
        **case.fits(way),
        "seconds": seconds,
        "fit_seconds": seconds - waited,
        "peak_mib": peak,
    }


def in_turn(options: argparse.Namespace, size: str, folder: str) -> dict[str, Any]:
    """All ways at one size, each in a process of its own."""
    found = {}
    for way in ("reference", *options.ways.split(",")):
        given = {k: v for k, v in vars(options).items() if k not in ("json", "sizes", "ways")}
        given |= {"size": size, "way": way, "folder": folder}
        command = [sys.executable, __file__, *(f"--{k}={v}" for k, v in given.items())]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found[way] = json.loads(done.stdout)
    own = found.pop("tangent", None) or {}
    del found["reference"]
    return {**own, "others": found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--sizes", default=",".join(SMALL), help=f"of {', '.join(SIZES)}; or all")
    parser.add_argument("--ways", default=",".join(WAYS), help="tangent first")
    parser.add_argument("--folder", default="", help="where data and pairs are kept for reruns")
    parser.add_argument("--budget", type=int, default=1280, help="solver steps for the tangent")
    parser.add_argument("--width", type=int, default=16, help="channels of the tangent")
    parser.add_argument("--iterations", type=int, default=0, help="of a round; 0: the size's own")
    parser.add_argument("--train", type=int, default=200, help="NON iterations beforehand")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and pairs")
    parser.add_argument("--size", default="", help="of the one process that is this")
    parser.add_argument("--way", default="", help="likewise")
    options = parser.parse_args()
    if options.way:
        keep_freed_memory()
        print(json.dumps(measure(options)))
        return
    names = list(SIZES) if options.sizes == "all" else options.sizes.split(",")
    with tempfile.TemporaryDirectory() as folder:
        sizes = {name: in_turn(options, name, options.folder or folder) for name in names}
    if options.json:
        print(json.dumps({"sizes": sizes, "threads": torch.get_num_threads()}))
        return
    for name, figures in sizes.items():
        for way, each in {"tangent": figures, **figures["others"]}.items():
            kept = {k: v for k, v in (each or {}).items() if isinstance(v, int | float)}
            print(name, way, " ".join(f"{key} {value:.6g}" for key, value in kept.items()))


if __name__ == "__main__":
    main()
