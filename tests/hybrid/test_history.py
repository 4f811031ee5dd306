"""A network that sees earlier states: the formula, and its gradient by every cut."""

import pytest
import torch

from zopde import (
    ConvCorrector,
    CorrectedSolver,
    DensePullback,
    Grid,
    InputError,
    InterfaceSolver,
    Normalised,
    Trajectories,
    UnrolledObjective,
    WeightOracle,
    Window,
    cge,
    rollout,
)
from zopde.blackbox import BlackBox, CountedSolver
from zopde.data import Windows
from zopde.hybrid import INJECTIONS, InjectForcing
from zopde.interface import by_variable

ONES, HISTORY, UNROLL = torch.ones(2, dtype=torch.float64), 2, 3


def network_of(inject="after", history=HISTORY, every=1):
    scales = torch.tensor([1.5, 0.7]), torch.tensor([0.3, 0.4])
    body = ConvCorrector(4 + 2 * history, 2, width=3, depth=2)
    network = Normalised(body, *scales, inject=inject, every=every, history=history).double()
    generator = torch.Generator().manual_seed(3)
    for weight in network.parameters():
        weight.data = 0.2 * torch.randn(weight.shape, generator=generator).double()
    return network


def draw(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


@pytest.fixture(params=list(INJECTIONS))
def inject(request):
    return request.param


@pytest.fixture(params=[1, 2])
def every(request):
    return request.param


@pytest.fixture
def drawn(gen, every):
    """Three windows, without the first steps, which depend on the solver."""
    few = () if every == 1 else (every,)
    forcing, targets = 0.1 * draw(gen, 3, UNROLL, *few, 2, 8, 8), draw(gen, 3, UNROLL, 2, 8, 8)
    state, past = draw(gen, 3, 2, 8, 8), draw(gen, 3, HISTORY, 2, 8, 8)
    return Window(None, targets, forcing, state, every, past)


def by_hand(solver, network, drawn):
    """The states after each corrected step, every formula written out."""
    run = [*drawn.past.flip(1).unbind(1), drawn.initial]  # oldest first
    for k in range(UNROLL):
        forcings = drawn.forcing[:, k].view(3, drawn.every, 2, 8, 8).unbind(1)
        seen, state = torch.cat([forcings[0], run[-2], run[-3]], dim=1), run[-1]
        answer = None if network.inject == "after" else network(state, seen)
        if network.inject == "before":
            state = state + answer
        if network.inject == "forcing":
            forcings = [forcing + answer for forcing in forcings]
        if network.inject == "parameter":
            forcings = [forcing * answer.exp() for forcing in forcings]
        for forcing in forcings:
            state = solver.step(state, forcing)
        run.append(state + network(state, seen) if network.inject == "after" else state)
    return run[HISTORY + 1 :]


def gradient_of(loss, network):
    network.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in network.parameters()])


def test_loss_and_gradients_are_those_of_the_formula(toy, drawn, inject, every, caplog):
    """By autograd, by queries of the interface, and by queries of the weights."""
    network, twin = network_of(inject, every=every), toy.differentiable_twin()
    found = by_hand(twin, network, drawn)
    loss = (torch.stack(found, 1) - drawn.targets).square().mean()
    exact = gradient_of(loss, network)
    what = drawn, ONES, INJECTIONS[inject]
    value = UnrolledObjective(twin, *what)(network, 1)[0]
    torch.testing.assert_close(value, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(value, network), exact, rtol=1e-10, atol=1e-12)
    dense = DensePullback(mu=1e-5, scheme="central")
    box = InterfaceSolver(BlackBox(toy), by_variable({"state": dense, "forcing": dense}))
    queried = gradient_of(UnrolledObjective(box, *what)(network, 1)[0], network)
    torch.testing.assert_close(queried, exact, rtol=1e-5, atol=1e-7)
    oracle = WeightOracle(network, UnrolledObjective(BlackBox(toy), *what), chunk=40)
    rows = torch.arange(0, len(exact), 9)
    by_weights = cge(oracle, rows, mu=1e-6, scheme="central").gradient[rows]
    torch.testing.assert_close(by_weights, exact[rows], rtol=1e-5, atol=1e-7)
    assert not caplog.records  # one would say that stacked probes were wrong


