"""Gradients of classifiers by units against gradients by weights: queries, seconds, errors.

    python benchmarks/units.py --json

Random images and labels; networks with GroupNorm, in train mode, in float32. Both sides are zopde's
own oracles with the same probes per pass, in the same run, the two taking turns, none verified (a
training does it now and then). `rest` is the last block and the head of ResNet-20 alone: the
weights in front are frozen. The whole ResNet-20 is only counted. `cosine` is with float32
back-propagation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from zopde import WeightOracle, cge
from zopde.memory import keep_freed_memory
from zopde.nets import CifarResNet, SmallCNN
from zopde.oracle import UnitOracle
from zopde.training import CrossEntropy
from zopde.zo import Estimate, unitwise


def mlp() -> nn.Module:
    """Images of 28 x 28 in gray, two hidden layers."""
    layers = [nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def rest() -> nn.Module:
    """ResNet-20 whose last block and head are trained."""
    net = CifarResNet(3, 10, groups=8).requires_grad_(False)
    for module in (net.stages[2][2], net.head):
        module.requires_grad_(True)
    return net


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (1, 28, 28)),
    "cnn-12610": (lambda: SmallCNN(3, 10, 5, groups=6), (3, 32, 32)),
    "rest": (rest, (3, 32, 32)),
}


def data(shape: tuple[int, ...], batch: int, seed: int) -> CrossEntropy:
    """Random images and labels."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *shape, generator=draw)
    return CrossEntropy(x, torch.randint(10, (batch,), generator=draw))


def exact(network: nn.Module, loss: CrossEntropy) -> Tensor:
    """The gradient by back-propagation."""
    weights = [p for p in network.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss(network, 1).sum(), weights)
    return torch.cat([slope.flatten() for slope in slopes])


def both(
    network: nn.Module, loss: CrossEntropy, chunk: int, mu: float, units_first: bool
) -> dict[str, float]:
    """Queries, seconds and cosines of both ways; each begins with nothing known."""
    ways: dict[str, Callable[[], Estimate]] = {
        "weights": lambda: cge(WeightOracle(network, loss, chunk, verify=False), mu=mu),
        "units": lambda: unitwise(UnitOracle(network, loss, chunk, verify=False), mu=mu),
    }
    truth, row = exact(network, loss), dict[str, float]()
    for name in sorted(ways, reverse=not units_first):
        began = time.perf_counter()
        found = ways[name]()
        row[f"{name}_seconds"] = time.perf_counter() - began
        row[f"{name}_queries"] = found.queries
        row[f"{name}_cosine"] = float(torch.cosine_similarity(found.gradient, truth, dim=0))
    return {**row, "ratio": row["weights_seconds"] / row["units_seconds"]}


def compare(name: str, batch: int, chunk: int, mu: float, repeats: int) -> dict[str, float]:
    """Medians over seeds; the two ways take turns in going first."""
    make, shape = CASES[name]
    rows = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        rows.append(both(make(), data(shape, batch, seed), chunk, mu, seed % 2 == 0))
    return {key: median(row[key] for row in rows) for key in rows[0]}


def counted(batch: int) -> dict[str, int]:
    """Queries of a gradient of the whole ResNet-20; none is asked but the base."""
    network, loss = CifarResNet(3, 10, groups=8), data((3, 32, 32), batch, 0)
    oracle = UnitOracle(network, loss, verify=False)
    oracle.samples()
    total = oracle.num_coordinates
    units, weights = oracle.cheaper(torch.arange(total))
    return {"weights_queries": total + 1, "units_queries": len(units) + len(weights) + 1}


def main() -> None:
    """Print a line per case, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--mu", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    results: dict[str, object] = {"batch": args.batch, "chunk": args.chunk, "mu": args.mu}
    for name in args.cases:
        results[name] = compare(name, args.batch, args.chunk, args.mu, args.repeats)
        if not args.json:
            print(name, results[name])
    results["resnet-20, counted"] = counted(2)
    print(json.dumps(results, indent=2) if args.json else results["resnet-20, counted"])


if __name__ == "__main__":
    main()
