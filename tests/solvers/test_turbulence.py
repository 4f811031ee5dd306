import math
import pickle
from itertools import pairwise, permutations

import pytest
import torch

from zopde import InputError, load_config, load_solver, run_correction
from zopde.contracts import Differentiable, ReferenceSolver
from zopde.solvers.turbulence import Turbulence


@pytest.fixture(scope="module")
def solver():
    return Turbulence((8, 8, 8))


def flow(solver, count=2, steps=2, dtype=torch.float64):
    state = solver.scenario(count, torch.Generator().manual_seed(0)).initial.to(dtype)
    for _ in range(steps):
        state = solver.step(state)
    return state


def noise(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def abc(solver):
    """The flow of Arnold, Beltrami and Childress at the faces: its curl is itself."""
    state = torch.empty(1, *solver.grid.state_shape, dtype=torch.float64)
    for i in range(3):
        centres = [torch.tensor(solver.grid.centres(j), dtype=torch.float64) for j in range(3)]
        centres[i] = centres[i] + solver.grid.spacing[i] / 2
        z, y, x = torch.meshgrid(*centres, indexing="ij")
        flows = (y.sin() + x.cos(), x.sin() + z.cos(), z.sin() + y.cos())
        state[0, i] = (0.8 * flows[0], 0.8 * flows[1], 0.8 * flows[2])[i]
    return state


def test_contract(solver):
    assert isinstance(solver, ReferenceSolver)
    assert isinstance(solver, Differentiable)
    assert solver.grid.boundary == "periodic"
    assert isinstance(load_solver("turbulence", {"shape": (8, 8, 8)}), Turbulence)


def test_the_exact_flow_decays_as_it_should_order():
    """ABC flow decays as exp(-nu t) and keeps its form; second order in dx."""

    def error(cells):
        solver = Turbulence((cells,) * 3, dt=0.1, viscosity=0.05)
        begun = state = abc(solver)
        for _ in range(5):
            state = solver.step(state)
        return float((state - math.exp(-0.05 * 0.5) * begun).abs().mean())

    errors = [error(cells) for cells in (8, 16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_error_in_time_order():
    """Of second order at least, for flow that is not a solution of a linear equation."""

    def after(dt):
        solver = Turbulence((8, 8, 8), dt=dt)
        state = flow(solver, steps=0)
        for _ in range(round(0.4 / dt)):
            state = solver.step(state)
        return state

    exact = after(0.4 / 256)
    errors = [float((after(dt) - exact).norm()) for dt in (0.1, 0.05, 0.025)]
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 9, 16)])
def test_a_step_leaves_no_divergence_and_keeps_the_mean_conserves(shape, dtype):
    solver = Turbulence(shape)
    state = (0.3 * noise((2, 3, *shape)) + 0.1).to(dtype)
    moved = solver.step(state)
    assert moved.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert solver.divergence(state).abs().max() > 0.1
    assert solver.divergence(moved).abs().max() < 100 * eps
    means = [u.mean(dim=(2, 3, 4)) for u in (state, moved)]
    torch.testing.assert_close(*means, rtol=0, atol=20 * eps)


def test_energy_decays_through_viscosity_alone():
    """Without it, the scheme in space keeps the energy; Runge-Kutta takes dt^3 of it and less."""
    thick = Turbulence((8, 8, 8))
    state = flow(thick, steps=0)
    energies = [float(state.square().mean())]
    for _ in range(5):
        state = thick.step(state)
        energies.append(float(state.square().mean()))
    assert all(later < 0.99 * before for before, later in pairwise(energies))

    def lost(dt):
        thin = Turbulence((8, 8, 8), dt=dt, viscosity=1e-12)
        state = flow(thin, steps=0)
        return abs(float(1 - thin.step(state).square().mean() / state.square().mean()))

    assert lost(0.05) < 1e-4
    assert lost(0.1) / lost(0.05) > 7


def test_the_axes_are_alike_exact(solver):
    state = flow(solver)
    moved = solver.step(state)
    for order in permutations(range(3)):

        def turned(u, order=order):
            return u[:, list(order)].permute(0, 1, *(2 + i for i in order))

        torch.testing.assert_close(solver.step(turned(state)), turned(moved))


def test_states_are_answered_on_their_own_agrees(solver):
    """Also where they are too many for one pass: 2^16 cells are 128 states."""
    state = flow(solver)
    alone = torch.cat([solver.step(one) for one in state.split(1)])
    torch.testing.assert_close(solver.step(state), alone, rtol=0, atol=1e-14)
    many = solver.step(state.repeat(65, 1, 1, 1, 1))
    torch.testing.assert_close(many[-2:], alone, rtol=0, atol=1e-14)


