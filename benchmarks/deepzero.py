"""One gradient by zopde and by DeepZero's released code: same network, batch, coordinates, threads.

    git clone https://github.com/OPTML-Group/DeepZero
    python benchmarks/deepzero.py --deepzero DeepZero --json
    python benchmarks/deepzero.py --json        # without a checkout: zopde's half and the floors

Both sides are timed in turns, in this process, on a sample of coordinates, as an iteration of a
training computes them; `seconds_once` is what the first one takes longer, to verify that probes may
share a pass. DeepZero's `cge`
(one coordinate at a time, the whole network) is the other side of `burgers`, `cnn1` and `cnn2`;
its distributed worker's loop, which starts at the block of the moved weight, that of `resnet20`.

The floor of a case is what the arithmetic asks of this machine: the operations of the
convolutions and linear layers that delta propagation cannot avoid at the measured matmul rate,
or the activations behind the moved layers, written once and read once, at the measured copy
rate, whichever takes longer. (Winograd convolutions need fewer operations than are counted.)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from advection import Advection, Unrolled
from roofline import Traffic, rates, seconds
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from zopde import ConvCorrector, Normalised, UnrolledObjective, WeightOracle, Window
from zopde.contracts import ask_shared
from zopde.memory import keep_freed_memory
from zopde.nets import CifarResNet, SmallCNN
from zopde.oracle import WeightOracles, peak_bytes

MU = 5e-3  # the paper's


@dataclass
class Case:
    """Two ways to the same losses.

    Args:
        network: Whose weights are moved.
        objective: zopde's loss.
        coordinates: (n,), sorted.
        theirs: DeepZero's side: finite differences (n,) at those coordinates; None without it.
    """

    network: nn.Module
    objective: Callable[..., Tensor]
    coordinates: Tensor
    theirs: Callable[[], Tensor] | None = None

    def ours(self, oracles: WeightOracles) -> Tensor:
        """Finite differences at the coordinates, the base included."""
        oracle = oracles(self.network, self.objective)
        return (oracle.coordinates(self.coordinates, MU) - oracle.base()) / MU


def burgers(sample: int, gen: torch.Generator, device: torch.device, beside: bool) -> Case:
    """The 1,026-weight corrector, batch 4, 4 unrolled steps."""
    corrector = Normalised(ConvCorrector(4, 2), torch.ones(2), torch.ones(2))
    for parameter in corrector.parameters():
        nn.init.normal_(parameter, std=0.1, generator=gen)
    stepped = torch.randn(4, 2, 32, 32, generator=gen).to(device)
    targets = torch.randn(4, 4, 2, 32, 32, generator=gen).to(device)
    forcing = torch.randn(4, 4, 2, 32, 32, generator=gen).to(device)
    window, scale = Window(stepped, targets, forcing), torch.ones(2, device=device)
    objective = UnrolledObjective(Advection(), window, scale)
    network = Unrolled(corrector.to(device), forcing)
    coordinates = spread(sum(p.numel() for p in network.parameters()), sample)
    if not beside:
        return Case(corrector, objective, coordinates)
    from algorithm.zoo.gradient_estimate import f

    return Case(
        corrector,
        objective,
        coordinates,
        lambda: by_cge(network, coordinates, lambda p: f(p, network, stepped, targets, F.mse_loss)),
    )


def cnn(depth: int, sample: int, gen: torch.Generator, device: torch.device, beside: bool) -> Case:
    """The CNN of 18 channels, batch 256, BatchNorm in train mode."""
    if beside:
        from models.cnn import AdjustableCNN

        network: nn.Module = AdjustableCNN(depth, channel_num=18).train().to(device)
    else:
        network = SmallCNN(3, 10, depth).train().to(device)
    x = torch.randn(256, 3, 32, 32, generator=gen).to(device)
    y = torch.randint(10, (256,), generator=gen).to(device)
    coordinates = spread(sum(p.numel() for p in network.parameters()), sample)
    if not beside:
        return Case(network, classification(x, y), coordinates)
    from algorithm.zoo.gradient_estimate import f

    return Case(
        network,
        classification(x, y),
        coordinates,
        lambda: by_cge(network, coordinates, lambda p: f(p, network, x, y, F.cross_entropy)),
    )


def resnet20(
    sample: int, gen: torch.Generator, device: torch.device, beside: bool, batch: int = 64
) -> Case:
    """ResNet-20 at 90 % sparsity: a sample with the layers' shares of the 28,220 active weights."""
    if beside:
        from models.resnet_s import resnet20

        network: nn.Module = resnet20().train().to(device)
    else:
        network = CifarResNet(3, 10).train().to(device)
    x = torch.randn(batch, 3, 32, 32, generator=gen).to(device)
    y = torch.randint(10, (batch,), generator=gen).to(device)
    named = list(network.named_parameters())
    dense = torch.cat([torch.full((p.numel(),), p.dim() < 2) for _, p in named])
    active = dense | (torch.rand(len(dense), generator=gen) < 0.1)
    active = active.nonzero().flatten()
    some = torch.randperm(len(active), generator=gen)[:sample]
    coordinates = active[some].sort().values
    if not beside:
        return Case(network, classification(x, y), coordinates)
    from models.distributed_model import DistributedCGEModel
    from models.resnet_s import param_name_to_module_id_rn20, resnet20

    worker = DistributedCGEModel(
        str(x.device), resnet20, F.cross_entropy, param_name_to_module_id_rn20, pruned=False
    )
    worker.network.load_state_dict(network.state_dict())
    ends = torch.tensor([p.numel() for _, p in named]).cumsum(0)
    which = torch.searchsorted(ends, coordinates, right=True)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    instruction = torch.stack([which, coordinates - starts[which]], dim=1)
    worker.set_params_to_be_perturbed(Here(instruction), [name for name, _ in named])

    def theirs() -> Tensor:
        found: Tensor = worker.calculate_grads(Here(x), Here(y), MU)
        return found[:, 2]

    return Case(network, classification(x, y), coordinates, theirs)


