"""A Fortran code in the loop: a run per step, a program that stays alive, a shared library.

    python examples/06_fortran.py          # needs gfortran

The same subroutine (`fortran/transport.f90`: a tracer in a known wind, upwind, far too diffusive
on 16 x 16 cells) is built three times, and plugged in through `command`, `pipe` and `ctypes`.
The three answer with the same bits and differ in what a step costs. Then a network of 326 weights
learns, through the resident program, to put back what the coarse grid loses: the code is asked
for its vector-Jacobian product by queries, 16 of them for the 256 entries of a state.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from zopde import (
    ColouredPullback,
    ConvCorrector,
    CorrectedSolver,
    InterfaceSolver,
    Normalised,
    Solver,
    Trajectories,
    UnrolledObjective,
    Window,
    downsample,
    load_solver,
    rollout,
    rollout_error,
)

SOURCES = Path(__file__).parent / "fortran"
STEPS, UNROLL = 40, 4
GRID = {"shape": [16, 16], "extent": [16.0, 16.0], "dt": 0.1, "channels": ["tracer"]}


def build(folder: Path) -> None:
    """Compile the subroutine into two programs and a library."""
    for words in ("once.f90 -o once", "resident.f90 -o resident", "-shared -fPIC -o libstep.so"):
        names = ["transport.f90", *words.split()]
        files = [str(SOURCES / name) if name.endswith(".f90") else name for name in names]
        subprocess.run(["gfortran", "-O2", *files], cwd=folder, check=True)


def ways_in(folder: Path) -> dict[str, Solver]:
    """The same code as three solvers; in a file of your own, these are TOML tables."""
    tables: dict[str, dict[str, Any]] = {
        "command": {"command": ["./once"], "files": "raw"},
        "pipe": {"command": ["./resident"]},
        "ctypes": {"library": "libstep.so"},
    }
    common = {"grid": GRID, "home": str(folder)}
    return {way: load_solver(way, {**common, **table}) for way, table in tables.items()}


def reference(folder: Path, blobs: int, seed: int) -> Trajectories:
    """Round blobs in the wind, by the library on a grid 4 x finer, brought to 16 x 16."""
    grid, library = {**GRID, "shape": [64, 64]}, str(folder / "libstep.so")
    fine = load_solver("ctypes", {"grid": grid, "library": library})
    centres = torch.tensor(fine.grid.centres(0))
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    cy, cx = 5 + 6 * torch.rand(2, blobs, 1, 1, generator=torch.Generator().manual_seed(seed))
    initial = torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 6)[:, None]
    states = rollout(fine, initial, STEPS)
    kept = downsample(states.flatten(0, 1), (16, 16)).unflatten(0, states.shape[:2])
    return Trajectories(fine.grid.with_shape((16, 16)), kept)


def train(solver: Solver, data: Trajectories) -> CorrectedSolver:
    """Adam on four corrected steps, back-propagated through the code's interface by queries."""
    torch.manual_seed(0)
    body = ConvCorrector(inputs=1, outputs=1, width=5, depth=3)
    network = Normalised(body, data.state_scale(), data.forcing_scale())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    through = InterfaceSolver(solver, ColouredPullback(solver.grid, radius=(1, 1)))
    for iteration in range(60):
        first = iteration % (STEPS - UNROLL)
        targets = data.states[:, first + 1 : first + 1 + UNROLL]
        window = Window(solver.step(data.states[:, first]), targets)
        optimizer.zero_grad()
        UnrolledObjective(through, window, data.state_scale())(network, 1).sum().backward()
        optimizer.step()
    return CorrectedSolver(solver, network)


def main() -> dict[str, float]:
    """Build, compare the ways, train on four blobs, judge on two others."""
    if shutil.which("gfortran") is None:
        print("skipped: no gfortran here (Debian, Ubuntu: apt install gfortran)")
        return {}
    found = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        ways = ways_in(folder)
        states = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(2))
        answers = {way: solver.step(states) for way, solver in ways.items()}
        found["equal bits"] = float(all(a.equal(answers["pipe"]) for a in answers.values()))
        for way, solver in ways.items():
            began = time.perf_counter()
            solver.step(states)
            found[f"ms a step, {way}"] = 1e3 * (time.perf_counter() - began) / len(states)
        data, test = reference(folder, 4, seed=0), reference(folder, 2, seed=1)
        corrected = train(ways["pipe"], data)
        for label, stepper in (("SRC", ways["pipe"]), ("ZO-interface", corrected)):
            predicted = rollout(stepper, test.states[:, 0], STEPS)
            found[label] = float(rollout_error(predicted, test.states).mae.mean())
    return found


if __name__ == "__main__":
    for what, value in main().items():
        print(f"{what:<22} {value:.4f}")
