"""How near a bank's gradient comes to autograd: by lookup, number of Jacobians and unroll.

    python benchmarks/lookup.py --json

The cases of `cuts.py`: the wake at 64 x 32 (4,096 entries, 64 MiB a Jacobian) with 6 and 12
snapshots, and Burgers at 32 x 32 (2,048 entries) with 10 and 40, windows of 8, 16 and 32 steps.
NOG, which takes the solver's Jacobian for zero, stands beside them.

`seconds` is the time of one gradient: "fitted" reads every Jacobian of the bank at every product,
"nearest" one for each state.

Burgers' semi-Lagrangian step interpolates on the side from which the flow comes, so its Jacobian
jumps wherever a velocity changes its sign, cell by cell: no whole state is near enough. The wake's
is smooth enough for "fitted" weights: the error of the nearest snapshot less a third to two
thirds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from cuts import Case

from zopde import BankPullback, InterfaceSolver, Solver
from zopde.blackbox import BlackBox
from zopde.interface import LOOKUPS, JacobianStore
from zopde.memory import keep_freed_memory

SNAPSHOTS = {"wake": (6, 12), "burgers": (10, 40)}
BATCH = {"wake": 6, "burgers": 4}
UNROLLS = (8, 16, 32)


def compare(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Cosine and relative error of every lookup."""
    case, rows = Case(options), []
    black_box, store = BlackBox(case.solver), JacobianStore(folder)

    def row(way: str, snapshots: int, solver: Solver) -> None:
        began = time.perf_counter()
        both = case.gradient(solver).double(), case.sol.double()
        seconds = time.perf_counter() - began
        cosine = float(torch.cosine_similarity(*both, dim=0))
        error = float((both[0] - both[1]).norm() / both[1].norm())
        said = {"solver": options.solver, "unroll": options.unroll, "way": way}
        figures = {"cosine": cosine, "error": error, "seconds": seconds}
        rows.append({**said, "snapshots": snapshots, **figures})

    for unroll in options.unrolls:
        case.look(unroll)
        row("NOG", 0, black_box)
        for count in SNAPSHOTS[options.solver]:
            bank = case.bank(black_box, count, store)
            for lookup in LOOKUPS:
                pullback = BankPullback(bank, lookup)
                row(lookup, count, InterfaceSolver(black_box, pullback))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--solver", choices=SNAPSHOTS, help="only one of the two")
    parser.add_argument("--train", type=int, default=100, help="NON iterations beforehand")
    parser.add_argument("--mu", type=float, default=1e-3, help="finite-difference step")
    parser.add_argument("--seed", type=int, default=0, help="of data and weights")
    parser.add_argument("--unrolls", type=int, nargs="+", default=UNROLLS, help="steps")
    options = parser.parse_args()
    keep_freed_memory()
    found: dict[str, Any] = {"cosines": [], "threads": torch.get_num_threads()}
    for solver in [options.solver] if options.solver else list(SNAPSHOTS):
        options.solver, options.batch, options.unroll = solver, BATCH[solver], options.unrolls[0]
        with TemporaryDirectory() as folder:
            found["cosines"] += compare(options, Path(folder))
    if options.json:
        print(json.dumps(found))
        return
    for row in found["cosines"]:
        print(" ".join(f"{key} {_figure(value)}" for key, value in row.items()))


def _figure(value: object) -> str:
    return f"{value:.5f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
