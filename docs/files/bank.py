"""Back-propagation past a solver that nobody can differentiate: a bank of Jacobians, and NOG."""

import torch
from tracer import Tracer

from zopde import (
    BankPullback,
    BlackBox,
    ConvCorrector,
    InterfaceSolver,
    Normalised,
    UnrolledObjective,
    Window,
    rollout,
)
from zopde.interface import Bank, Key, Step, farthest_points

torch.manual_seed(0)
solver = BlackBox(Tracer(16))  # checks every step, and lets no gradient through
truth = Tracer(16, wind=(0.5, 1.1))
states = rollout(truth, torch.rand(3, 1, 16, 16), 8)  # yours: (simulation, time, channel, y, x)
scale = states.std().view(1)

stored, key = states[:, :-1].flatten(0, 1), Key(scale)
chosen = farthest_points(key(stored).flatten(1), 4)  # four states that are far from each other
bank = Bank(4, key)
bank.add(Step(solver, stored[chosen], None, solver.step(stored[chosen])))  # 4 x 256 solver steps

network = Normalised(ConvCorrector(1, 1), scale, torch.empty(0))
window = Window(solver.step(states[:, 0]), targets=states[:, 1:5])
ways = {"NOG": solver, "ZO-interface": InterfaceSolver(solver, BankPullback(bank))}
for name, way in ways.items():
    network.zero_grad()
    UnrolledObjective(way, window, scale)(network, 1)[0].backward()  # now any torch.optim goes on
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    print(f"{name}: a gradient of size {float(gradient.norm()):.4f}")
