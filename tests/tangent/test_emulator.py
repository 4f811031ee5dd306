"""A network fitted to answers: its derivative is exact as its own, and its own alone."""

import pytest
import torch

from zopde import Grid
from zopde.interface import Step, Watch
from zopde.progress import Silent
from zopde.tangent import Emulator, EmulatorPullback, Values, fit_values, value_error


def grid_of(shape, boundary="periodic", mask=None):
    dims = ("z", "y", "x")[-len(shape) :]
    forced = {"forcing_channels": ("f",), "mask": mask}
    return Grid(shape, (1.0,) * len(shape), 0.1, ("u", "v"), dims=dims, boundary=boundary, **forced)


def shuffled(grid):
    """An emulator whose weights are all random, behind which nothing is zero."""
    torch.manual_seed(0)
    sizes = torch.tensor([2.0, 0.1]), torch.tensor([0.3, 0.02]), torch.tensor([0.5])
    emulator = Emulator(grid, *sizes, width=4).double()
    with torch.no_grad():
        for weight in emulator.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return emulator


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Linear:
    """u' = u + 0.1 (u shifted - u + f) in both channels."""

    def __init__(self, grid):
        self.grid = grid

    def step(self, state, forcing):
        return state + 0.1 * (state.roll(1, -1) - state + forcing)


def test_a_new_one_changes_nothing():
    state = torch.randn(3, 2, 6, 5)
    emulator = Emulator(grid_of((6, 5)), torch.ones(2), torch.ones(2), torch.ones(1))
    assert torch.equal(emulator(state, torch.randn(3, 1, 6, 5)), state)


@pytest.mark.parametrize("variable", ["state", "forcing"])
@pytest.mark.parametrize("shape", [(9,), (8, 6), (4, 5, 6)])
@pytest.mark.parametrize("boundary", ["periodic", "open"])
def test_the_product_is_the_slope_of_its_own_answers(shape, boundary, variable):
    """Against central differences of the emulator, and against what its watch is told."""
    emulator, solver = shuffled(grid_of(shape, boundary)), Linear(grid_of(shape, boundary))
    state, forcing, v = draw(2, 2, *shape), draw(2, 1, *shape), draw(2, 2, *shape)
    step = Step(solver, state, forcing, solver.step(state, forcing), variable)
    pullback = EmulatorPullback(emulator, watch=Watch(torch.Generator(), at=()))
    product, d = pullback(step, v), draw(*step.point.shape)
    mu, inputs = 1e-6, {"state": state, "forcing": forcing}
    ahead, behind = (
        emulator(**{**inputs, variable: inputs[variable] + s * mu * d}) for s in (1, -1)
    )
    slope = (ahead - behind) / (2 * mu)
    torch.testing.assert_close((product * d).sum(), (v * slope).sum(), rtol=1e-5, atol=1e-6)
    pushed = pullback._push(step, d)
    torch.testing.assert_close(pushed, slope.detach(), rtol=1e-5, atol=1e-6)
    assert not product.requires_grad


def test_outside_of_a_mask_there_is_nothing():
    mask = torch.ones(8, 6, dtype=torch.bool)
    mask[2:4, 1:3] = False
    emulator = shuffled(grid_of((8, 6), "open", mask))
    state, forcing = draw(2, 2, 8, 6), draw(2, 1, 8, 6)
    other = torch.where(mask, state, 77.0)
    assert torch.equal(emulator(state, forcing), emulator(other, forcing))
    assert (emulator(state, forcing)[..., ~mask] == 0).all()
    wrong = Values(state, forcing, torch.where(mask, emulator(state, forcing).detach(), 9.0))
    assert value_error(emulator, wrong) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_step_is_learned_with_its_derivative(tmp_path, dtype):
    grid = grid_of((16,))
    solver, torch_state = Linear(grid), torch.Generator().manual_seed(0)
    state = torch.randn(200, 2, 16, generator=torch_state).to(dtype)
    forcing = torch.randn(200, 1, 16, generator=torch_state).to(dtype)
    values = Values(state, forcing, solver.step(state, forcing))
    one = torch.ones(2, dtype=dtype)
    torch.manual_seed(0)
    emulator = Emulator(grid, one, 0.17 * one, one[:1], width=6, places=0).to(dtype)
    before, held = value_error(emulator, values.at(slice(150, None))), values.at(slice(150, None))
    assert before == pytest.approx(1, abs=0.1)
    fit_values(emulator, values.at(slice(150)), 150, tmp_path, Silent(), "fit")
    assert value_error(emulator, held) < 0.2 * before
    step = Step(solver, held.state, held.forcing, held.stepped, "forcing")
    v = torch.randn(50, 2, 16, generator=torch_state).to(dtype)
    product = EmulatorPullback(emulator, watch=Watch(torch.Generator(), at=()))(step, v)
    exact = 0.1 * v.sum(dim=1, keepdim=True)
    assert (product - exact).norm() < 0.5 * exact.norm()
    assert product.dtype == dtype


def test_what_was_visited_has_its_share(tmp_path):
    """Stored answers say 0, visited ones 1: the mean that is learned tells the share."""
    grid = grid_of((4,))
    state, forcing = torch.zeros(8, 2, 4), torch.zeros(8, 1, 4)
    stored, visited = (Values(state, forcing, torch.full_like(state, n)) for n in (0.0, 1.0))
    for share in (0.25, 1.0):
        torch.manual_seed(0)
        one = torch.ones(2)
        emulator = Emulator(grid, one, one, one[:1], width=6)
        what = emulator, stored, 150, tmp_path / str(share), Silent(), "fit"
        fit_values(*what, visited=visited, share=share)
        assert float(emulator(state, forcing).detach().mean()) == pytest.approx(share, abs=0.05)


def test_steps_that_failed_are_not_learned():
    solver = Linear(grid_of((4,)))
    state, forcing = draw(3, 2, 4).requires_grad_(), draw(3, 1, 4)
    stepped = solver.step(state, forcing)
    spoilt = stepped.detach().clone()
    spoilt[1] = torch.nan
    steps = [Step(solver, state, forcing, s) for s in (stepped, spoilt)]
    found = Values.of(steps)
    assert len(found) == 5
    assert not found.state.requires_grad
    assert torch.equal(found.stepped[3:], stepped[[0, 2]])
