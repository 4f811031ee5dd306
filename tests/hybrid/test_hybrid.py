import pytest
import torch

from zopde import (
    CorrectedSolver,
    InputError,
    SolverError,
    UnrolledObjective,
    WeightOracle,
    cge,
    downsample,
    rollout,
    rollout_error,
)
from zopde.blackbox import BlackBox, CountedSolver

ONES = torch.ones(2, dtype=torch.float64)


def test_downsample_conserves_the_mean_and_composes(gen):
    fine = torch.randn(3, 2, 16, 8, generator=gen, dtype=torch.float64)
    coarse = downsample(fine, (4, 2))
    torch.testing.assert_close(coarse.mean(dim=(2, 3)), fine.mean(dim=(2, 3)))
    torch.testing.assert_close(downsample(downsample(fine, (8, 4)), (4, 2)), coarse)
    assert coarse[0, 0, 0, 0] == pytest.approx(fine[0, 0, :4, :4].mean().item())


def test_downsample_raises():
    with pytest.raises(InputError, match="divisors"):
        downsample(torch.zeros(1, 1, 9, 9), (4, 4))


def test_rollout_follows_steps(toy):
    state, forcing = torch.randn(2, 2, 8, 8), torch.randn(2, 5, 2, 8, 8)
    found = rollout(toy, state, 5, lambda t: forcing[:, t])
    assert found.shape == (2, 6, 2, 8, 8)
    assert torch.equal(found[:, 0], state)
    for t in range(5):
        assert torch.equal(found[:, t + 1], toy.step(found[:, t], forcing[:, t]))


def test_corrected_solver_adds_the_correction(toy, corrector):
    state, forcing = torch.randn(2, 2, 8, 8).double(), torch.randn(2, 2, 8, 8).double()
    stepped = toy.step(state, forcing)
    expected = stepped + corrector(stepped, forcing)
    assert torch.equal(CorrectedSolver(toy, corrector).step(state, forcing), expected)


def test_objective_is_the_error_of_a_corrected_rollout_exact(toy, corrector, window):
    scale = torch.tensor([2.0, 0.5], dtype=torch.float64)
    loss = UnrolledObjective(toy, window, scale)(corrector, 1)[0]
    state = window.stepped + corrector(window.stepped, window.forcing[:, 0])
    states = [state]
    hybrid = CorrectedSolver(toy, corrector)
    for k in range(1, 4):
        states.append(hybrid.step(states[-1], window.forcing[:, k]))
    error = (torch.stack(states, dim=1) - window.targets) / scale.view(2, 1, 1)
    torch.testing.assert_close(loss, error.square().mean())


def test_many_probes_agree_with_one(toy, corrector, window):
    objective = UnrolledObjective(toy, window, ONES)
    losses = objective(corrector, 3)
    torch.testing.assert_close(losses, objective(corrector, 1).expand(3), rtol=1e-12, atol=0)


def test_only_later_steps_ask_the_solver(toy, corrector, window):
    counted = CountedSolver(toy)
    UnrolledObjective(counted, window, ONES)(corrector, 5)
    assert counted.steps == 5 * 3 * (window.unroll - 1)


def test_black_box_gives_nog_and_twin_gives_sol(toy, corrector, window):
    """Through the black box the gradient misses the solver; queries and the twin do not."""

    def backprop(solver):
        corrector.zero_grad()
        UnrolledObjective(solver, window, ONES)(corrector, 1)[0].backward()
        return torch.cat([p.grad.flatten() for p in corrector.parameters()])

    nog, sol = backprop(toy), backprop(toy.differentiable_twin())
    zo = cge(WeightOracle(corrector, UnrolledObjective(toy, window, ONES)), mu=1e-6).gradient
    assert torch.cosine_similarity(zo, sol, dim=0) > 0.9999999
    assert torch.cosine_similarity(nog, sol, dim=0) < 0.999


def test_rollout_error_exact():
    reference = torch.ones(2, 3, 1, 2, 2)
    predicted = reference.clone()
    predicted[0, 1] += 0.5
    predicted[1, 2, 0, 0, 0] = float("nan")
    error = rollout_error(predicted, reference)
    assert error.mae[0].tolist() == [0.0, 0.5, 0.0]
    assert error.relative[0].tolist() == [0.0, 0.5, 0.0]
    assert error.diverged.tolist() == [False, True]
    assert error.mean_mae[1] == float("inf")


def test_growth_counts_as_divergence():
    reference = torch.ones(1, 2, 1, 2, 2)
    assert rollout_error(101 * reference, reference).diverged.all()


class Written:
    """A solver in NumPy, or in torch with its graph, or with a fault."""

    def __init__(self, grid, answer):
        self.grid, self.answer = grid, answer

    def step(self, state, forcing=None):
        return self.answer(state)


def test_numpy_solver_runs_under_backprop(toy, corrector, window):
    solver = BlackBox(Written(toy.grid, lambda u: torch.from_numpy(0.9 * u.numpy())))
    UnrolledObjective(solver, window, ONES)(corrector, 1)[0].backward()
    assert all(p.grad.isfinite().all() for p in corrector.parameters())


def test_black_box_lets_no_gradient_through(toy):
    state = torch.randn(1, 2, 8, 8, requires_grad=True)
    gain = torch.ones((), requires_grad=True)
    assert not BlackBox(Written(toy.grid, lambda u: gain * u)).step(state).requires_grad


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda u: 1 / 0, "step raised ZeroDivisionError"),
        (lambda u: u.view(7), "step raised RuntimeError: shape"),
        (lambda u: u.numpy(), "got ndarray, expected a torch.Tensor"),
        (lambda u: u[..., :3], "got shape"),
        (lambda u: u[:1].double(), "got dtype"),
    ],
)
def test_a_solvers_fault_is_named(toy, answer, words):
    with pytest.raises(SolverError, match=words):
        BlackBox(Written(toy.grid, answer)).step(torch.zeros(1, 2, 8, 8))


def test_a_corrected_solver_is_a_module_that_holds_its_network(toy, corrector, window):
    corrected = CorrectedSolver(toy, corrector, every=2)
    assert dict(corrected.named_parameters()).keys() == {
        f"network.{name}" for name, _ in corrector.named_parameters()
    }
    forcing = window.forcing[:, :2]
    assert torch.equal(corrected(window.initial, forcing), corrected.step(window.initial, forcing))
    shown = repr(corrected)
    assert "InjectAfter, once in 2 steps, velocity_y, velocity_x on 8 x 8 cells, dt 0.2" in shown
    assert "(network): Normalised(" in shown
    function = CorrectedSolver(toy, lambda state, forcing: 0 * state)
    assert not list(function.parameters())
    assert "velocity_y" in repr(function)
