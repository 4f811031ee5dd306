"""Judge an estimate before it trains anything."""

import torch

from zopde import WeightOracle, selfcheck

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
x, y = torch.randn(32, 4), torch.randn(32, 1)


def objective(f: torch.nn.Module, num_probes: int) -> torch.Tensor:
    """Your loss, as a black box: one number for each probe."""
    error = f(x.repeat(num_probes, 1)) - y.repeat(num_probes, 1)
    return error.view(num_probes, -1).square().mean(dim=1)


oracle = WeightOracle(network, objective)
found = selfcheck(oracle, mu=1e-3, generator=torch.Generator().manual_seed(0), network=network)
print(found)  # by layer: cosine, norm ratio; the mu to take; the noise; what is doubtful
assert not found.warnings
