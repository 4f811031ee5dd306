"""Local Jacobians by least squares, against autograd, without noise and with it."""

import pytest
import torch

from zopde import ColouredPullback, DensePullback, Grid, InputError, RegressedPullback, load_solver
from zopde.blackbox import BlackBox, CountedSolver
from zopde.interface import Step, Watch, coloured_for
from zopde.interface.regressed import cosines
from zopde.solvers.heat_mesh import HeatMesh


def never():
    return Watch(torch.Generator(), at=())


def off(found, exact):
    return float((found - exact).norm() / exact.norm())


class Bent:
    """Every cell and its neighbours along each axis, squared and mixed over the channels."""

    def __init__(self, shape, boundary="periodic", noise=0.0):
        extent = tuple(map(float, shape))
        self.grid, self.noise = Grid(shape, extent, 0.1, ("a", "b"), boundary=boundary), noise
        self.draw = torch.Generator().manual_seed(7)

    def step(self, state, forcing=None):
        answer = state.flip(1) ** 2
        for axis in range(2, state.dim()):
            moved = state.roll(1, axis)
            if self.grid.boundary == "open":
                moved = moved.index_fill(axis, torch.tensor([0]), 0.0)
            answer = answer + (axis - 0.5) * moved * state
        return answer + self.noise * torch.randn(state.shape, generator=self.draw).to(state)


def asked(solver, seed=0, batch=2):
    draw = torch.Generator().manual_seed(seed)
    state, v = torch.randn(2, batch, *solver.grid.state_shape, generator=draw).double()
    leaf = state.clone().requires_grad_()
    (exact,) = torch.autograd.grad(type(solver)(solver.grid.shape).step(leaf), leaf, v)
    return Step(solver, state, None, solver.step(state)), v, exact


def test_cosines_are_orthogonal_and_have_no_mean_exact():
    for unknowns in (1, 2, 7, 64):
        design = cosines(unknowns)
        unit = (unknowns + 1) * torch.eye(unknowns, dtype=torch.float64)
        torch.testing.assert_close(design.T @ design, unit)
        torch.testing.assert_close(design.sum(dim=0), torch.zeros_like(design[0]))


