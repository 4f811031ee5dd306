"""Where did the tracer come from? An inverse problem, through a solver that is plain NumPy."""

import torch
from tracer import Tracer

import zopde

solver = zopde.differentiable(Tracer(16))
truth = torch.zeros(1, 1, 16, 16)
truth[:, :, 4:7, 5:8] = 1  # what nobody knows


def later(state: torch.Tensor) -> torch.Tensor:
    """The state three steps later."""
    for _ in range(3):
        state = solver.step(state)
    return state


seen = later(truth)  # what was measured
guess = torch.zeros(1, 1, 16, 16, requires_grad=True)
optimizer = torch.optim.Adam([guess], lr=0.1)
for _ in range(30):
    optimizer.zero_grad()
    loss = (later(guess) - seen).square().mean()
    loss.backward()
    optimizer.step()
print(f"misfit {float(loss.detach()):.1e}; {solver.report()}")
