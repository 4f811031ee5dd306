"""Certifying an image: zopde against the loop of locuslab/smoothing (Cohen et al., ICML 2019).

    git clone https://github.com/locuslab/smoothing
    python benchmarks/certify.py --smoothing smoothing --json

Both sides certify the same image with the same model and the same batch size, in turns.
`ratio` is their seconds per sample over ours, the median of the turns, of the model for which it
is least; `models` holds each. Seconds are those of this process's one thread on a CPU, so that
others who share the machine do not count. Before that, zopde certifies one image of 32 x 32 with
100,000 samples, and `peak_mib` is the most memory that this process, torch included, has had by
then.

Their code, `code/core.py`, is imported as it is. It needs two things that are not here: a CUDA
device, which its `torch.randn_like(..., device='cuda')` asks for by name, and SciPy's old
`binom_test`. So the module sees a `torch` whose `randn_like` stays on the input's device, and
SciPy gets the name back, made of `binomtest`. The loop itself is theirs, line by line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from zopde import Smooth
from zopde.memory import keep_freed_memory
from zopde.nets import CifarResNet, SmallCNN

N0, ALPHA, SIGMA, CLASSES = 100, 0.001, 0.25, 10
MODELS = {
    "digits CNN": (lambda: SmallCNN(1, CLASSES, depth=2, width=16), (1, 8, 8)),
    "CIFAR CNN": (lambda: SmallCNN(3, CLASSES, depth=2), (3, 32, 32)),
    "ResNet-20": (lambda: CifarResNet(3, CLASSES), (3, 32, 32)),
}


class HereTorch:
    """torch, but for noise that is asked for on a device that is not here."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(torch, name)

    def randn_like(self, like: Tensor, device: str = "") -> Tensor:  # noqa: ARG002
        """On the device of `like`."""
        return torch.randn_like(like)


def their_core(root: Path) -> ModuleType:
    """`code/core.py` of a checkout, able to run here."""
    import scipy.stats

    if not hasattr(scipy.stats, "binom_test"):
        scipy.stats.binom_test = lambda k, n, p: scipy.stats.binomtest(k, n, p).pvalue
    spec = importlib.util.spec_from_file_location("their_core", root / "code" / "core.py")
    if spec is None or spec.loader is None or not (root / "code" / "core.py").is_file():
        sys.exit(f"certify.py: {root}: got no code/core.py, expected a checkout of its repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.torch = HereTorch()  # type: ignore[attr-defined]
    return module


def image(shape: tuple[int, ...]) -> Tensor:
    """Any one."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def seconds(work: Callable[[], object]) -> float:
    """CPU time that it took."""
    began = time.process_time()
    work()
    return time.process_time() - began


def peak(n: int, batch: int) -> dict[str, float]:
    """One image with n samples: seconds, and the most memory of this process so far."""
    make, shape = MODELS["CIFAR CNN"]
    smooth = Smooth(make().eval(), CLASSES, SIGMA)
    gen = torch.Generator().manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = seconds(lambda: smooth.certify(image(shape), N0, n, ALPHA, gen, batch))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"n": n, "seconds": took, "peak_mib": after / 1024, "before_mib": before / 1024}


def compare(core: ModuleType, name: str, options: argparse.Namespace) -> dict[str, float]:
    """Microseconds per sample on both sides, in turns."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model: nn.Module = make().eval()
    x, n = image(shape), options.n
    theirs = core.Smooth(model, CLASSES, SIGMA)
    ours = Smooth(model, CLASSES, SIGMA)
    gen = torch.Generator().manual_seed(0)
    turns: list[tuple[float, float]] = []
    for turn in range(options.repeat + 1):
        pair = (
            seconds(lambda: ours.certify(x, N0, n, ALPHA, gen, options.batch)),
            seconds(lambda: theirs.certify(x, N0, n, ALPHA, options.batch)),
        )
        if turn:  # the first one warms both up
            turns.append(pair)
    mine, other = (1e6 * median(side) / (N0 + n) for side in zip(*turns, strict=True))
    return {
        "ratio": median(b / a for a, b in turns),
        "us_per_sample": mine,
        "smoothing_us_per_sample": other,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoothing", type=Path, required=True, help="checkout of it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--n", type=int, default=800, help="samples of a certificate")
    parser.add_argument("--batch", type=int, default=400, help="samples at a time, both sides")
    parser.add_argument("--repeat", type=int, default=5, help="turns of both sides")
    parser.add_argument("--many", type=int, default=100_000, help="samples, for the memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    memory = peak(options.many, 1000)
    core = their_core(options.smoothing)
    found = {name: compare(core, name, options) for name in MODELS}
    result = {
        "ratio": min(each["ratio"] for each in found.values()),
        "peak_mib": memory["peak_mib"],
        "models": found,
        "memory": memory,
        "batch": options.batch,
        "n": options.n,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"ratio {result['ratio']:.3g}, peak {result['peak_mib']:.0f} MiB")
    for name, values in {**found, "memory": memory}.items():
        print(f"{name}: { ({k: f'{v:.4g}' for k, v in values.items()}) }")


if __name__ == "__main__":
    main()