def test_a_copy_and_an_earlier_step_change_nothing_exact(solver):
    state = flow(solver, dtype=torch.float32)
    first = solver.step(state)
    solver.step(2 * state)
    assert torch.equal(solver.step(state), first)
    assert torch.equal(pickle.loads(pickle.dumps(solver)).step(state), first)


def test_twin_is_the_same_step_with_a_gradient_agrees(solver):
    """Also along divergence, which the step takes away first."""
    state = flow(solver)
    free = state.clone().requires_grad_(True)
    answer = solver.differentiable_twin().step(free)
    assert torch.equal(answer.detach(), solver.step(free))
    assert not solver.step(free).requires_grad
    direction, weight = noise(state.shape), noise(state.shape, seed=2)
    (pulled,) = torch.autograd.grad((answer * weight).sum(), free)
    ends = [(solver.step(state + mu * direction) * weight).sum() for mu in (1e-6, -1e-6)]
    slope = float((ends[0] - ends[1]) / 2e-6)
    assert float((pulled * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_substeps_keep_fine_grids_stable():
    solver = Turbulence((48, 4, 4), dt=1.0, viscosity=0.1)
    state = 0.5 * torch.sign(noise((1, 3, 48, 4, 4)))
    for _ in range(3):
        state = solver.step(state)
    assert state.abs().max() < 0.5


def test_downsampling_keeps_flux_and_no_divergence_exact(solver):
    fine = solver.at((16, 24, 8))
    state = flow(fine)
    coarse = solver.downsample(state)
    assert solver.divergence(coarse).abs().max() < 1e-12
    torch.testing.assert_close(coarse[:, 2, 0, 0, 0], state[:, 2, :2, :3, 0].mean(dim=(1, 2)))
    torch.testing.assert_close(coarse[:, 1, 3, 2, 5], state[:, 1, 6:8, 8, 5].mean(dim=1))
    with pytest.raises(InputError, match=r"fine state: got \(12, 8, 8\) cells"):
        solver.downsample(torch.zeros(1, 3, 12, 8, 8))


def test_scenario_is_the_same_flow_on_any_grid():
    coarse, fine = Turbulence(), Turbulence((48, 48, 48))
    draws = [s.scenario(2, torch.Generator().manual_seed(4)).initial for s in (coarse, fine)]
    for solver, state in zip((coarse, fine), draws, strict=True):
        assert state.dtype == torch.float32
        assert solver.divergence(state).abs().max() < 1e-4
        rms = state.square().mean(dim=(1, 2, 3, 4)).sqrt()
        torch.testing.assert_close(rms, torch.full((2,), 0.5))
    mean = coarse.downsample(draws[1])
    assert (mean - draws[0]).norm() / draws[0].norm() < 0.15
    assert fine.options == coarse.options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (8, 8)}, "shape: got .8, 8., expected cells along .z, y, x."),
        ({"viscosity": -1.0}, "viscosity: got -1"),
        ({"dt": 1e9}, "substeps that a step takes"),
    ],
)
def test_bad_options_raise(options, words):
    with pytest.raises(InputError, match=words):
        Turbulence(**options)


def test_bad_input_raises(solver):
    with pytest.raises(InputError, match="state: got shape"):
        solver.step(torch.zeros(1, 2, 8, 8, 8))
    with pytest.raises(InputError, match="forcing: got a tensor"):
        solver.step(torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8))


def test_a_short_run_with_measured_derivatives_is_the_one_with_exact_ones_agrees(tmp_path):
    changes = ["data.fine=[8, 8, 8]", "data.coarse=[4, 4, 4]", "data.skip=2", "data.steps=6"]
    changes += ["data.train=2", "data.test=1", "non.length='2 iterations'", "training.batch=1"]
    changes += ["training.length='2 iterations'", "training.unroll=3", "training.warmup=0"]
    changes += ['run.labels=["SRC","NOG","ZO-dense","SOL"]', "interface.scheme=central"]
    config = load_config("quick", None, changes, {"solver": {"spec": "turbulence"}})
    mae = run_correction(config, tmp_path / "run")["mae"]
    ignored, measured, exact = (mae[label]["mean"] for label in ("NOG", "ZO-dense", "SOL"))
    assert abs(measured - exact) < 0.1 * abs(ignored - exact)