class Here:
    """A value where DeepZero expects a remote reference."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def to_here(self) -> Tensor:
        """It is already here."""
        return self.value


def classification(x: Tensor, y: Tensor) -> Callable[..., Tensor]:
    """Cross-entropy of a batch."""

    def objective(network: Any, num_probes: int) -> Tensor:  # noqa: ANN401
        answers = ask_shared(network, num_probes, x)
        losses = F.cross_entropy(answers, y.repeat(num_probes), reduction="none")
        return losses.view(num_probes, -1).mean(dim=1)

    return objective


def spread(total: int, sample: int) -> Tensor:
    """At most `sample` coordinates, evenly spread."""
    return torch.arange(total)[:: max(1, -(-total // sample))]


def by_cge(network: nn.Module, coordinates: Tensor, f: Callable[[dict], float]) -> Tensor:
    """DeepZero's `cge` on a mask that leaves only `coordinates`."""
    from algorithm.zoo.gradient_estimate import cge

    flat = torch.zeros(sum(p.numel() for p in network.parameters()))
    flat[coordinates] = 1
    parameters, masks, first = {}, {}, 0
    for name, parameter in network.named_parameters():
        # Their code knows a masked tensor by its name.
        parameters[f"{name}_orig"] = parameter.detach().clone()
        mask = flat[first : first + parameter.numel()].view(parameter.shape)
        masks[f"{name}_mask"] = mask.to(parameter.device)
        first += parameter.numel()

    def plain(moved: dict[str, Tensor]) -> float:
        return f({name.removesuffix("_orig"): value for name, value in moved.items()})

    found = cge(plain, parameters, masks, MU)
    return torch.cat([grad.flatten() for grad in found.values()]).cpu()[coordinates]


@torch.no_grad()
def measure(case: Case, repeat: int, matmul: float, copy: float) -> dict[str, float]:
    """Both sides in turns, zopde's with the size of a pass that it found once before."""
    chunk = WeightOracle(case.network, case.objective).calibrate(MU)
    mine = partial(case.ours, WeightOracles(chunk))
    first = seconds(mine)[0]  # verified and warm now
    answer = mine().cpu()
    times: tuple[list[float], list[float]] = ([], [])
    beside: dict[str, float] = {}
    if case.theirs is not None:
        other = case.theirs().cpu()
        beside["relative_difference"] = float((answer - other).norm() / other.norm())
    for _ in range(repeat):
        times[0].append(seconds(mine)[0])
        if case.theirs is not None:
            times[1].append(seconds(case.theirs)[0])
    ours, n = median(times[0]), len(case.coordinates)
    if times[1]:
        theirs = median(times[1])
        beside["ratio"] = theirs / ours
        beside["deepzero_ms_per_coordinate"] = 1e3 * theirs / n
    with FlopCounterMode(display=False) as operations:
        mine()
    with Traffic() as traffic:
        mine()
    by_operations = operations.get_total_flops() / matmul
    by_bytes = 2 * traffic.bytes / copy
    return {
        **beside,
        "floor_fraction": max(by_operations, by_bytes) / ours,
        "peak_mib": peak_bytes(mine) / 2**20,
        "chunk": chunk,
        "coordinates": n,
        "ms_per_coordinate": 1e3 * ours / n,
        "seconds_once": first - ours,
        "floor_operations_ms": 1e3 * by_operations / n,
        "floor_bytes_ms": 1e3 * by_bytes / n,
    }


@torch.no_grad()
def growth(
    gen: torch.Generator, device: torch.device, beside: bool, counts: list[int]
) -> dict[str, list[float]]:
    """Time and memory of ResNet-20, batch 8, 16 probes per pass, over the coordinates."""
    found: dict[str, list[float]] = {"coordinates": [], "seconds": [], "peak_mib": []}
    for count in counts:
        case = resnet20(count, gen, device, beside, batch=8)
        found["coordinates"].append(len(case.coordinates))
        ours = partial(case.ours, WeightOracles(16))
        ours()
        found["seconds"].append(seconds(ours)[0])
        found["peak_mib"].append(peak_bytes(ours) / 2**20)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deepzero", type=Path, help="checkout of DeepZero")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeat", type=int, default=3, help="turns of both sides")
    parser.add_argument("--sample", type=int, default=200, help="coordinates per gradient")
    parser.add_argument("--device", default="cpu", help="where both sides compute: cpu, cuda, ...")
    options = parser.parse_args()
    beside = options.deepzero is not None
    if beside:
        sys.path.insert(0, str(options.deepzero.resolve()))
    keep_freed_memory()
    device = torch.device(options.device)
    matmul, copy = rates(device)
    gen = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # DeepZero's networks draw their weights from the global generator
    cases = {
        "burgers": lambda: burgers(10**9, gen, device, beside),
        "resnet20": lambda: resnet20(options.sample, gen, device, beside),
        "cnn1": lambda: cnn(1, options.sample, gen, device, beside),
        "cnn2": lambda: cnn(2, options.sample, gen, device, beside),
    }
    result: dict[str, Any] = {
        name: measure(make(), options.repeat, matmul, copy) for name, make in cases.items()
    }
    result["growth"] = growth(gen, device, beside, [100, 300, 1000, 3000, 10000])
    result["machine"] = {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "matmul_gflops": matmul / 1e9,
        "copy_gb_per_second": copy / 1e9,
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, values in result.items():
        shown = {k: v if isinstance(v, list | str) else f"{v:.4g}" for k, v in values.items()}
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
