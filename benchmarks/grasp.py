"""ZO-GraSP against exact GraSP on the quick corrector's Burgers objective.

    python benchmarks/grasp.py --json

The corrector of 1,026 weights, trained for a while on stored data (one step, as `zopde correct`
starts its labels), is scored on one batch of an unrolled loss in double precision: exactly,
through the differentiable twin, and from q random directions per gradient, for several seeds.
`spearman` is the rank correlation of the two over all weights. What DeepZero uses of a score is
only how many weights each layer keeps, so `misplaced` is the share of the active weights that a
mask of the estimated ratios puts into another layer than one of the exact ratios; masks with the
same ratio in every layer are off by `uniform_misplaced`.
"""

from __future__ import annotations

import argparse
import json
from statistics import mean, stdev

import torch
from scipy.stats import spearmanr

from zopde import (
    ConvCorrector,
    Normalised,
    UnrolledObjective,
    Window,
    downsample,
    load_solver,
    simulate,
)
from zopde.sparsity import LayerRatios, Scores, grasp_scores, layer_ratios, zo_grasp_scores


class Case:
    """A corrector after some one-step training, and one batch of an unrolled loss."""

    def __init__(self, batch: int, unroll: int, iterations: int) -> None:
        torch.manual_seed(0)
        self.solver = load_solver("burgers").at((32, 32))
        data = simulate(
            self.solver.at((128, 128)),
            lambda fine: downsample(fine, (32, 32)),
            self.solver.grid,
            simulations=batch,
            skip=30,
            steps=40,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        )
        self.data, self.scale = data, data.state_scale()
        body = ConvCorrector(4, 2)
        self.network = Normalised(body, self.scale, data.forcing_scale()).double()
        self._train(iterations)
        self.window = self._window(20, unroll)

    def objective(self, differentiable: bool) -> UnrolledObjective:
        """The unrolled loss, through the solver or its twin."""
        solver = self.solver.differentiable_twin() if differentiable else self.solver
        return UnrolledObjective(solver, self.window, self.scale)

    def _window(self, start: int, unroll: int) -> Window:
        states, forcing = self.data.states, self.data.forcing[:, start : start + unroll]
        stepped = self.solver.step(states[:, start], forcing[:, 0])
        return Window(stepped, states[:, start + 1 : start + unroll + 1], forcing)

    def _train(self, iterations: int) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-2)
        windows = [self._window(start, 1) for start in range(self.data.steps)]
        for i in range(iterations):
            loss = UnrolledObjective(self.solver, windows[i % len(windows)], self.scale)
            optimizer.zero_grad()
            loss(self.network, 1)[0].backward()
            optimizer.step()


def misplaced(found: LayerRatios, expected: LayerRatios) -> float:
    """Share of the maskable active weights that lie in another layer."""
    pairs = [(a, b) for a, b in zip(found.layers, expected.layers, strict=True) if a.maskable]
    return sum(abs(a.active - b.active) for a, b in pairs) / 2 / sum(b.active for _, b in pairs)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """The table, one row per number of directions."""
    case = Case(options.batch, options.unroll, options.iterations)
    exact = grasp_scores(case.network, case.objective(differentiable=True))
    wanted = layer_ratios(case.network, exact, options.sparsity)
    # Equal scores everywhere would prune from the end; a random order prunes evenly.
    draws = [torch.Generator().manual_seed(seed) for seed in range(options.seeds)]
    even = [Scores(torch.rand(len(exact.values), generator=draw), 0) for draw in draws]
    uniform = [layer_ratios(case.network, scores, options.sparsity) for scores in even]
    rows = []
    for q in options.directions:
        ranks, shares = [], []
        for seed in range(options.seeds):
            draw = torch.Generator().manual_seed(seed)
            objective = case.objective(differentiable=False)
            scores = zo_grasp_scores(case.network, objective, q, options.mu, generator=draw)
            ranks.append(float(spearmanr(scores.values, exact.values).statistic))
            shares.append(misplaced(layer_ratios(case.network, scores, options.sparsity), wanted))
        rows.append(
            {
                "directions": q,
                "queries": scores.queries,
                "spearman": mean(ranks),
                "spearman_std": stdev(ranks),
                "misplaced": mean(shares),
            }
        )
    return {
        "weights": len(exact.values),
        "seeds": options.seeds,
        "mu": options.mu,
        "sparsity": options.sparsity,
        "rows": rows,
        "uniform_misplaced": mean(misplaced(ratios, wanted) for ratios in uniform),
        "exact_ratios": str(wanted),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--directions", type=int, nargs="+", default=[48, 192, 768, 3072])
    parser.add_argument("--seeds", type=int, default=4, help="draws of directions, >= 2")
    parser.add_argument("--mu", type=float, default=1e-3, help="finite-difference step")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the layer ratios")
    parser.add_argument("--batch", type=int, default=2, help="windows side by side")
    parser.add_argument("--unroll", type=int, default=4, help="corrected steps in the loss")
    parser.add_argument("--iterations", type=int, default=200, help="of training before")
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'q':>6} {'queries':>8} {'Spearman':>9} {'+-':>6} {'misplaced':>10}")
    for row in result["rows"]:
        print(
            f"{row['directions']:>6} {row['queries']:>8} {row['spearman']:>9.3f} "
            f"{row['spearman_std']:>6.3f} {100 * row['misplaced']:>8.1f} %"
        )
    print(f"the same ratio in every layer: {100 * result['uniform_misplaced']:.1f} % misplaced")
    print(f"exact GraSP's layers:\n{result['exact_ratios']}")


if __name__ == "__main__":
    main()
