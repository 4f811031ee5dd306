"""A Fortran code in the loop: a run per step, a program that stays alive, a shared library.

    python examples/06_fortran.py mine     # needs gfortran; leaves what it built in ./mine
    zopde check solver mine/pipe.toml      # all that was found; or command.toml, ctypes.toml

The same subroutine (`fortran/transport.f90`: a tracer in a known wind, upwind, far too diffusive
on 16 x 16 cells) is built three times, and plugged in by three small tables beside it. The three
answer with the same bits; what a step and a gradient cost, `check_solver` says. Then a network of
326 weights learns, through the resident program, to put back what the coarse grid loses: the code
is asked for its vector-Jacobian product by queries, 16 of them for the 256 entries of a state.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
    check_solver,
    downsample,
    load_config,
    load_solver,
    rollout,
    rollout_error,
)

SOURCES = Path(__file__).parent / "fortran"
STEPS, UNROLL = 40, 4


def build(folder: Path) -> dict[str, str]:
    """Compile the subroutine into two programs and a library; the table of each way in."""
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    for words in ("once.f90 -o once", "resident.f90 -o resident", "-shared -fPIC -o libstep.so"):
        command = ["gfortran", "-O2", "transport.f90", *words.split()]
        subprocess.run(command, cwd=folder, check=True)
    return {way: str(folder / f"{way}.toml") for way in ("command", "pipe", "ctypes")}


def reference(folder: Path, blobs: int, seed: int) -> Trajectories:
    """Round blobs in the wind, by the library on a grid 4 x finer, brought to 16 x 16."""
    fine = load_solver(str(folder / "ctypes.toml"), {"grid": {"shape": [64, 64]}})
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


def costs(table: str) -> dict[str, float]:
    """What `zopde check solver` says of a step, and of a gradient over 16 steps of 2 windows."""
    found = check_solver(load_config(tables={"solver": {"spec": table}}))
    (timed,) = (point for point in found.points if point.name == "time")
    seconds = {row.cut: row.seconds for row in found.costs}
    return {
        "ms a step": 1e3 * timed.values["in_batch"],
        "s a gradient, coloured": seconds["interface, coloured"],
        "s a gradient, weights": seconds["weights"],
    }


def main(folder: Path) -> dict[str, float]:
    """Build, compare the ways, train on four blobs, judge on two others."""
    if shutil.which("gfortran") is None:
        print("skipped: no gfortran here (Debian, Ubuntu: apt install gfortran)")
        return {}
    tables = build(folder)
    states = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    ways = {way: load_solver(table) for way, table in tables.items()}
    answers = [solver.step(states) for solver in ways.values()]
    found = {"equal bits": float(all(answer.equal(answers[0]) for answer in answers))}
    for way, table in tables.items():
        found |= {f"{what}, {way}": value for what, value in costs(table).items()}
    data, test = reference(folder, 4, seed=0), reference(folder, 2, seed=1)
    corrected = train(ways["pipe"], data)
    for label, stepper in (("SRC", ways["pipe"]), ("ZO-interface", corrected)):
        predicted = rollout(stepper, test.states[:, 0], STEPS)
        found[label] = float(rollout_error(predicted, test.states).mae.mean())
    return found


if __name__ == "__main__":
    for what, value in main(Path(*sys.argv[1:2] or [tempfile.mkdtemp()])).items():
        print(f"{what:<32} {value:.4f}")
