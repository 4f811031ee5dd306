"""Any module as a corrector, its gradient by queries."""

import torch
from tracer import Tracer

from zopde import UnrolledObjective, WeightOracle, Window, cge, rge


class Gate(torch.nn.Module):
    """Two convolutions, one of which opens the other."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        self.gate = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")

    def forward(self, state: torch.Tensor, forcing: torch.Tensor | None) -> torch.Tensor:
        """(batch, 1, y, x) -> what is added to it."""
        return self.value(state) * torch.sigmoid(self.gate(state))


torch.manual_seed(0)
network, solver = Gate(), Tracer(16)
states = torch.rand(2, 5, 1, 16, 16)  # yours: (simulation, time, channel, y, x)
window = Window(solver.step(states[:, 0]), targets=states[:, 1:])
oracle = WeightOracle(network, UnrolledObjective(solver, window, states.std().view(1)))

estimate = cge(oracle, mu=1e-3)
print(estimate.queries, "queries, loss", round(float(estimate.loss), 3))
oracle.set_gradient(estimate.gradient)  # now any torch.optim goes on
rough = rge(oracle, num_directions=8, mu=1e-3, generator=torch.Generator().manual_seed(0))
print(rough.queries, "queries, a rougher one")
