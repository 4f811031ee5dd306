"""One correction every k solver steps: what each derivative is worth as they lie farther apart.

    python benchmarks/interval.py kuramoto-sivashinsky runs/interval --seeds 3
    python benchmarks/interval.py burgers runs/interval --seeds 3 --way ZO-tangent

The error of the unseen runs, by label, for k = 1, 4 and 16 (windows of 16, 8 and 4 corrections),
with the correction after the steps (from NON, the preset's training) and before them (from scratch,
400 iterations, learning rate 1e-2). Errors of another k are means over other times: compare within
one. Every run has a folder of its own, goes on from there, and shows its whole table. At the end
come a table as Markdown and a picture, both in the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

import zopde

COLOURS = {"SRC": "0.3", "NON": "C8", "NOG": "C2", "ID": "C4", "SOL": "C6"}
WINDOWS = {1: 16, 4: 8, 16: 4}  # k -> corrections of a window
PRESET = {"kuramoto-sivashinsky": "every-step"}  # of the others: quick
FREE = {"after": ["SRC", "NON", "NOG", "ID"], "before": ["SRC", "ID"]}


def mae_of(solver: str, every: int, inject: str, way: str, seeds: int, folder: Path) -> Any:  # noqa: ANN401
    """Label -> mean and seeds of the error."""
    tables: dict[str, Any] = {
        "solver": {"spec": solver},
        "corrector": {"inject": inject, "every": every},
        "training": {"unroll": WINDOWS[every], "look_every": 0},
        "run": {"labels": [*FREE[inject], way, "SOL"], "seeds": list(range(seeds))},
    }
    if inject == "before":
        tables["training"] |= {"init": "scratch", "lr": 1e-2, "length": "400 iterations"}
    config = zopde.load_config(PRESET.get(solver, "quick"), tables=tables)
    return zopde.run_correction(config, folder, resume=folder.exists())["mae"]


def drawn(found: dict[str, dict[int, Any]], solver: str) -> Figure:
    """Error over k, a panel for each place of the correction."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    for axes, (inject, runs) in zip(figure.subplots(1, 2, sharey=True), found.items(), strict=True):
        axes.set(xscale="log", yscale="log", title=f"{solver}, correction {inject} the steps")
        axes.set(xlabel="solver steps to a correction", xticks=list(runs), xticklabels=list(runs))
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        for label in runs[1]:
            seeds = [[fmean(of) for of in runs[every][label]["runs"]] for every in runs]
            low, high = [min(of) for of in seeds], [max(of) for of in seeds]
            means, colour = [runs[every][label]["mean"] for every in runs], COLOURS.get(label, "C1")
            style = (
                "s--" if label == "SOL" else "o-"
            )  # the exact derivative lies on the measured one
            axes.plot(list(runs), means, style, color=colour, label=label)
            axes.fill_between(list(runs), low, high, color=colour, alpha=0.12, lw=0)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("mean absolute error, and what seeds reach")
    return figure


def main() -> None:
    """Train what is missing, and show all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("solver")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--way", default="ZO-interface", help="the label of the measured derivative"
    )
    given = parser.parse_args()
    found: dict[str, dict[int, Any]] = {"after": {}, "before": {}}
    for inject, runs in found.items():
        for every in WINDOWS:
            folder = given.folder / f"{given.solver}-{every}-{inject}"
            how = given.solver, every, inject, given.way, given.seeds
            runs[every] = mae_of(*how, folder)
    lines = ["| correction | k | label | MAE | ± seeds |", "|---|---|---|---|---|"]
    for inject, runs in found.items():
        for every, mae in runs.items():
            for label, of in mae.items():
                spread = f"{of['std_over_seeds']:.4f}" if of["std_over_seeds"] else ""
                lines.append(f"| {inject} | {every} | {label} | {of['mean']:.4f} | {spread} |")
    print(*lines, sep="\n")
    (given.folder / f"{given.solver}.md").write_text("\n".join(lines) + "\n")
    drawn(found, given.solver).savefig(given.folder / f"{given.solver}.png", dpi=150)


if __name__ == "__main__":
    main()
