import math
import pickle

import numpy as np
import pytest
import torch

from zopde import InputError, load_solver
from zopde.contracts import Differentiable, Downsampling, ReferenceSolver
from zopde.solvers.heat_mesh import HeatMesh, operators

SIZES = (289, 1089, 4225)


def error_of(count, error):
    """Root mean square over the square, by the mass of the points."""
    mass = torch.tensor(HeatMesh((count,)).grid.weights)
    return float((mass * error.square()).sum().sqrt())


def test_contract():
    solver = load_solver("heat-mesh", {"shape": (81,)})
    assert isinstance(solver, ReferenceSolver)
    assert isinstance(solver, Downsampling)
    assert isinstance(solver, Differentiable)
    assert solver.at((289,)).options == solver.options
    assert pickle.loads(pickle.dumps(solver)).grid == solver.grid


def test_a_wave_decays_as_the_heat_equation_says_at_second_order():
    """cos(pi x) cos(pi y) by a factor 1 / (1 + 2 pi^2 D dt) in each implicit step."""

    def error(count):
        solver = HeatMesh((count,), diffusivity=0.01, speed=0.0, rate=0.0)
        wave = (math.pi * solver.grid.positions).cos().prod(dim=1)
        state = wave[None, None]
        for _ in range(50):
            state = solver.step(state)
        return error_of(count, state[0, 0] - wave / (1 + 2 * math.pi**2 * 0.01 * 0.02) ** 50)

    errors = [error(count) for count in SIZES]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (abs(orders - 2) < 0.25).all(), orders


def test_the_source_is_that_of_its_equation():
    solver = HeatMesh((81,), speed=0.0, diffusivity=0.0, rate=3.0, dt=0.01)
    state = torch.linspace(-1.5, 1.5, 81, dtype=torch.float64)[None, None]
    torch.testing.assert_close(solver.step(state), state + 0.03 * (state - state**3))


def test_the_swirl_turns_as_its_stream_function_says():
    """v grad u of u = x y, of linear elements, against its formula, weighed with a bump."""
    points = HeatMesh((4225,)).grid.positions.numpy()
    cells = np.array(HeatMesh((4225,)).grid.cells)
    carry = operators(points, cells)[2]
    x, y = points.T
    bump = np.exp(-10 * ((x - 0.3) ** 2 + (y - 0.6) ** 2))
    sx, sy, cx, cy = (f(math.pi * a) for f in (np.sin, np.cos) for a in (x, y))
    mass = operators(points, cells)[0]
    expected = (mass * bump * (sx * cy * y - cx * sy * x)).sum()
    assert bump @ (carry @ (x * y)) == pytest.approx(expected, rel=0.01)


def test_no_heat_leaves_and_what_is_level_stays():
    solver = HeatMesh((289,), rate=0.0)
    mass, state = torch.tensor(solver.grid.weights), torch.rand(2, 1, 289, dtype=torch.float64)
    torch.testing.assert_close((mass * solver.step(state)).sum(-1), (mass * state).sum(-1))
    ones = torch.ones(1, 1, 289, dtype=torch.float64)
    torch.testing.assert_close(solver.step(ones), ones)


def test_a_coarse_mesh_errs_and_finer_ones_err_less():
    finest = HeatMesh((4225,))
    initial = finest.scenario(2, torch.Generator().manual_seed(0)).initial.double()
    ends = []
    for count in SIZES:
        solver = finest.at((count,))
        state = solver.downsample(initial)
        for _ in range(60):
            state = solver.step(state)
        ends.append(state[..., :289])
    coarse, middle = ((end - ends[-1]).abs().mean() for end in ends[:2])
    assert coarse > 0.05
    assert middle < 0.5 * coarse


def test_a_draw_does_not_depend_on_the_mesh():
    fine, coarse = (
        HeatMesh((n,)).scenario(2, torch.Generator().manual_seed(5)) for n in (1089, 81)
    )
    assert torch.equal(fine.initial[..., :81], coarse.initial)


def test_twin_has_the_same_numbers_and_their_gradient():
    solver = HeatMesh((81,))
    twin = solver.differentiable_twin()
    state = torch.rand(2, 1, 81, dtype=torch.float64, requires_grad=True)
    assert torch.equal(twin.step(state), solver.step(state))
    assert torch.autograd.gradcheck(twin.step, state)


@pytest.mark.parametrize("shape", [(100,), (9, 9), (10**7,)])
def test_other_sizes_are_refused_with_those_that_are_there(shape):
    with pytest.raises(InputError, match=r"\(81,\), \(289,\)"):
        HeatMesh(shape)
