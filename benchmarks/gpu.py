"""All figures of one accelerator in ten minutes, each part in a process of its own.

    python benchmarks/gpu.py --minutes 9 --json
    python benchmarks/gpu.py --device cpu --parts card floors wake --json   # a rehearsal

A part that fails or runs out of time is null, and `reasons` says why. The parts share the minutes.

    card      name and memory; the releases of torch and CUDA
    floors    operations a second in float32 and bfloat16: matrix products, 3 x 3 convolutions of
              16, 32, 64 channels, channels last; bytes a second of a copy
    tests     those that need CUDA (marker `gpu`): passed, failed, skipped
    resnet20  probes a second at batch 256, a tenth of the weights, and the share of the floor
              (DeepZero's code: 384 forwards a second on one A6000)
    cnn730, cnn3700  a whole gradient: queries, seconds, cosine with back-propagation in float64
    wake      solver steps a second, 4,096 states side by side
    tangent   a wake on 64 x 32 cells: seconds of the tangent's fit and of a training through it,
              the error of unseen runs without a corrector, at its start and at its end

It runs from a wheel of zopde that lies unpacked on PYTHONPATH, with this folder and `tests` from a
checkout, on Python 3.12, torch 2.11 and NumPy; each part shows in `imported` what it needs besides.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

Found = dict[str, Any]
HERE = Path(__file__).parent
_BATCH = 256


def card(device: torch.device) -> Found:
    """What computes."""
    found: Found = {"device": device.type, "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        found |= {"name": of.name, "memory_gib": of.total_memory / 2**30}
    return found


def floors(device: torch.device) -> Found:
    """The best of five runs each."""
    from roofline import rates, seconds

    found: Found = {"copy_gb_per_second": rates(device)[1] / 1e9}
    size = 8192 if device.type == "cuda" else 1024
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device, dtype=dtype)
        product = partial(torch.mm, a, a)
        fastest = min(seconds(product)[0] for _ in range(5))
        found[f"matmul_{_short(dtype)}_gflops"] = 2 * size**3 / fastest / 1e9
        for channels in (16, 32, 64):
            convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            convolution.to(device, dtype, memory_format=torch.channels_last)
            x = torch.randn(_BATCH, channels, 32, 32, device=device, dtype=dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                fastest = min(seconds(partial(convolution, x))[0] for _ in range(5))
            rate = 18 * channels * x.numel() / fastest / 1e9
            found[f"conv_{channels}_{_short(dtype)}_gflops"] = rate
    return found


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tests(device: torch.device) -> Found:
    """Those that need CUDA, by pytest."""
    if device.type != "cuda":
        raise RuntimeError("the tests need CUDA")
    files = sorted((HERE.parent / "tests").rglob("test_*.py"))
    some = [str(path) for path in files if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    # -P: zopde as installed or on PYTHONPATH, not the checkout's
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu", "-o", "addopts="]
    command += ["--continue-on-collection-errors", *some]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", told.stdout)
    if not counts:
        raise RuntimeError((told.stderr or told.stdout).strip()[-300:])
    return {kind: int(count) for count, kind in counts}


def probed(device: torch.device) -> Found:
    """ResNet-20, a sample of its weights."""
    from deepzero import measure, resnet20
    from roofline import rates

    gen, sample = torch.Generator().manual_seed(0), 2000 if device.type == "cuda" else 20
    case = resnet20(sample, gen, device, beside=False, batch=_BATCH)
    found = measure(case, 3, *rates(device))
    return {"probes_per_second": 1e3 / found["ms_per_coordinate"], **found}


def whole(depth: int, device: torch.device) -> Found:
    """A gradient by all weights of the CNN with 18 channels."""
    from deepzero import MU, classification
    from roofline import seconds

    from zopde import WeightOracle, cge
    from zopde.nets import SmallCNN

    gen = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = SmallCNN(3, 10, depth).train().to(device)
    x = torch.randn(_BATCH, 3, 32, 32, generator=gen).to(device)
    y = torch.randint(10, (_BATCH,), generator=gen).to(device)
    exact = copy.deepcopy(network).double()
    loss = classification(x.double(), y)(exact, 1)[0]
    slopes = torch.autograd.grad(loss, list(exact.parameters()))
    oracle = WeightOracle(network, classification(x, y))
    oracle.calibrate(MU)
    spent, estimate = seconds(lambda: cge(oracle, mu=MU))
    found = estimate.gradient.double().to(device)
    cosine = F.cosine_similarity(found, torch.cat([slope.flatten() for slope in slopes]), dim=0)
    return {"seconds": spent, "queries": estimate.queries, "cosine": float(cosine)}


def wake(device: torch.device) -> Found:
    """Twenty steps, after five that warm up."""
    from roofline import seconds

    from zopde import load_solver

    batch = 4096 if device.type == "cuda" else 64
    solver = load_solver("wake", {"shape": (64, 32)})
    scenario = solver.scenario(batch, torch.Generator().manual_seed(0))
    state, forcing = scenario.initial.float().to(device), scenario.forcing(0).float().to(device)

    def steps(count: int) -> torch.Tensor:
        moved = state
        for _ in range(count):
            moved = solver.step(moved, forcing)
        return moved

    steps(5)
    spent, last = seconds(lambda: steps(20))
    finite = bool(last.isfinite().all())
    return {"steps_per_second": 20 * batch / spent, "batch": batch, "finite": finite}


def tangent(device: torch.device) -> Found:
    """The fit, and one training."""
    from trained_wake import trained

    large = device.type == "cuda"
    return trained(device, 200 if large else 40, 300 if large else 20, 60.0)


PARTS: dict[str, Callable[[torch.device], Found]] = {
    "card": card,
    "floors": floors,
    "tests": tests,
    "resnet20": probed,
    "cnn730": partial(whole, 1),
    "cnn3700": partial(whole, 2),
    "wake": wake,
    "tangent": tangent,
}


def imported() -> list[str]:
    """Packages that this process has loaded, without those of Python and this folder."""
    own = {path.stem for path in HERE.glob("*.py")}
    known = own | sys.stdlib_module_names | {"__mp_main__", "zopde"}
    paths = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    found = {name.partition(".")[0] for name, path in paths.items() if path}
    return sorted(name for name in found - known if not name.startswith("_"))


def in_turn(names: list[str], device: str, end: float) -> Found:
    """Each part in a process, which gets what is left, shared with those that follow."""
    found: Found = {"reasons": {}}
    for at, name in enumerate(names):
        left = max(1.0, end - time.monotonic())
        share = left if at == len(names) - 1 else left * max(0.4, 1 / (len(names) - at))
        command = [sys.executable, __file__, "--only", name, "--device", device]
        found[name], reason = None, ""
        try:
            told = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=share
            )
        except subprocess.TimeoutExpired:
            reason = f"not done after {share:.0f} s"
        else:
            if told.returncode:
                reason = told.stderr.strip().splitlines()[-1]
            else:
                found[name] = json.loads(told.stdout.splitlines()[-1])
        if reason:
            found["reasons"][name] = reason
        print(f"{name}: {reason or 'done'}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--device", default="cuda", help="such as cuda, cuda:1, cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device is here; --device cpu rehearses")
    if given.only:
        found = PARTS[given.only](torch.device(given.device))
        print(json.dumps({**found, "imported": imported()}))
        return
    found = in_turn(given.parts, given.device, time.monotonic() + 60 * given.minutes)
    if given.json:
        print(json.dumps(found))
        return
    for name, values in found.items():
        print(f"{name}: {values}")


if __name__ == "__main__":
    main()
