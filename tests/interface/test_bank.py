import pytest
import torch

from zopde import BankPullback, DensePullback, InputError, InterfaceSolver, load_solver
from zopde.blackbox import CountedSolver
from zopde.interface import (
    Bank,
    JacobianStore,
    Key,
    Probing,
    PullbackByVariable,
    Step,
    Watch,
    farthest_points,
)
from zopde.interface.bank import check_bank_fits, fitted


def draw(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def step_of(solver, gen, batch=3, variable="state"):
    state, forcing = draw(gen, 2, batch, *solver.grid.state_shape)
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


SCALE = torch.tensor([1.0, 2.0])


def bank_of(capacity=6, variable="state", forcing_scale=None, **settings):
    return Bank(capacity, Key(SCALE, forcing_scale), variable, Probing(1e-5), **settings)


def bank_at(step, **settings):
    bank = bank_of(variable=step.variable, **settings)
    bank.add(step)
    return bank


@pytest.mark.parametrize("variable", ["state", "forcing"])
def test_at_its_own_snapshots_agrees_with_dense(toy, gen, variable):
    step = step_of(toy, gen, variable=variable)
    v = torch.randn_like(step.stepped)
    found = BankPullback(bank_at(step))(step, v)
    torch.testing.assert_close(found, DensePullback(1e-5)(step, v), rtol=1e-4, atol=1e-5)


def test_at_its_own_snapshots_agrees_with_dense_on_burgers(gen):
    step = step_of(load_solver("burgers", {"shape": (8, 8), "extent": 8.0}), gen)
    v = torch.randn_like(step.stepped)
    found = BankPullback(bank_at(step))(step, v)
    torch.testing.assert_close(found, DensePullback(1e-5)(step, v), rtol=1e-4, atol=1e-5)


def test_nearest_takes_the_jacobian_of_one_snapshot_exact(toy, gen):
    """Twice as far from one snapshot as from the other."""
    step = step_of(toy, gen, batch=2)
    one, other = step.state
    bank = bank_at(step)
    point = (one + 2 * other)[None] / 3
    between = Step(toy, point, step.forcing[:1], toy.step(point, step.forcing[:1]))
    v = torch.randn_like(point)
    expected = (v.flatten(1) @ bank.jacobians[1].double().T).view_as(v)
    torch.testing.assert_close(BankPullback(bank)(between, v), expected, rtol=1e-5, atol=1e-6)


def test_distance_takes_the_forcing_where_it_has_a_scale(toy, gen):
    step = step_of(toy, gen, batch=2)
    bank = bank_at(step)
    assert bank.distances(step.state[:1], step.forcing[1:])[0].argmin() == 0
    bank = bank_at(step, forcing_scale=torch.tensor([1e-3, 1e-3]))
    assert bank.distances(step.state[:1], step.forcing[1:])[0].argmin() == 1


def test_queries_are_counted_exact(toy, gen):
    """128 for each snapshot; the looks, one at every tenth product, are counted apart."""
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    bank = bank_at(step)
    assert counter.steps == 3 + 3 * 128
    pullback = BankPullback(bank)
    for _ in range(11):
        pullback(step, step.stepped)
    assert counter.counts() == {"steps": 3 + 3 * 128, "checking": 4}


def test_the_watch_sees_what_fits_and_adds_what_does_not(toy, gen):
    step, far = step_of(toy, gen), step_of(toy, gen, batch=1)
    bank = bank_at(step)
    watch = Watch(gen, below=0.99, at=range(9), mend=bank.mend)
    pullback = BankPullback(bank, watch=watch)
    pullback(step, step.stepped)
    assert watch.seen[0].cosine > 0.9999
    assert watch.seen[0].error < 1e-3
    assert len(bank) == 3
    pullback(far, far.stepped)
    assert watch.seen[1].cosine < 0.99
    assert watch.seen[1].error > 0.05
    assert len(bank) == 4
    found = pullback(far, far.stepped)
    dense = DensePullback(1e-5)(far, far.stepped)
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)
    assert len(bank) == 4


