"""Deciding whether an answer holds within a radius: how often wrongly, and from how many answers.

    python benchmarks/decide.py --picture docs/decide.png
    python benchmarks/decide.py --images 300 --model runs/defend/.../model.safetensors
    python benchmarks/decide.py --images 300 --data FASHION-MNIST

The first one simulates votes: 100,000 decisions of which "yes" is wrong, half with a probability at
the threshold itself and half a little below, with Clopper and Pearson's interval; then the mean of
the answers against the probability, of zopde's mixture and of two others that are valid, too:

- `union`: Clopper and Pearson's bounds at the same looks, the j-th at alpha / (j (j + 1)), so that
  the errors of all looks add up to alpha. Confidence sequences of that kind for randomized
  smoothing: Voracek, NeurIPS 2024, arXiv 2406.17830.
- `two-sided`: the mixture over all probabilities, with Krichevsky and Trofimov's weight.

The others certify images in both ways, by a number of answers that is fixed and by `Smooth.decide`,
and compare which images are certified, and what it took. Without `--model` a small network is
trained under noise first. `--json` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from zopde import Smooth, load_images
from zopde.smoothing import looks, lower_bound, thresholds, upper_bound, verdict
from zopde.studies.certify import load_base_classifier

SIGMA, ALPHA, N0, N = 0.25, 0.001, 100, 10_000
RADII = (0.25, 0.5)
Says = Callable[[int, int, int, float], str]  # (successes, trials, number of the look, threshold)


def mixture(successes: int, trials: int, look: int, threshold: float) -> str:  # noqa: ARG001
    """What zopde does."""
    return verdict(successes, trials, threshold, ALPHA)


def union(successes: int, trials: int, look: int, threshold: float) -> str:
    """Each look at a share of alpha."""
    alpha = ALPHA / (look * (look + 1))
    if lower_bound(successes, trials, alpha) > threshold:
        return "yes"
    return "no" if upper_bound(successes, trials, alpha) < threshold else "undecided"


def two_sided(successes: int, trials: int, look: int, threshold: float) -> str:  # noqa: ARG001
    """The mixture over both sides of the threshold."""
    failures = trials - successes
    whole = math.lgamma(successes + 0.5) + math.lgamma(failures + 0.5) - math.lgamma(trials + 1)
    prior = math.log(math.pi)
    ratio = successes * math.log(threshold) + failures * math.log1p(-threshold)
    if whole - prior - ratio < -math.log(ALPHA):
        return "undecided"
    return "yes" if successes > trials * threshold else "no"


METHODS: dict[str, Says] = {"mixture": mixture, "union": union, "two-sided": two_sided}


def bounds(says: Says, threshold: float) -> list[tuple[int, int, int]]:
    """(answers, "no" below, "yes" from) at each look: a verdict rises with the successes."""
    found = []
    for number, look in enumerate(looks(N), start=1):
        rank = {"no": 0, "undecided": 1, "yes": 2}
        counts = range(look + 1)

        def of(k: int, look: int = look, number: int = number) -> int:
            return rank[says(k, look, number, threshold)]  # noqa: B023 - used at once

        found.append((look, bisect_left(counts, 1, key=of), bisect_left(counts, 2, key=of)))
    return found


def simulate(
    limits: list[tuple[int, int, int]],
    p: Any,  # noqa: ANN401 - an array
    draw: np.random.Generator,
) -> tuple[Any, Any]:
    """(whether "yes", answers) of one decision for each probability."""
    hits, asked = np.zeros(len(p), int), 0
    answers, yes, open_ = np.full(len(p), N), np.zeros(len(p), bool), np.ones(len(p), bool)
    for look, low, high in limits:
        hits += draw.binomial(look - asked, p)
        asked = look
        ends = open_ & ((hits < low) | (hits >= high))
        answers[ends], yes[ends] = look, hits[ends] >= high
        open_ &= ~ends
    return yes, answers


def errors(count: int) -> dict[str, Any]:
    """Wrong "yes" among so many decisions, per method and radius."""
    found: dict[str, Any] = {}
    for name, says in METHODS.items():
        for radius, threshold in zip(RADII, thresholds(RADII, SIGMA, ALPHA, N), strict=True):
            draw = np.random.default_rng(0)
            below = np.where(np.arange(count) % 2, 0.0, draw.uniform(0, 0.02, count))
            yes, _ = simulate(bounds(says, threshold), threshold - below, draw)
            at = yes[below == 0]
            for where, of in (("at", at), ("at and below", yes)):
                wrong = int(of.sum())
                band = [each(wrong, len(of), 0.025) for each in (lower_bound, upper_bound)]
                found[f"{name}, {radius}, {where}"] = {"wrong": wrong, "of": len(of), "band": band}
    return found


def answers_needed(path: Path | None, count: int) -> dict[str, Any]:
    """Mean answers over the probability, drawn where a path is given."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    found: dict[str, Any] = {}
    limits = thresholds(RADII, SIGMA, ALPHA, N)
    for axes, radius, limit in zip(
        figure.subplots(1, len(RADII), sharey=True), RADII, limits, strict=True
    ):
        grid = np.linspace(max(0.5, 1 - 5 * (1 - limit)), 1.0, 101)
        for name, says in METHODS.items():
            rules, draw = bounds(says, limit), np.random.default_rng(0)
            means = [simulate(rules, np.full(count, p), draw)[1].mean() for p in grid]
            found[f"{name}, {radius}"] = dict(zip(grid.round(3).tolist(), means, strict=True))
            axes.plot(grid, means, "-" if name == "mixture" else "--", label=name)
        axes.axhline(N, color="0.4", lw=1, label=f"fixed, n = {N:,}")
        axes.axvline(limit, color="0.4", ls=":", lw=1, label="threshold")
        axes.set(yscale="log", title=f"certified within {radius:g}?", xlabel="p of the top class")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("answers, the mean")
    figure.axes[0].legend(fontsize=8)
    if path:
        figure.savefig(path, dpi=130)
    return found


