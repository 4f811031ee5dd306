"""Every way of the interface cut on a mesh, against the Jacobian of a finite-element step."""

import numpy as np
import pytest
import torch

from zopde import (
    BankPullback,
    ColouredPullback,
    CorrectedPullback,
    DensePullback,
    IdentityPullback,
    InputError,
    Mesh,
    RandomPullback,
    differentiable,
)
from zopde.interface import Bank, Key, Probing, Step, coloured_for, measure_reach
from zopde.interface.hops import Hops
from zopde.solvers.heat_mesh import HeatMesh


@pytest.fixture(scope="module")
def solver():
    return HeatMesh((289,))


@pytest.fixture(scope="module")
def step(solver):
    state = solver.scenario(3, torch.Generator().manual_seed(0)).initial.double()
    for _ in range(20):
        state = solver.step(state)
    return Step(solver, state, None, solver.step(state))


@pytest.fixture(scope="module")
def cotangent(step):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(step.state.shape, generator=draw, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact(solver, step, cotangent):
    state = step.state.clone().requires_grad_()
    (solver.differentiable_twin().step(state) * cotangent).sum().backward()
    return state.grad


def cosine(found, exact):
    return float(torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0))


def test_dense_exact(step, cotangent, exact):
    assert cosine(DensePullback(1e-5)(step, cotangent), exact) > 0.9999999


def test_bank_at_its_own_states_exact(step, cotangent, exact):
    bank = Bank(3, Key(step.state.std().view(1), None), "state", Probing(1e-5))
    bank.add(step)
    assert cosine(BankPullback(bank)(step, cotangent), exact) > 0.99999


def test_corrected_with_as_many_directions_as_points_exact(step, cotangent, exact):
    pullback = CorrectedPullback(torch.Generator().manual_seed(0), 289, mu=1e-5)
    assert cosine(pullback(step, cotangent), exact) > 0.9999


def test_random_directions_come_nearer_than_none(step, cotangent, exact):
    pullback = RandomPullback(torch.Generator().manual_seed(0), 2000, 1e-5)
    assert cosine(pullback(step, cotangent), exact) > 0.9
    assert torch.equal(IdentityPullback()(step, cotangent), cotangent)


def test_coloured_by_the_reach_that_is_measured_exact(step, cotangent, exact):
    coloured = coloured_for(step, mu=1e-5)
    assert coloured.colours < 289 / 2
    assert cosine(coloured(step, cotangent), exact) > 0.99999


def test_coloured_with_two_neighbours_leaves_little_out(step, cotangent, exact):
    coloured = coloured_for(step, (2,), allow_bias=True, mu=1e-5)
    assert coloured.colours < 35
    assert 0 < coloured.bias < 0.01
    assert cosine(coloured(step, cotangent), exact) > 0.9999


class Spread:
    """Each point gets the mean of itself and its neighbours, cubed: one neighbour far, exactly."""

    def __init__(self, mesh):
        self.grid = mesh
        near = torch.eye(mesh.shape[0], dtype=torch.float64)
        near[mesh.edges[:, 0], mesh.edges[:, 1]] = 1
        self.near = near / near.sum(dim=1, keepdim=True)

    def step(self, state, forcing=None):
        return (state**3) @ self.near.T.to(state)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_reach_of_an_explicit_step_is_one_neighbour_on_any_mesh(axes):
    mesh = Mesh(np.random.default_rng(2).random((150, axes)), 0.1, ("u",))
    solver, draw = Spread(mesh), torch.Generator().manual_seed(0)
    state = torch.randn(2, 1, 150, generator=draw, dtype=torch.float64)
    found = Step(solver, state, None, solver.step(state))
    assert measure_reach(found, mu=1e-4).radius() == (1,)
    v = torch.randn(state.shape, generator=draw, dtype=torch.float64)
    expected = DensePullback(1e-6)(found, v)
    torch.testing.assert_close(ColouredPullback(mesh, (1,), 1e-6)(found, v), expected)


def test_two_parts_of_a_mesh_that_do_not_touch_are_not_near():
    apart = Mesh(
        np.arange(8.0)[:, None],
        0.1,
        ("u",),
        neighbours=[[0, 1], [1, 2], [2, 3], [4, 5], [5, 6], [6, 7]],
    )
    hops = Hops(apart)
    assert hops.by_distance(torch.eye(8)[[7]], torch.tensor([0])).argmax() == 8  # no way there
    assert hops.colours((1,)).tolist() == [0, 1, 2, 0, 0, 1, 2, 0]


def test_points_of_one_colour_share_no_neighbour():
    mesh = HeatMesh((289,)).grid
    colours, away = Hops(mesh).colours((1,)), torch.zeros(289, 289)
    away[mesh.edges[:, 0], mesh.edges[:, 1]] = 1
    near = (away + torch.eye(289)) @ (away + torch.eye(289)) > 0
    same = colours[:, None] == colours
    assert int((near & same).sum()) == 289  # each point with itself
    assert int(colours.max()) + 1 < 14


def test_a_step_that_reaches_everywhere_is_not_coloured():
    mesh = Mesh(np.random.default_rng(2).random((40, 2)), 0.1, ("u",))

    class Global(Spread):
        def step(self, state, forcing=None):
            return state + 0.1 * state.mean(dim=2, keepdim=True)

    solver, state = Global(mesh), torch.rand(2, 1, 40, dtype=torch.float64)
    with pytest.raises(InputError, match="40 colours"):
        coloured_for(Step(solver, state, None, solver.step(state)))


def test_any_code_back_propagates_through_a_mesh(solver, step, cotangent, exact):
    local = differentiable(solver, mu=1e-5)
    state = step.state.clone().requires_grad_()
    (local.step(state) * cotangent).sum().backward()
    assert local.report().way == "coloured"
    assert cosine(state.grad, exact) > 0.9999
    with pytest.raises(InputError, match="'tangent' on a mesh"):
        differentiable(solver, step.state, way="tangent")
