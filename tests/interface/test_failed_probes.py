"""Vector-Jacobian products of which some probes failed."""

import pytest
import torch

from zopde import BankPullback, ColouredPullback, DensePullback, RandomPullback, SolverError
from zopde.interface import Bank, JacobianStore, Key, Probing, Step, Watch


class Lossy:
    """Answers NaN for the probes with these numbers, counted from the first one."""

    def __init__(self, solver, lost):
        self.grid, self.solver, self.lost, self.asked = solver.grid, solver, set(lost), 0

    def step(self, state, forcing=None):
        answer = self.solver.step(state, forcing)
        for row in range(len(state)):
            if self.asked + row in self.lost:
                answer[row] = torch.nan
        self.asked += len(state)
        return answer


@pytest.fixture
def at(toy, gen):
    state, forcing, v = (torch.randn(2, 2, 8, 8, generator=gen).double() for _ in range(3))

    def make(lost):
        return Step(Lossy(toy, lost), state, forcing, toy.step(state, forcing)), v

    return make


def test_dense_entry_of_a_failed_probe_is_zero_and_the_others_stay(at):
    whole, part = (DensePullback(1e-4, states=100)(*at(lost)) for lost in ([], [5, 200]))
    expected = whole.clone().flatten()
    expected[[5, 200]] = 0
    assert torch.equal(part.flatten(), expected)


def test_central_becomes_one_sided_where_a_side_is_lost(at):
    # One call holds 128 probes ahead, then 128 behind.
    whole, part = (DensePullback(1e-4, "central", 256)(*at(lost)) for lost in ([], [5, 128 + 9]))
    assert torch.equal(part[1], whole[1])
    assert not torch.equal(part, whole)
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-3)


def test_coloured_probe_that_failed_loses_its_colour_alone(at, toy):
    pullback = ColouredPullback(toy.grid, (1, 1), 1e-4)
    whole, part = pullback(*at([])), pullback(*at([2]))
    changed = whole != part
    assert 0 < changed.sum() <= 64 // 9 + 1
    assert not part[changed].any()


def test_random_is_the_mean_over_the_rest(at):
    def draw(lost, directions):
        pullback = RandomPullback(torch.Generator().manual_seed(0), directions, 1e-4)
        return pullback(*at(lost))

    # Three directions for each of two states; the last of the first state is lost.
    first_two = draw([], 3), draw([2], 3)
    assert torch.equal(first_two[0][1], first_two[1][1])
    step, v = at([])
    exact = DensePullback(1e-4)(step, v)
    errors = [draw(range(0, 4000, 3), 2000), draw([], 2000)]
    sizes = [float((found - exact).square().mean().sqrt()) for found in errors]
    assert sizes[0] < 1.6 * sizes[1], "a third of the directions lost biases nothing"
    assert not draw(range(6), 3).any(), "with none left, nothing"


def test_a_jacobian_must_be_whole_raises(at):
    with pytest.raises(SolverError, match="Jacobian: 1 of"):
        JacobianStore().fetch(at([17])[0], Probing(1e-4))


def test_a_bank_holds_no_answer_of_a_failed_probe_raises(at, tmp_path):
    probing = Probing(1e-4, states=50)
    with pytest.raises(SolverError, match="Jacobian: 1 of"):
        JacobianStore(tmp_path).fetch(at([60])[0], probing)
    kept = JacobianStore(tmp_path)
    found = kept.fetch(at([])[0], probing)
    assert all(numbers.isfinite().all() for numbers in found)
    assert kept.solver_steps == 2 * 128 - 50, "the call before the one that failed is kept"


def test_a_watch_whose_probe_failed_says_nothing_about_the_bank(at, toy):
    step, v = at([])
    scale = torch.ones(2, dtype=torch.float64)
    bank = Bank(4, Key(scale), probing=Probing(1e-4))
    bank.add(step)
    watch = Watch(torch.Generator().manual_seed(0), below=0.99, mend=bank.mend)
    watched = BankPullback(bank, watch=watch)(at([0])[0], v)
    assert torch.equal(watched, BankPullback(bank)(step, v))
    assert (len(bank), watch.seen) == (2, [])


def test_a_loss_that_is_not_finite_is_not_hidden(at):
    step, v = at([])
    assert DensePullback(1e-4)(step, v * torch.nan).isnan().all()
