import math
import pickle

import pytest
import torch

from zopde import InputError, downsample, load_config, load_solver, run_correction
from zopde.contracts import Differentiable, ReferenceSolver
from zopde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky

LENGTH = 64.0


@pytest.fixture(scope="module")
def solver():
    return KuramotoSivashinsky()


def chaos(solver, count=3, steps=1000, dtype=torch.float64):
    """States after the first waves have grown."""
    state = solver.scenario(count, torch.Generator().manual_seed(0)).initial.to(dtype)
    for _ in range(steps):
        state = solver.step(state)
    return state


def after(time, shape, dt, waves=4):
    """A growing wave and its first harmonics on so many cells, after a time."""
    solver = KuramotoSivashinsky((shape,), LENGTH, dt)
    x = torch.tensor(solver.grid.centres(0), dtype=torch.float64)
    state = (0.5 * torch.sin(2 * math.pi * waves / LENGTH * x))[None, None]
    for _ in range(round(time / dt)):
        state = solver.step(state)
    return state


def test_contract(solver):
    assert isinstance(solver, ReferenceSolver)
    assert isinstance(solver, Differentiable)
    assert solver.grid.boundary == "periodic"
    assert isinstance(load_solver("kuramoto-sivashinsky", {"shape": (32,)}), KuramotoSivashinsky)


@pytest.mark.parametrize("waves", [3, 7, 12])
def test_a_small_wave_grows_at_its_linear_rate_order(waves):
    """k^2 - k^4, at second order in dx: the longest wave slowly, the middle one fast, 12 decay."""
    k = 2 * math.pi * waves / LENGTH

    def error(cells):
        solver = KuramotoSivashinsky((cells,), LENGTH, 1e-3)
        x = torch.tensor(solver.grid.centres(0), dtype=torch.float64)
        wave = 1e-7 * torch.cos(k * x)[None, None]
        rate = torch.log(solver.step(wave).norm() / wave.norm()) / 1e-3
        return abs(float(rate) - (k**2 - k**4))

    assert error(512) < 2e-2 * abs(k**2 - k**4)
    assert error(256) / error(512) == pytest.approx(4, rel=0.05)


def test_error_in_time_order():
    """The whole step, with -u u_x: half the dt, a quarter of the error."""
    exact = after(4.0, 64, 0.0125 / 4)
    errors = [float((after(4.0, 64, dt) - exact).norm()) for dt in (0.1, 0.05, 0.025)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_error_in_space_order():
    exact = after(4.0, 2048, 0.05)
    found = [after(4.0, cells, 0.05) for cells in (64, 128, 256)]
    errors = [float((u - downsample(exact, u.shape[2:])).abs().mean()) for u in found]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_chaos_stays_bounded_and_forgets_where_it_began(solver):
    state = chaos(solver)
    assert 1.0 < state.std() < 1.6
    other = state + 1e-4 * torch.randn(state.shape, generator=torch.Generator().manual_seed(1))
    begun = float((other - state).norm())
    for _ in range(600):
        state, other = solver.step(state), solver.step(other)
    assert state.abs().max() < 4
    assert (other - state).norm() > 10 * begun


def test_the_sum_of_u_stays_conserves(solver):
    state = chaos(solver) + 0.3
    moved = solver.step(state)
    torch.testing.assert_close(moved.sum(dim=2), state.sum(dim=2), rtol=1e-12, atol=1e-12)


def test_moved_and_mirrored_states_are_answered_alike_exact(solver):
    """u(x + a) by any cells, and -u(-x), solve the same equation."""
    state = chaos(solver)
    moved = solver.step(state)
    torch.testing.assert_close(solver.step(state.roll(5, 2)), moved.roll(5, 2))
    torch.testing.assert_close(solver.step(-state.flip(2)), -moved.flip(2))


def test_states_are_answered_on_their_own_agrees(solver):
    state = chaos(solver)
    alone = torch.cat([solver.step(one) for one in state.split(1)])
    torch.testing.assert_close(solver.step(state), alone, rtol=0, atol=1e-14)


def test_a_copy_and_an_earlier_step_change_nothing_exact(solver):
    state = chaos(solver, dtype=torch.float32, steps=100)
    first = solver.step(state)
    solver.step(2 * state)
    assert torch.equal(solver.step(state), first)
    assert torch.equal(pickle.loads(pickle.dumps(solver)).step(state), first)


def test_float32_is_the_rounded_float64_exact(solver):
    state = chaos(solver, dtype=torch.float32, steps=100)
    assert torch.equal(solver.step(state), solver.step(state.double()).float())


def test_twin_is_the_same_step_with_a_gradient_agrees(solver):
    state = chaos(solver)
    free = state.clone().requires_grad_(True)
    answer = solver.differentiable_twin().step(free)
    assert torch.equal(answer.detach(), solver.step(free))
    assert not solver.step(free).requires_grad
    direction = torch.randn(state.shape, generator=torch.Generator().manual_seed(2)).double()
    (pulled,) = torch.autograd.grad(answer.square().sum(), free)
    ends = [solver.step(state + mu * direction).square().sum() for mu in (1e-6, -1e-6)]
    slope = float((ends[0] - ends[1]) / 2e-6)
    assert float((pulled * direction).sum()) == pytest.approx(slope, rel=1e-7)


def test_scenario_does_not_depend_on_the_resolution(solver):
    fine = solver.at((512,))
    coarse, finer = (s.scenario(2, torch.Generator().manual_seed(4)) for s in (solver, fine))
    assert coarse.initial.dtype == torch.float32
    mean = downsample(finer.initial, (64,))
    assert (mean - coarse.initial).norm() / coarse.initial.norm() < 0.02
    assert fine.options == solver.options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (32, 32)}, "shape: got .32, 32., expected cells along one axis"),
        ({"extent": -1.0}, "extent along x: got -1"),
        ({"dt": 0.0}, "dt: got 0"),
    ],
)
def test_bad_options_raise(options, words):
    with pytest.raises(InputError, match=words):
        KuramotoSivashinsky(**options)


def test_bad_input_raises(solver):
    with pytest.raises(InputError, match="state: got shape"):
        solver.step(torch.zeros(1, 1, 32))
    with pytest.raises(InputError, match="forcing: got a tensor"):
        solver.step(torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))


def test_a_short_run_with_measured_derivatives_is_the_one_with_exact_ones_agrees(tmp_path):
    changes = ["data.fine=[64]", "data.coarse=[16]", "data.skip=2", "data.steps=6"]
    changes += ["data.train=2", "data.test=1", "non.length='2 iterations'", "training.batch=1"]
    changes += ["training.length='4 iterations'", "training.unroll=4", "training.warmup=0"]
    changes += ['run.labels=["SRC","NOG","ZO-dense","SOL"]', "interface.scheme=central"]
    config = load_config("every-step", None, changes, {"solver": {"spec": "kuramoto-sivashinsky"}})
    mae = run_correction(config, tmp_path / "run")["mae"]
    ignored, measured, exact = (mae[label]["mean"] for label in ("NOG", "ZO-dense", "SOL"))
    assert abs(measured - exact) < 0.1 * abs(ignored - exact)