def trained(data: Any) -> nn.Module:  # noqa: ANN401 - `ImageData`
    """A small network that has seen noise; images of 28 x 28 are averaged over 4 x 4 pixels."""
    torch.manual_seed(0)
    x, y = data.train.pixels.float() / data.brightest(), data.train.labels
    pool = nn.AvgPool2d(4) if x.shape[-1] >= 16 else nn.Identity()
    entries = pool(x[:1]).numel()
    network = nn.Sequential(
        *(pool, nn.Flatten(), nn.Linear(entries, 64), nn.ReLU()),
        nn.Linear(64, len(data.classes)),
    )
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(4000):
        chosen = torch.randint(len(x), (128,))
        noisy = x[chosen] + SIGMA * torch.randn_like(x[chosen])
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(noisy), y[chosen]).backward()
        optimiser.step()
    return network.eval()


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Agreement and answers over images, spread evenly over the test images."""
    data = load_images(options.data)
    scale = data.brightest()
    model = load_base_classifier(options.model, scale) if options.model else trained(data)
    smooth = Smooth(model, len(data.classes), SIGMA)
    every = max(1, len(data.test) // options.images)
    chosen = range(0, every * options.images, every)
    asked: dict[str, list[int]] = {name: [] for name in ("all", *map(str, RADII))}
    agree, certified = dict.fromkeys(RADII, 0), dict.fromkeys(RADII, 0)
    for index in chosen:
        x = data.test.pixels[index].float() / scale

        def draw(part: int, index: int = index) -> torch.Generator:
            return torch.Generator().manual_seed(2 * index + part)

        fixed = smooth.certify(x, N0, N, ALPHA, draw(0))
        found = smooth.decide(x, RADII, N0, N, ALPHA, draw(1))
        asked["all"].append(found.answers)
        for radius, said in zip(RADII, found.verdicts, strict=True):
            alone = smooth.decide(x, [radius], N0, N, ALPHA, draw(1))
            asked[str(radius)].append(alone.answers)
            holds = fixed.prediction >= 0 and fixed.radius >= radius
            certified[radius] += holds
            same = fixed.prediction == found.prediction or not holds
            agree[radius] += (said == "yes") == holds and same
    total = len(chosen)
    return {
        "images": total,
        "agreement_percent": {radius: 100 * count / total for radius, count in agree.items()},
        "certified_percent": {radius: 100 * count / total for radius, count in certified.items()},
        # Of all radii together, and of each alone.
        "answers_mean": {name: float(np.mean(of)) for name, of in asked.items()},
        "answers_median": {name: float(np.median(of)) for name, of in asked.items()},
        "times_fewer": {name: (N0 + N) / float(np.mean(of)) for name, of in asked.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=100_000, help="that are simulated")
    parser.add_argument("--picture", type=Path, help="draw the answers over p here")
    parser.add_argument("--images", type=int, default=0, help="certify so many in both ways")
    parser.add_argument("--data", default="", help="their data set; the embedded digits")
    parser.add_argument("--model", default="", help="a classifier; a small one is trained")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.images:
        found = {"images": compared(options)}
    else:
        found = {
            "errors": errors(options.decisions),
            "answers": answers_needed(options.picture, 2000),
        }
    if options.json:
        print(json.dumps(found))
        return
    for part in found.values():
        for name, value in part.items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
