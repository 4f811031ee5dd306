"""Windows whose steps are pulled towards the reference."""

import pytest
import torch

from zopde import InputError, UnrolledObjective, Window, rollout
from zopde.hybrid import MomentsLoss
from zopde.solvers.lorenz96 import Lorenz96

SCALE = torch.tensor([3.0], dtype=torch.float64)


class Drift(torch.nn.Module):
    """A correction of one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, state, forcing=None):
        return self.weight * torch.sin(state)


@pytest.fixture(scope="module")
def solver():
    return Lorenz96(slow=6, force=9.0)


@pytest.fixture(scope="module")
def window(solver):
    """Sixty steps of a model with another forcing, from chaos."""
    start = solver.scenario(2, torch.Generator().manual_seed(0)).initial.double()
    states = rollout(Lorenz96(slow=6, force=8.0), start, 160)[:, 100:]
    return Window(solver.step(states[:, 0]), states[:, 1:], initial=states[:, 0])


def test_every_step_starts_from_the_state_that_was_pulled_exact(solver, window):
    network, state, errors = Drift(), window.initial, []
    for k in range(window.unroll):
        stepped = solver.step(state)
        judged = stepped + network(stepped)
        errors.append(((judged - window.targets[:, k]) / 3).square().mean())
        state = judged + 0.3 * (window.targets[:, k] - judged)
    found = UnrolledObjective(solver, window, SCALE, nudge=0.3)(network, 1)[0]
    torch.testing.assert_close(found, torch.stack(errors).mean())


def test_no_nudge_is_a_free_run_exact(solver, window):
    free = UnrolledObjective(solver, window, SCALE)(Drift(), 1)
    assert torch.equal(UnrolledObjective(solver, window, SCALE, nudge=0.0)(Drift(), 1), free)


def test_a_nudge_of_one_is_single_steps(solver, window):
    """Every step starts from the reference itself."""
    starts = torch.cat([window.initial[:, None], window.targets[:, :-1]], dim=1).flatten(0, 1)
    single = Window(None, window.targets.flatten(0, 1)[:, None], initial=starts)
    found, expected = (
        UnrolledObjective(solver, w, SCALE, nudge=a)(Drift(), 1)
        for w, a in ((window, 1.0), (single, 0.0))
    )
    torch.testing.assert_close(found, expected)


def test_probes_side_by_side_are_pulled_as_each_by_itself_exact(solver, window):
    weights = (0.1, -0.2, 0.3)

    def three(state, forcing=None):
        each = torch.tensor(weights, dtype=torch.float64).repeat_interleave(len(state) // 3)
        return each[:, None, None] * torch.sin(state)

    objective = UnrolledObjective(solver, window, SCALE, nudge=0.2)
    alone = [objective(lambda u, f=None, w=w: w * torch.sin(u), 1) for w in weights]
    torch.testing.assert_close(objective(three, 3), torch.cat(alone))


@pytest.mark.parametrize("loss", [None, MomentsLoss(SCALE)])
def test_a_nudge_keeps_the_gradient_of_chaos_from_exploding(solver, window, loss):
    def slope(nudge):
        network = Drift()
        twin = solver.differentiable_twin()
        UnrolledObjective(twin, window, SCALE, loss=loss, nudge=nudge)(network, 1)[0].backward()
        return abs(float(network.weight.grad))

    assert slope(0.0) > 30 * slope(0.3)


def test_where_the_reference_tells_nothing_nothing_is_pulled(solver, window):
    """The last channel of cells is not known: pulled as by a nudge of 0, the others are."""
    targets = window.targets.clone()
    targets[..., 5] = torch.nan
    pulled = UnrolledObjective(solver, window, SCALE, nudge=0.5)._pulled
    state = window.targets[:, 3] + 1
    moved = pulled(state, targets[:, 3])
    assert torch.equal(moved[..., 5], state[..., 5])
    torch.testing.assert_close(moved[..., :5], state[..., :5] - 0.5)


@pytest.mark.parametrize("nudge", [-0.1, 1.1, float("nan")])
def test_a_wrong_nudge_raises(solver, window, nudge):
    with pytest.raises(InputError, match="nudge"):
        UnrolledObjective(solver, window, SCALE, nudge=nudge)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("measured", [1.0, 0.5])
def test_pieces_are_the_windows_one_by_one_exact(every, measured, solver, window):
    """Also where a part was measured, and where one step is two of the solver's."""
    draw = torch.rand(window.targets.shape, generator=torch.Generator().manual_seed(1))
    targets = torch.where(draw < measured, window.targets, torch.nan)[:, every - 1 :: every]
    cut = Window(None, targets[:, :8], initial=window.initial, every=every)
    whole = UnrolledObjective(solver, cut, SCALE, nudge=0.2)
    pieces = whole.pieces(8, 8)
    losses = torch.cat([piece(Drift(), 1) for piece in pieces])
    torch.testing.assert_close(losses.mean(), whole(Drift(), 1)[0])
    shorter = Window(None, targets[:, :3], initial=window.initial, every=every)
    losses = torch.cat([piece(Drift(), 1) for piece in whole.pieces(8, 3)])
    expected = UnrolledObjective(solver, shorter, SCALE, nudge=0.2)(Drift(), 1)[0]
    torch.testing.assert_close(losses.mean(), expected)


def test_a_window_of_which_nothing_was_measured_is_no_piece(solver, window):
    targets = window.targets.clone()
    targets[0, :4] = torch.nan
    whole = UnrolledObjective(solver, Window(None, targets, initial=window.initial), SCALE)
    assert len(whole.pieces(8, 4)) == 1
    assert len(whole.pieces(8, 5)) == 2
