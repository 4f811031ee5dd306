from pathlib import Path

import pytest
import torch

from zopde import (
    ConvCorrector,
    CorrectedSolver,
    DensePullback,
    InputError,
    InterfaceSolver,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
    cge,
    load_solver,
    rollout,
)
from zopde.blackbox import BlackBox, CountedSolver
from zopde.hybrid import INJECTIONS, InjectBefore, InjectForcing, InjectParameter

HERE = Path(__file__).parent.parent
ONES = torch.ones(2, dtype=torch.float64)


@pytest.fixture(params=list(INJECTIONS))
def inject(request):
    return request.param


@pytest.fixture
def network(inject, corrector):
    """The common corrector, at home in the place of the test."""
    scales = torch.tensor([1.5, 0.7]), torch.tensor([0.3, 0.4])
    body = ConvCorrector(4, 2, width=3, depth=3)
    found = Normalised(body, *scales, inject=inject).double()
    own = {} if found.output_scale is None else {"output_scale": found.output_scale}
    found.load_state_dict({**corrector.state_dict(), **own})
    return found


def objective(solver, window, inject):
    return UnrolledObjective(solver, window, ONES, INJECTIONS[inject])


def step_by_hand(inject, solver, network, state, forcing):
    if inject == "after":
        stepped = solver.step(state, forcing)
        return stepped + network(stepped, forcing)
    if inject == "before":
        return solver.step(state + network(state, forcing), forcing)
    if inject == "forcing":
        return solver.step(state, forcing + network(state, forcing))
    return solver.step(state, forcing * network(state, forcing).exp())


def test_corrected_solver_is_its_formula_exact(inject, toy, network, window):
    state, forcing = window.initial, window.forcing[:, 0]
    expected = step_by_hand(inject, toy, network, state, forcing)
    assert torch.equal(CorrectedSolver(toy, network).step(state, forcing), expected)
    given = CorrectedSolver(toy, network, INJECTIONS[inject])
    assert torch.equal(given.step(state, forcing), expected)


def test_a_seed_leaves_the_network_in_its_place_exact(inject, network, window):
    noisy = load_solver(f"{HERE / 'toy_faults.py'}:Noisy", {"size": 0.05})
    state, forcing = window.initial, window.forcing[:, 0]
    network.inject = "elsewhere"  # what was given to the solver counts
    corrected = CorrectedSolver(noisy, network, INJECTIONS[inject]).with_seed(5)
    expected = step_by_hand(inject, noisy.with_seed(5), network, state, forcing)
    assert torch.equal(corrected.step(state, forcing), expected)
    again = corrected.with_seed(6).step(state, forcing)
    assert not torch.equal(again, expected)


def test_a_correction_of_the_forcing_is_in_its_units(corrector, window):
    scales = torch.tensor([1.5, 0.7]).double(), torch.tensor([0.3, 0.4]).double()
    state, forcing = window.initial, window.forcing[:, 0]
    of_state = Normalised(corrector.body, *scales)(state, forcing)
    of_forcing = Normalised(corrector.body, *scales, inject="forcing")(state, forcing)
    ratio = (scales[1] / scales[0]).view(2, 1, 1)
    torch.testing.assert_close(of_forcing, of_state * ratio)


def test_loss_is_the_error_of_a_corrected_rollout_exact(inject, toy, network, window):
    start, forcing = window.initial, window.forcing
    window = Window(toy.step(start, forcing[:, 0]), window.targets, forcing, start)
    states = rollout(CorrectedSolver(toy, network), start, 4, lambda t: forcing[:, t])[:, 1:]
    expected = (states - window.targets).square().mean()
    torch.testing.assert_close(objective(toy, window, inject)(network, 1)[0], expected)


@pytest.mark.parametrize("chunk", [1, 7])
def test_probes_side_by_side_agree_with_one_at_a_time(inject, toy, network, window, chunk):
    loss = objective(toy, window, inject)
    some = torch.arange(0, 200, 9)
    alone = WeightOracle(network, loss, stacked=False).coordinates(some, 1e-3)
    together = WeightOracle(network, loss, chunk).coordinates(some, 1e-3)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    assert not torch.equal(alone, alone[:1].expand_as(alone))


def test_gradients_by_queries_agree_with_autograd(inject, toy, network, window):
    """Of the weights one by one, and of the solver's inputs entry by entry."""

    def backprop(solver):
        network.zero_grad()
        objective(solver, window, inject)(network, 1)[0].backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    sol = backprop(toy.differentiable_twin())
    found = cge(WeightOracle(network, objective(toy, window, inject)), mu=1e-5, scheme="central")
    torch.testing.assert_close(found.gradient, sol, rtol=1e-5, atol=1e-8)
    dense = backprop(InterfaceSolver(BlackBox(toy), DensePullback(1e-6, "central")))
    torch.testing.assert_close(dense, sol, rtol=1e-6, atol=1e-9)


def test_only_after_the_step_a_gradient_passes_beside_the_solver(inject, toy, network, window):
    loss = objective(BlackBox(toy), window, inject)(network, 1)
    assert loss.requires_grad == (inject == "after")
    assert loss.requires_grad != INJECTIONS[inject].through_solver


class Spy:
    """Notes how it was asked."""

    def __init__(self, network, num_probes):
        self.network, self.num_probes, self.asked = network, num_probes, []

    def __call__(self, *states):
        self.asked.append(len(states[0]))
        return self.network(*states)

    def shared(self, *states):
        self.asked.append(("shared", len(states[0])))
        return self.network(*states).repeat(self.num_probes, 1, 1, 1)


def test_the_first_question_is_common_to_all_probes(inject, toy, network, window):
    spy, counted = Spy(network, 5), CountedSolver(toy)
    losses = objective(counted, window, inject)(spy, 5)
    torch.testing.assert_close(losses, objective(toy, window, inject)(network, 1).expand(5))
    assert spy.asked == [("shared", 3), 15, 15, 15]
    assert counted.steps == 5 * 3 * (3 if inject == "after" else 4)


def test_after_the_step_either_start_will_do(toy, corrector, window):
    start, forcing = window.initial, window.forcing
    stepped = toy.step(start, forcing[:, 0])
    losses = [
        UnrolledObjective(toy, Window(known, window.targets, forcing, state), ONES)(corrector, 2)
        for known, state in ((stepped, None), (stepped, start), (None, start))
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("injection", [InjectBefore(), InjectForcing(), InjectParameter()])
def test_what_is_missing_is_named(injection, toy, corrector, window):
    with pytest.raises(InputError, match="window: got no initial state"):
        UnrolledObjective(toy, Window(window.stepped, window.targets), ONES, injection)
    with pytest.raises(InputError, match="window: got no initial state"):
        Window(None, window.targets)


@pytest.mark.parametrize("injection", INJECTIONS.values())
def test_an_answer_of_another_shape_raises(injection, toy, window):
    hybrid = CorrectedSolver(toy, lambda state, forcing: state[:, :1], injection)
    with pytest.raises(InputError, match=r"corrector: got an answer of \(1, 8, 8\)"):
        hybrid.step(window.initial, window.forcing[:, 0])


def test_a_correction_of_no_forcing_raises(toy, corrector, window):
    with pytest.raises(InputError, match="inject: got a step without a forcing"):
        CorrectedSolver(toy, corrector, InjectForcing()).step(window.initial)