def test_fitted_weights_find_a_state_among_its_snapshots(toy, gen):
    """Twice as far from one as from the other, in a line: weights 1/3 and 2/3, less the ridge.

    The toy's Jacobian is affine in the state, so that these weights are also the best.
    """
    step = step_of(toy, gen, batch=3)
    bank = bank_at(step)
    point = ((step.state[0] + 2 * step.state[1]) / 3)[None]
    weights = fitted(bank, point, None)[:, 0]
    expected = torch.tensor([1 / 3, 2 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0.02)
    between = Step(toy, point, step.forcing[:1], toy.step(point, step.forcing[:1]))
    v = between.stepped
    dense = DensePullback(1e-5)(between, v)
    off = [
        (BankPullback(bank, lookup)(between, v) - dense).norm() for lookup in ("fitted", "nearest")
    ]
    assert off[0] < 0.1 * off[1]


def test_state_and_forcing_agree_with_autograd_through_the_twin(toy, gen):
    """Two steps with a network's output in the forcing, in the manner of a learned closure."""
    state, forcing = draw(gen, 2, 3, 2, 8, 8)
    at = toy.step(state, forcing)
    for_state = bank_at(Step(toy, state, forcing, at))
    for_state.add(Step(toy, at, forcing, toy.step(at, forcing)))
    for_forcing = bank_at(Step(toy, state, forcing, at, "forcing"))
    pullback = PullbackByVariable(BankPullback(for_state), BankPullback(for_forcing))
    found = []
    for solver in (InterfaceSolver(toy, pullback), toy.differentiable_twin()):
        weight = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        once = solver.step(state, forcing + weight * state)
        (solver.step(once, forcing + weight * once) ** 2).sum().backward()
        found.append(weight.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)


def test_a_list_of_snapshots_restores(toy, gen, tmp_path):
    step, counter = step_of(toy, gen), CountedSolver(toy)
    settings = {"store": JacobianStore(tmp_path), "path": tmp_path / "list.pt"}
    bank = bank_at(step, **settings)
    bank.add(step_of(toy, gen, batch=1), tag=7)
    bank.add(step_of(toy, gen, batch=1), tag=8)
    again = bank_at(step, **settings)
    again.restore(counter, 8)
    assert (len(again), [snapshot["tag"] for snapshot in again.listed]) == (4, [7])
    assert settings["store"].solver_steps == 5 * 128
    v = torch.randn_like(step.stepped)
    assert torch.equal(BankPullback(again)(step, v), BankPullback(bank)(step, v))
    later = bank_at(step, **settings)
    later.restore(counter, 100)
    assert [snapshot["tag"] for snapshot in later.listed] == [7]
    (tmp_path / "list.pt").write_bytes(b"half of")
    with pytest.raises(InputError, match="list of snapshots"):
        later.restore(counter, 100)


def test_where_the_bank_has_no_room_the_fallback_serves_until_a_look_agrees(toy, gen):
    step, far = step_of(toy, gen), step_of(toy, gen, batch=1)
    dense, bank = DensePullback(1e-5), bank_of(3)
    bank.add(step)
    watch = Watch(gen, 0.99, (0, 1, 3), bank.mend, dense)
    pullback, alone = BankPullback(bank, watch=watch), BankPullback(bank)
    at_step, at_far = dense(step, step.stepped), dense(far, far.stepped)
    from_bank = alone(step, step.stepped)
    assert not torch.equal(from_bank, at_step)
    assert torch.equal(pullback(step, step.stepped), from_bank)
    assert torch.equal(pullback(far, far.stepped), at_far)
    assert torch.equal(pullback(step, step.stepped), at_step)
    assert torch.equal(pullback(step, step.stepped), from_bank)
    assert [look.cosine > 0.99 for look in watch.seen] == [True, False, True]
    assert len(bank) == 3


def test_farthest_points_exact():
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    assert farthest_points(points, 4).tolist() == [2, 4, 0, 1]
    groups = torch.tensor([0, 0, 0, 1, 1])
    assert farthest_points(points, 5, groups).tolist() == [2, 4, 0, 3, 1]
    assert farthest_points(points, 3, torch.tensor([0, 0, 0, 1, 0])).tolist() == [2, 3, 0]
    with pytest.raises(InputError, match="snapshots: got 6, expected at most the 5 states"):
        farthest_points(points, 6)


def test_what_will_not_do_raises(toy, gen):
    with pytest.raises(InputError, match=r"got 100000 x 128 x 128 entries, 6.1 GiB, expected"):
        check_bank_fits(100_000, 128, 128, 4.0)
    with pytest.raises(InputError, match=r"3 x 128 x 128 entries.*at most 0.0001 GiB.*tangent"):
        bank_of(3, limit_gib=1e-4).add(step_of(toy, gen))
    bank = bank_of(1)
    with pytest.raises(InputError, match="no snapshot"):
        BankPullback(bank)
    step = step_of(toy, gen)
    with pytest.raises(InputError, match="got 3 more than the 0 snapshots, expected at most 1"):
        bank.add(step)
    with pytest.raises(InputError, match="lookup"):
        BankPullback(bank, "farthest")
    bank.add(step_of(toy, gen, batch=1))
    forced = Step(toy, step.state, step.forcing, step.stepped, "forcing")
    with pytest.raises(InputError, match="Jacobians of the state, expected one of the forcing"):
        BankPullback(bank)(forced, step.stepped)