@pytest.mark.parametrize("shape", [(16,), (9, 8), (6, 5, 6)])
def test_products_agree_with_autograd_on_one_to_three_axes(shape):
    step, v, exact = asked(Bent(shape))
    for states in (512, 5):
        pullback = RegressedPullback(
            step.solver.grid, (1,) * len(shape), 1e-5, "central", states, watch=never()
        )
        torch.testing.assert_close(pullback(step, v), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("variable", ["state", "forcing"])
@pytest.mark.parametrize(("scheme", "sides"), [("forward", 1), ("central", 2)])
def test_queries_are_counted_exact(toy, gen, scheme, sides, variable):
    counter = CountedSolver(BlackBox(toy))
    state, forcing, v = torch.randn(3, 2, 2, 8, 8, generator=gen, dtype=torch.float64)
    step = Step(counter, state, forcing, toy.step(state, forcing), variable)
    pullback = RegressedPullback(toy.grid, (1, 1), 1e-5, scheme, watch=never())
    found = pullback(step, v)
    assert off(found, DensePullback(1e-6, scheme)(Step(toy, *vars_of(step)), v)) < 1e-4
    assert pullback.probes_for(variable) == sides * (2 * pullback.colours + 1)
    counts = counter.counts()
    assert (counts["steps"], counts["checking"]) == (2 * pullback.probes_for(variable), 0)


def vars_of(step):
    return step.state, step.forcing, step.stepped, step.variable


def test_burgers_agrees_with_autograd_through_phiflow(gen):
    solver = load_solver("burgers", {"shape": (16, 16), "extent": 16.0})
    state, forcing, v = torch.randn(3, 1, 2, 16, 16, generator=gen, dtype=torch.float64)
    step = Step(solver, state, forcing, solver.step(state, forcing))
    leaf = state.clone().requires_grad_()
    twin = solver.differentiable_twin().step(leaf, forcing)
    (exact,) = torch.autograd.grad(twin, leaf, v)
    pullback = RegressedPullback(solver.grid, (2, 2), 1e-6, "central", watch=never())
    assert off(pullback(step, v), exact) < 1e-3


def test_noise_reaches_a_product_far_less_than_by_colours():
    """By 1 / sqrt(2 K) in the mean; K is 33 here, noise a hundredth of what a probe moves."""
    step, v, exact = asked(Bent((16, 16), noise=1e-5))
    scale = torch.ones(2)
    coloured = ColouredPullback(step.solver.grid, (1, 1), scale=scale, check_every=0)
    regressed = RegressedPullback(step.solver.grid, (1, 1), scale=scale, watch=never())
    assert regressed.probes_for() == coloured.probes_for() + 1 == 33
    by_colours, by_fit = off(coloured(step, v), exact), off(regressed(step, v), exact)
    assert by_fit < 0.25 * by_colours
    assert by_fit < 0.01


def test_on_a_mesh_two_neighbours_leave_little_out():
    solver, draw = HeatMesh((289,)), torch.Generator().manual_seed(1)
    state = solver.step(solver.scenario(2, draw).initial.double())
    step, v = Step(solver, state, None, solver.step(state)), torch.randn(state.shape).double()
    exact = DensePullback(1e-6)(step, v)
    coloured = coloured_for(step, (2,), allow_bias=True, mu=1e-5, check_every=0)
    fit = RegressedPullback(solver.grid, (2,), 1e-5, watch=never())
    assert off(fit(step, v), exact) < 1.5 * off(coloured(step, v), exact) < 0.01


@pytest.mark.parametrize("lost", [1, 2])
def test_probes_that_failed_are_left_out_of_the_fit(lost):
    solver = Bent((8, 8))
    step, v, exact = asked(solver)
    pullback, plain = RegressedPullback(solver.grid, (1, 1), 1e-6, watch=never()), solver.step

    def losing(state, forcing=None):
        answer = plain(state)
        answer[3 : 3 + lost] = torch.nan
        return answer

    solver.step = losing
    errors = [off(one, true) for one, true in zip(pullback(step, v), exact, strict=True)]
    assert errors[1] < 1e-4
    assert errors[0] < (1e-3 if lost == 1 else 1.0)
    assert (errors[0] > 1e-3) == (lost == 2)


def test_the_held_out_error_is_that_of_a_direction_beyond_the_fit():
    counter = CountedSolver(BlackBox(Bent((8, 8))))
    (step, v, _), errors, steps = asked(Bent((8, 8))), [], 0
    for radius in ((1, 1), (0, 1)):
        watch = Watch(torch.Generator().manual_seed(0), at=[0])
        pullback = RegressedPullback(counter.grid, radius, 1e-4, watch=watch)
        pullback(Step(counter, *vars_of(step)), v)
        steps += pullback.probes_for() + 2
        assert counter.counts()["checking"] == steps
        errors.append(watch.seen[0].error)
    assert errors[0] < 1e-3
    assert errors[1] > 0.1


def test_another_way_serves_where_a_fit_is_bad():
    step, v, exact = asked(Bent((8, 8)))
    watch = Watch(torch.Generator().manual_seed(0), 0.9, fallback=DensePullback(1e-6))
    narrow = RegressedPullback(step.solver.grid, (0, 0), 1e-5, watch=watch)
    assert off(narrow(step, v), exact) < 1e-4
    narrow.watch = never()
    assert off(narrow(step, v), exact) > 0.1


@pytest.mark.parametrize("radius", [(1,), (1, -1), (1, 0.5)])
def test_a_radius_that_will_not_do_raises(toy, radius):
    with pytest.raises(InputError, match="radius"):
        RegressedPullback(toy.grid, radius)
