"""The wake of a cylinder: train through a black box as if it could be differentiated.

    python examples/04_wake.py

Reference: a 64 x 32 flow brought to 32 x 16 cells, at four Reynolds numbers; a network of 1,306
weights learns to put back what the coarse grid loses, and is judged at two it has not seen.
ZO-interface back-propagates through eight steps of the solver without asking it for a gradient:
six Jacobians, measured by queries before the training starts, stand in for it. A flow solver of
your own takes the place of "wake" by its name, `my_solver.py:MySolver`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zopde import load_config, run_correction

SETTINGS = """
[solver]
spec = "wake"
options = { reynolds = [100, 200, 400, 800, 150, 600] }  # the last two are the unseen ones

[data]
fine = [64, 32]
coarse = [32, 16]
skip = 300
steps = 100
train = 4
test = 2

[corrector]
kind = "conv"
sizes = { width = 8, depth = 4, kernel = 3 }

[non]  # one step on stored data: where the others start
length = "300 iterations"
batch = 16
lr = 1e-2

[training]
length = "100 iterations"
batch = 2
unroll = 12
lr = 2e-3

[interface]
way = "bank"
snapshots = 6

[run]
labels = ["SRC", "NON", "ZO-interface", "SOL"]
"""


def main() -> dict[str, Any]:
    """Compare no correction, stored data, and two ways through the solver."""
    with TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.toml"
        settings.write_text(SETTINGS, encoding="utf-8")
        return run_correction(load_config(file=settings), Path(folder) / "run")


if __name__ == "__main__":
    found = main()
    for label in found["labels"]:
        error, steps = found["mae"][label]["mean"], found["solver_steps"][label]
        print(f"{label:<13} mean absolute error {error:.4f}, {steps:>6,} solver steps")