def test_a_rollout_remembers_its_own_states_exact(toy, drawn, inject, every, gen):
    """The first state stands for those before it, as in a window whose past it is."""
    network = network_of(inject, every=every)
    corrected = CorrectedSolver(toy, network)
    run = rollout(corrected, drawn.initial, UNROLL, lambda t: drawn.forcing[:, t])
    begun = drawn.initial[:, None].expand(-1, HISTORY, -1, -1, -1)
    window = Window(None, drawn.targets, drawn.forcing, drawn.initial, every, begun)
    with torch.no_grad():
        torch.testing.assert_close(run[:, 1:], torch.stack(by_hand(toy, network, window), 1))
    step = corrected.step(drawn.initial, drawn.forcing[:, 0], begun)
    assert torch.equal(step, run[:, 1])


def test_a_step_without_its_past_is_refused(toy, gen):
    corrected = CorrectedSolver(toy, network_of())
    state, forcing, past = (draw(gen, 3, *n, 2, 8, 8) for n in ((), (), (HISTORY,)))
    targets = draw(gen, 3, UNROLL, 2, 8, 8)
    for wrong in (None, past[:, :1], past[:2]):
        with pytest.raises(InputError, match=r"past .*the 2 states before.*zopde\.rollout"):
            corrected.step(state, forcing, wrong)
    with pytest.raises(InputError, match=r"past of a corrected step: got shape.*expected none"):
        CorrectedSolver(toy, network_of(history=0)).step(state, forcing, past)
    objective = UnrolledObjective(toy, Window(state, targets, None, state), ONES)
    with pytest.raises(InputError, match=r"2 channels of state and forcing.*expected 8"):
        objective(network_of(), 1)
    with pytest.raises(InputError, match="window: got no initial state"):
        Window(state, targets, past=past)


@pytest.mark.parametrize("name", ["after", "forcing"])
def test_the_interface_costs_as_many_solver_steps_as_without(name, toy, gen):
    steps, injection = {}, InjectForcing() if name == "forcing" else None
    targets, forcing = (draw(gen, 3, UNROLL, 2, 8, 8) for _ in range(2))
    state, past = draw(gen, 3, 2, 8, 8), draw(gen, 3, HISTORY, 2, 8, 8)
    for history in (0, HISTORY):
        drawn = Window(None, targets, forcing, state, 1, past if history else None)
        counter = CountedSolver(toy)
        dense = by_variable({"state": DensePullback(), "forcing": DensePullback()})
        objective = UnrolledObjective(InterfaceSolver(counter, dense), drawn, ONES, injection)
        objective(network_of(name, history), 1)[0].backward()
        steps[history] = counter.steps
    assert steps[HISTORY] == steps[0] == 3 * (UNROLL + 128 * (2 + 3 * (name == "forcing")))


@pytest.mark.parametrize("every", [1, 2])
def test_windows_have_the_past_of_the_data_as_far_as_it_goes_exact(every):
    """State t of simulation i is 100 i + t; time 3 of simulation 1 was measured in part."""
    grid, times = Grid((2,), (1.0,), 0.1, ("u",)), 12
    states = (100.0 * torch.arange(2)[:, None] + torch.arange(times))[:, :, None, None]
    states = states.expand(2, times, 1, 2).clone()
    states[1, 3, 0, 1] = torch.nan
    stepped = states[:, : times - every]
    windows = Windows(Trajectories(grid, states), stepped, 2, 50, 0, every, history=3)
    seen = windows.batch(0)
    assert seen.past.shape == (windows.batch(0).batch, 3, 1, 2)
    for first, past in zip(seen.initial[:, 0, 0], seen.past[:, :, 0, 0], strict=True):
        simulation, start = divmod(int(first), 100)
        before, at, ended = [], start, False
        for _ in range(3):
            earlier = at - every
            ended = ended or earlier < 0 or (simulation, earlier) == (1, 3)
            at = at if ended else earlier
            before.append(100 * simulation + at)
        assert past.tolist() == before
