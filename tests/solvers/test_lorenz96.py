import pytest
import torch

from zopde import InputError, load_config, load_solver, rollout, run_correction
from zopde.contracts import Differentiable, Downsampling, ReferenceSolver
from zopde.solvers.lorenz96 import Lorenz96


@pytest.fixture
def states(gen):
    return 3 * torch.randn(5, 1, 6, generator=gen, dtype=torch.float64)


@pytest.fixture
def fine_states(gen):
    """Six slow variables and three fast ones of each."""
    return torch.randn(2, 1, 24, generator=gen, dtype=torch.float64)


def test_contract():
    solver = load_solver("lorenz96", {"slow": 8})
    for what in (ReferenceSolver, Differentiable, Downsampling):
        assert isinstance(solver, what)
    assert solver.grid.shape == (8,)
    assert solver.at((24,)).options == solver.options


def rate(solver, state):
    """dX/dt, from a step so short that it is a difference."""
    return (solver.step(state) - state) / solver.grid.dt


def test_slow_variables_follow_lorenzs_first_equation_exact(states):
    found = rate(Lorenz96(slow=6, dt=1e-8, force=7.0, drag=1.5), states)[:, 0]
    for k in range(6):
        x = states[:, 0]
        expected = -x[:, k - 1] * (x[:, k - 2] - x[:, (k + 1) % 6]) - 1.5 * x[:, k] + 7.0
        torch.testing.assert_close(found[:, k], expected, rtol=1e-5, atol=1e-5)


def test_fast_variables_follow_lorenzs_second_equation_exact(fine_states):
    """h = 1/2, b = 4, c = 3: every Y of the one circle, and their sum in the slow equation."""
    scales = {"coupling": 0.5, "amplitude": 4.0, "speed": 3.0}
    found = rate(Lorenz96((24,), slow=6, dt=1e-8, force=7.0, **scales), fine_states)
    x, y = fine_states[:, 0, ::4], fine_states[:, 0].unflatten(1, (6, 4))[..., 1:].flatten(1)
    of_x = found[:, 0, ::4]
    of_y = found[:, 0].unflatten(1, (6, 4))[..., 1:].flatten(1)
    both = 0.5 * 3.0 / 4.0
    for k in range(6):
        expected = -x[:, k - 1] * (x[:, k - 2] - x[:, (k + 1) % 6]) - x[:, k] + 7.0
        expected = expected - both * y[:, 3 * k : 3 * k + 3].sum(dim=1)
        torch.testing.assert_close(of_x[:, k], expected, rtol=1e-5, atol=1e-5)
    for i in range(18):
        turned = y[:, (i + 1) % 18] * (y[:, (i + 2) % 18] - y[:, i - 1])
        expected = -12.0 * turned - 3.0 * y[:, i] + both * x[:, i // 3]
        torch.testing.assert_close(of_y[:, i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (24,)])
def test_error_in_time_order(shape, states, fine_states):
    """Classical Runge-Kutta: half the dt, a sixteenth of the error."""
    start = states if shape == (6,) else fine_states

    def after(dt):
        solver = Lorenz96(shape, slow=6, dt=dt, amplitude=2.0, speed=2.0)
        return rollout(solver, start, round(0.4 / dt))[:, -1]

    exact = after(0.4 / 512)
    errors = [float((after(dt) - exact).norm()) for dt in (0.02, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.25)


def test_without_coupling_the_slow_variables_do_not_see_the_fast_ones(fine_states):
    coarse = Lorenz96(slow=6, dt=0.01, coupling=0.0)
    fine = coarse.at((24,))
    alone = rollout(coarse, coarse.downsample(fine_states), 20)[:, -1]
    beside = coarse.downsample(rollout(fine, fine_states, 20)[:, -1])
    torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-3)  # ten steps for each of one


@pytest.mark.parametrize("unknown", ["force", "drag"])
@pytest.mark.parametrize("shape", [(6,), (24,)])
def test_what_is_unknown_is_a_forcing_channel_exact(unknown, shape, states, fine_states):
    start = states if shape == (6,) else fine_states
    known = Lorenz96(shape, slow=6, **{unknown: 2.5})
    driven = Lorenz96(shape, slow=6, unknown=unknown)
    assert driven.grid.forcing_channels == (unknown,)
    assert torch.equal(driven.step(start, torch.full_like(start, 2.5)), known.step(start))


def test_the_twin_gives_the_same_numbers_and_a_gradient(states):
    solver = Lorenz96(slow=6)
    twin = solver.differentiable_twin()
    start = states.requires_grad_()
    assert not solver.step(start).requires_grad
    assert torch.equal(twin.step(start), solver.step(start))
    assert torch.autograd.gradcheck(twin.step, (start[:1],))


def test_a_scenario_has_the_same_slow_variables_on_every_grid():
    solver = Lorenz96(slow=8)
    drawn = [
        s.scenario(3, torch.Generator().manual_seed(0)).initial for s in (solver, solver.at((32,)))
    ]
    assert torch.equal(solver.downsample(drawn[1]), drawn[0])


def test_chaos_stays_bounded_and_forgets_where_it_began():
    solver = Lorenz96(slow=40, force=8.0)
    state = solver.scenario(4, torch.Generator().manual_seed(0)).initial.double()
    state = rollout(solver, state, 300)[:, -1]
    other = state + 1e-6
    first, second = (rollout(solver, u, 200)[:, -1] for u in (state, other))
    assert first.abs().max() < 20
    assert (second - first).norm() / (other - state).norm() > 1e3


@pytest.mark.parametrize(
    "options",
    [{"slow": 3}, {"shape": (9,), "slow": 8}, {"shape": (8, 8), "slow": 8}, {"unknown": "speed"}],
)
def test_what_is_no_lorenz_model_raises(options):
    with pytest.raises(InputError):
        Lorenz96(**options)


def test_a_run_learns_what_the_fast_variables_do(tmp_path):
    """Eight iterations on short windows, through the black box, near the exact derivative."""
    changes = ["data.fine=[40]", "data.skip=60", "data.steps=30", "data.train=3", "data.test=2"]
    changes += ["training.length='8 iterations'", "training.unroll=8", "training.batch=2"]
    changes += ["non.length='40 iterations'", "interface.scheme=central", "run.dtype=float64"]
    changes += ['run.labels=["SRC","ZO-interface","SOL"]']
    config = load_config("quick", None, changes, {"solver": {"spec": "lorenz96"}})
    metrics = run_correction(config, tmp_path / "run")
    assert metrics["loss"]["ZO-interface"] == pytest.approx(metrics["loss"]["SOL"], rel=1e-3)
    assert metrics["loss"]["ZO-interface"] < metrics["loss"]["SRC"]
