import pickle

import pytest
import torch

from zopde import Grid, InputError, UnrolledObjective, WeightOracle, cge
from zopde.contracts import Differentiable, ReferenceSolver
from zopde.solvers.burgers import Burgers


@pytest.fixture(scope="module")
def solver():
    return Burgers((16, 16))


def fields(batch=3, cells=16, dtype=torch.float64):
    gen = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, 2, cells, cells, generator=gen, dtype=dtype),
        torch.randn(batch, 2, cells, cells, generator=gen, dtype=dtype),
    )


def test_contract(solver):
    assert isinstance(solver, ReferenceSolver)
    assert isinstance(solver, Differentiable)
    assert isinstance(solver.grid, Grid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_is_phiflow_exact(solver, dtype):
    state, forcing = fields(dtype=dtype)
    plain = Burgers((16, 16), compiled=False).step(state, forcing)
    compiled = solver.step(state, forcing)
    assert compiled.dtype == dtype
    assert torch.equal(compiled, plain)
    # Recorded with other numbers than it is used with.
    assert torch.equal(
        solver.step(2 * state, -forcing),
        Burgers((16, 16), compiled=False).step(2 * state, -forcing),
    )


def test_states_are_answered_on_their_own_agrees(solver):
    state, forcing = fields(5)
    alone = torch.cat([solver.step(state[i : i + 1], forcing[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(solver.step(state, forcing), alone, rtol=0, atol=1e-14)


def test_step_carries_no_gradient_and_changes_nothing(solver):
    state, forcing = fields()
    state.requires_grad_(True)
    before = state.detach().clone()
    assert not solver.step(state, forcing).requires_grad
    assert torch.equal(state, before)


def test_twin_is_the_same_step_with_a_gradient_agrees(solver):
    state, forcing = fields()
    twin = solver.differentiable_twin()
    state.requires_grad_(True)
    answer = twin.step(state, forcing)
    assert torch.equal(answer.detach(), solver.step(state, forcing))
    direction = torch.randn_like(state)
    (pulled,) = torch.autograd.grad(answer.square().sum(), state)
    mu = 1e-6
    ahead, behind = (
        solver.step(state.detach() + s * mu * direction, forcing).square().sum() for s in (1, -1)
    )
    assert float((pulled * direction).sum()) == pytest.approx(
        float((ahead - behind) / (2 * mu)), rel=1e-6
    )


def test_uniform_flow_only_feels_the_force_exact(solver):
    state = torch.tensor([0.7, -0.4], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    forcing = torch.full_like(state, 2.0)
    torch.testing.assert_close(solver.step(state.clone(), forcing), state + 0.2)


def test_shear_decays_at_the_viscous_rate_order():
    """u = (0, sin k y) is not advected: it decays as exp(-nu k^2 t), at second order in dx."""

    def error(cells):
        solver = Burgers((cells, cells), dt=1e-3)
        k = 2 * torch.pi / 32.0 * 4
        y = torch.tensor(solver.grid.centres(0), dtype=torch.float64)
        wave = torch.sin(k * y).view(1, 1, -1, 1).expand(1, 1, cells, cells)
        state = torch.cat([torch.zeros_like(wave), wave], dim=1)
        after = solver.step(state, torch.zeros_like(state))
        rate = -torch.log(after[0, 1].norm() / state[0, 1].norm()) / 1e-3
        return abs(float(rate) - 0.1 * k**2)

    assert error(16) / error(32) == pytest.approx(4, rel=0.1)


def test_diffusion_is_stable_on_fine_grids():
    solver = Burgers((256, 256), extent=32.0)
    checker = torch.ones(1, 2, 256, 256)
    checker[..., ::2] = -1
    zero = torch.zeros_like(checker)
    state = checker
    for _ in range(3):
        state = solver.step(state, zero)
    assert state.abs().max() < 1


def test_scenario_does_not_depend_on_the_resolution(solver):
    fine = solver.at((64, 64))
    draws = [s.scenario(2, torch.Generator().manual_seed(4)) for s in (solver, fine)]
    coarse_force, fine_force = (draw.forcing(7) for draw in draws)
    blocks = fine_force.reshape(2, 2, 16, 4, 16, 4).mean(dim=(3, 5))
    relative = (blocks - coarse_force).norm() / coarse_force.norm()
    assert relative < 0.5  # wavelengths of 2 to 4 coarse cells at 16 x 16
    assert not torch.equal(draws[0].forcing(7), draws[0].forcing(8))
    assert fine.options == solver.options


def test_two_runs_are_bit_identical(solver):
    state, forcing = fields(dtype=torch.float32)
    other = pickle.loads(pickle.dumps(solver))
    for _ in range(5):
        assert torch.equal(solver.step(state, forcing), other.step(state, forcing))


@pytest.mark.parametrize(
    ("state", "forcing", "words"),
    [
        (torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 16, 16), "state: got shape"),
        (torch.zeros(1, 2, 16, 16), None, "forcing: got None"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 2, 16, 16), "state: got shape"),
    ],
)
def test_bad_input_raises(solver, state, forcing, words):
    with pytest.raises(InputError, match=words):
        solver.step(state, forcing)


def test_bad_physics_raises():
    with pytest.raises(InputError, match="viscosity: got -0"):
        Burgers(viscosity=-0.1)


def gradients(network, window, mu):
    """CGE through the black box, and autograd through the twin."""
    solver = Burgers((8, 8))
    scale = torch.ones(2, dtype=torch.float64)
    found = cge(WeightOracle(network, UnrolledObjective(solver, window, scale)), mu=mu).gradient
    network.zero_grad()
    UnrolledObjective(solver.differentiable_twin(), window, scale)(network, 1)[0].backward()
    return found, torch.cat([p.grad.flatten() for p in network.parameters()])


def test_cge_is_autograd_through_the_twin_order(corrector, window):
    """float64, forward differences: cosine >= 0.999999 at mu 1e-5, error proportional to mu."""
    errors = []
    for mu in (2e-5, 1e-5, 5e-6):
        found, exact = gradients(corrector, window, mu)
        errors.append(float((found - exact).norm() / exact.norm()))
        assert torch.cosine_similarity(found, exact, dim=0) >= 0.999999
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_numbers_on_the_gpu(solver):
    state, forcing = fields()
    there = solver.step(state.cuda(), forcing.cuda())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), solver.step(state, forcing))
