"""Residuals of an unroll: what the loss squares; and the objective that takes no solver step."""

from dataclasses import replace

import pytest
import torch

from zopde import Grid, UnrolledObjective
from zopde.blackbox import CountedSolver
from zopde.hybrid import INJECTIONS

SCALE = torch.tensor([1.5, 0.7], dtype=torch.float64)


class Diffusing:
    def __init__(self, mask=None):
        land = {} if mask is None else {"mask": mask}
        self.grid = Grid((8, 8), (1.0, 1.0), 0.1, ("a", "b"), ("f", "g"), **land)

    def step(self, state, forcing=None):
        return state + 0.1 * (state.roll(1, 2) - state) + 0.1 * forcing


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("land", [False, True])
def test_the_mean_square_of_the_residuals_is_the_loss(missing, land, window, corrector):
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[2:4, 3:6] = not land
    if missing:
        targets = window.targets.clone()
        targets[1, :, :, ::2] = torch.nan
        window = replace(window, targets=targets)
    objective = UnrolledObjective(Diffusing(mask.tolist() if land else None), window, SCALE)
    with torch.no_grad():
        residuals = objective.residuals(corrector, 2)
        assert residuals.shape == (2, window.targets.numel())
        torch.testing.assert_close(residuals.square().mean(dim=1), objective(corrector, 2))
    unknown = window.targets.isnan() | (land & ~mask)
    by_entry = residuals[0].view(4, 3, 2, 8, 8).transpose(0, 1)
    assert torch.equal(by_entry == 0, unknown.broadcast_to(by_entry.shape))


@pytest.mark.parametrize("inject", INJECTIONS)
def test_a_still_objective_feels_every_weight_without_a_solver_step(inject, window, corrector):
    solver = CountedSolver(Diffusing())
    still = UnrolledObjective(solver, window, SCALE, INJECTIONS[inject]).still()
    still(corrector, 1)[0].backward()
    assert solver.steps == 0
    assert all(bool(p.grad.abs().sum() > 0) for p in corrector.parameters())
