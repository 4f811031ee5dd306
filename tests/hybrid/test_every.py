"""One correction to several solver steps: the formula, and its gradient by every cut."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zopde import (
    ColouredPullback,
    ConvCorrector,
    CorrectedSolver,
    DensePullback,
    Grid,
    InputError,
    InterfaceSolver,
    Mesh,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
    cge,
    load_solver,
    rollout,
)
from zopde.blackbox import BlackBox, CountedSolver
from zopde.hybrid import INJECTIONS, LastLoss, Repeated
from zopde.interface import IdentityPullback

HERE = Path(__file__).parent.parent
ONES = torch.ones(2, dtype=torch.float64)
EVERY, UNROLL = 3, 2


@pytest.fixture(params=list(INJECTIONS))
def inject(request):
    return request.param


@pytest.fixture
def network(inject, corrector):
    """The common corrector, at home in the place of the test, for every third step."""
    scales = torch.tensor([1.5, 0.7]), torch.tensor([0.3, 0.4])
    body = ConvCorrector(4, 2, width=3, depth=3)
    found = Normalised(body, *scales, inject=inject, every=EVERY).double()
    own = {} if found.output_scale is None else {"output_scale": found.output_scale}
    found.load_state_dict({**corrector.state_dict(), **own})
    return found


@pytest.fixture
def window(gen):
    """Three windows, without the first steps, for they depend on the solver."""

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    forcing = 0.1 * draw(3, UNROLL, EVERY, 2, 8, 8)
    return Window(None, draw(3, UNROLL, 2, 8, 8), forcing, draw(3, 2, 8, 8), EVERY)


def steps_by_hand(solver, state, forcing):
    for k in range(EVERY):
        state = solver.step(state, forcing[:, k])
    return state


def by_hand(inject, solver, network, state, forcing):
    """One correction: (batch, channel, y, x), (batch, every, forcing_channel, y, x)."""
    first = forcing[:, 0]
    if inject == "after":
        stepped = steps_by_hand(solver, state, forcing)
        return stepped + network(stepped, first)
    answer = network(state, first)
    if inject == "before":
        return steps_by_hand(solver, state + answer, forcing)
    if inject == "forcing":
        return steps_by_hand(solver, state, torch.stack([f + answer for f in forcing.unbind(1)], 1))
    factor = answer.exp()
    return steps_by_hand(solver, state, torch.stack([f * factor for f in forcing.unbind(1)], 1))


def objective(solver, window, inject, **more):
    return UnrolledObjective(solver, window, ONES, INJECTIONS[inject], **more)


def known(window, solver):
    """The same window with its first steps, as data have them."""
    return replace(window, stepped=steps_by_hand(solver, window.initial, window.forcing[:, 0]))


def gradient(network, loss):
    network.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def test_a_corrected_step_is_its_formula_exact(inject, toy, network, window):
    state, forcing = window.initial, window.forcing[:, 0]
    expected = by_hand(inject, toy, network, state, forcing)
    own = CorrectedSolver(toy, network)  # it knows its place, and how often
    given = CorrectedSolver(toy, network, INJECTIONS[inject], EVERY)
    assert torch.equal(own.step(state, forcing), expected)
    assert torch.equal(given.step(state, forcing), expected)
    assert own.grid == replace(toy.grid, dt=EVERY * toy.grid.dt)
    assert toy.grid.dt == 0.1
    found = rollout(own, state, UNROLL, lambda t: window.forcing[:, t])
    again = by_hand(inject, toy, network, expected, window.forcing[:, 1])
    assert torch.equal(found, torch.stack([state, expected, again], dim=1))


def test_every_step_is_todays_path_exact(inject, toy, network, window):
    """With every = 1 nothing is wrapped, and the forcing is as it was."""
    network.every, state, forcing = 1, window.initial, window.forcing[:, 0, 0]
    corrected = CorrectedSolver(toy, network)
    assert torch.equal(
        corrected.step(state, forcing),
        INJECTIONS[inject].step(toy, network, state, forcing),
    )
    assert corrected.grid is toy.grid


def test_the_loss_is_that_of_the_states_behind_the_corrections_exact(inject, toy, network, window):
    state, errors = window.initial, []
    for k in range(UNROLL):
        state = by_hand(inject, toy, network, state, window.forcing[:, k])
        errors.append((state - window.targets[:, k]).square().mean())
    expected = sum(errors) / UNROLL
    for given in (window, known(window, toy)):
        found = objective(toy, given, inject)(network, 1)[0]
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_a_loss_of_ones_own_sees_the_time_between_corrections(toy, corrector, window):
    domains = []

    def judge(predicted, reference, domain):
        domains.append(domain)
        return LastLoss()(predicted, reference, domain)

    objective(toy, window, "after", loss=judge)(corrector, 2)
    assert [domain.dt for domain in domains] == [EVERY * toy.grid.dt]


@pytest.mark.parametrize(
    "pullback",
    [
        DensePullback(1e-6, "central"),
        ColouredPullback(load_solver(f"{HERE}/toy_solver.py:Toy").grid, (1, 1), 1e-6, "central"),
    ],
)
def test_products_chained_through_single_steps_are_the_twins_gradient(
    inject, toy, network, window, pullback
):
    """A product of all steps at once would reach three cells: the colours are those of one."""
    window = known(window, toy)
    twin = objective(toy.differentiable_twin(), window, inject)
    exact = gradient(network, twin(network, 1)[0])
    asking = InterfaceSolver(BlackBox(toy), pullback)
    found = gradient(network, objective(asking, window, inject)(network, 1)[0])
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)


def test_the_gradient_of_the_weights_by_queries_is_the_twins(inject, toy, network, window):
    window = known(window, toy)
    twin = objective(toy.differentiable_twin(), window, inject)
    exact = gradient(network, twin(network, 1)[0])
    loss = objective(toy, window, inject)
    found = cge(WeightOracle(network, loss), mu=1e-5, scheme="central")
    torch.testing.assert_close(found.gradient, exact, rtol=1e-5, atol=1e-8)
    some = torch.arange(0, 200, 9)
    alone = WeightOracle(network, loss, stacked=False).coordinates(some, 1e-3)
    together = WeightOracle(network, loss, 7).coordinates(some, 1e-3)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


def test_nog_is_the_gradient_of_each_correction_by_itself(toy, corrector, window):
    state, terms = window.initial, []
    for k in range(UNROLL):
        stepped = steps_by_hand(toy, state.detach(), window.forcing[:, k])
        state = stepped + corrector(stepped, window.forcing[:, k, 0])
        terms.append((state - window.targets[:, k]).square().mean())
    by_hand = gradient(corrector, sum(terms) / UNROLL)
    found = gradient(corrector, objective(BlackBox(toy), window, "after")(corrector, 1)[0])
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=0)


def test_the_identity_passes_all_steps_as_it_passes_one(toy, corrector, window):
    asking = InterfaceSolver(BlackBox(toy), IdentityPullback())
    state = window.initial.clone().requires_grad_()
    Repeated(asking, EVERY).step(state, window.forcing[:, 0]).sum().backward()
    assert torch.equal(state.grad, torch.ones_like(state))


def test_only_steps_that_are_not_known_are_taken_exact(inject, toy, network, window):
    counted = CountedSolver(toy)
    objective(counted, known(window, toy), inject)(network, 5)
    after = inject == "after"
    assert counted.steps == 5 * 3 * EVERY * (UNROLL - after)


def test_each_of_the_steps_has_noise_of_its_own_that_a_seed_repeats(inject, network, window):
    noisy = load_solver(f"{HERE / 'toy_faults.py'}:Noisy", {"size": 0.05})
    state, forcing = window.initial, window.forcing[:, 0]
    corrected = CorrectedSolver(noisy, network)
    one, other = corrected.with_seed(5), corrected.with_seed(6)
    assert torch.equal(one.step(state, forcing), one.step(state, forcing))
    assert not torch.equal(one.step(state, forcing), other.step(state, forcing))
    still = load_solver(f"{HERE / 'toy_faults.py'}:Noisy", {"size": 0.0})
    seen = []
    for solver in Repeated(noisy, EVERY).with_seed(5)._in_turn:
        seen.append(solver.step(state, forcing[:, 0]) - still.step(state, forcing[:, 0]))
    assert all(not torch.equal(seen[0], noise) for noise in seen[1:])


def test_all_probes_meet_the_noise_of_each_step(inject, network, window):
    noisy = load_solver(f"{HERE / 'toy_faults.py'}:Noisy", {"size": 0.05})
    exact = gradient(network, objective(noisy, window, inject, seeds=(5, 6))(network, 1)[0])
    asking = InterfaceSolver(BlackBox(noisy), DensePullback(1e-6, "central"))
    loss = objective(asking, window, inject, seeds=(5, 6))
    torch.testing.assert_close(gradient(network, loss(network, 1)[0]), exact, rtol=1e-6, atol=1e-9)


def test_a_solver_may_answer_in_the_same_memory_every_time(toy, window):
    class Same:
        grid = toy.grid
        memory = torch.empty_like(window.initial)

        def step(self, state, forcing=None):
            self.memory.zero_()  # what it was given is gone, if it was this
            self.memory += toy.step(state, forcing)
            return self.memory

    state, forcing = window.initial, window.forcing[:, 0]
    expected = steps_by_hand(toy, state, forcing)
    assert torch.equal(Repeated(Same(), EVERY).step(state, forcing), expected)


@pytest.mark.parametrize(
    "domain",
    [
        Grid((4, 4), (1.0, 1.0), 0.5, ("heat",), mask=torch.eye(4).bool().numpy()),
        Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 0.5, ("heat",)),
    ],
)
def test_the_grid_is_that_of_the_solver_but_for_its_dt(domain):
    class Still:
        grid = domain

        def step(self, state, forcing=None):
            return state

    found = Repeated(Still(), 4).grid
    assert found == replace(domain, dt=2.0)
    assert domain.dt == 0.5
    values = torch.rand(2, 1, *domain.shape)
    assert torch.equal(found.filled(values), domain.filled(values))


@pytest.mark.parametrize("every", [0, -1, 1.5, "3"])
def test_a_number_that_counts_no_steps_raises(every, toy, corrector, window):
    for make in (
        lambda: Repeated(toy, every),
        lambda: CorrectedSolver(toy, corrector, every=every),
        lambda: objective(toy, replace(window, every=every), "after"),
        lambda: Normalised(corrector.body, ONES, ONES, every=every),
    ):
        with pytest.raises(InputError, match=r"every: got .* expected") as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("of_one", [True, False])
def test_a_forcing_that_is_not_one_for_each_step_raises(inject, toy, network, window, of_one):
    forcing = window.forcing[:, 0, 0] if of_one else window.forcing[:, 0, :2]
    with pytest.raises(InputError, match=r"forcing: got shape .* \(batch, 3, forcing_channel"):
        CorrectedSolver(toy, network).step(window.initial, forcing)
