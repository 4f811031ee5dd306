"""ZO-interface from a bank, and NOG, without a run: what a user writes in Python."""

import torch

from zopde import BankPullback, InterfaceSolver, UnrolledObjective, rollout
from zopde.blackbox import BlackBox, CountedSolver
from zopde.interface import Bank, Key, Probing, Step, farthest_points


def test_a_bank_and_nog_take_ten_lines(toy, corrector, window):
    """The bank's gradient is nearly that of the differentiable twin; NOG's is another."""

    def gradient(solver):
        corrector.zero_grad()
        UnrolledObjective(solver, window, scale)(corrector, 1)[0].backward()
        return torch.cat([p.grad.flatten() for p in corrector.parameters()])

    # The ten lines: data that are there anyway, the choice among them, the bank, its solver.
    solver, scale = CountedSolver(BlackBox(toy)), torch.ones(2, dtype=torch.float64)
    run = rollout(solver, window.stepped, 4, lambda t: window.forcing[:, t - 1])
    states, stepped = run[:, :-1].flatten(0, 1), run[:, 1:].flatten(0, 1)
    forcing = window.forcing[:, [-1, 0, 1, 2]].flatten(0, 1)
    key = Key(scale)
    chosen = farthest_points(key(states).flatten(1), 9)
    bank = Bank(9, key, probing=Probing(1e-5))
    bank.add(Step(solver, states[chosen], forcing[chosen], stepped[chosen]))
    through_bank = InterfaceSolver(solver, BankPullback(bank, "fitted"))

    before = solver.steps
    assert before == 4 * 3 + 9 * 128, "the rollout, and D probes for each snapshot"
    from_bank = gradient(through_bank)
    assert solver.steps == before + 3 * 3, "no probe after that"
    nog, sol = gradient(solver), gradient(toy.differentiable_twin())
    assert (from_bank - sol).norm() < 0.3 * (nog - sol).norm()
