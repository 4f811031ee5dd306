import pytest
import torch

from zopde import AmortisedPullback, DensePullback, InputError, load_solver
from zopde.hybrid import CountedSolver
from zopde.interface import Bank, Step, Watch, farthest_points


def draw(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def step_of(solver, gen, batch=3, variable="state"):
    state, forcing = draw(gen, 2, batch, *solver.grid.state_shape)
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


def bank_at(step, **settings):
    bank = Bank(step.solver.grid, 6, torch.tensor([1.0, 2.0]), variable=step.variable, **settings)
    bank.add(step, 1e-5)
    return bank


@pytest.mark.parametrize("lookup", ["nearest", "interpolated"])
@pytest.mark.parametrize("variable", ["state", "forcing"])
def test_at_its_own_snapshots_agrees_with_dense(toy, gen, lookup, variable):
    step = step_of(toy, gen, variable=variable)
    v = torch.randn_like(step.stepped)
    found = AmortisedPullback(bank_at(step), lookup)(step, v)
    torch.testing.assert_close(found, DensePullback(1e-5)(step, v), rtol=1e-4, atol=1e-5)


def test_at_its_own_snapshots_agrees_with_dense_on_burgers(gen):
    step = step_of(load_solver("burgers", {"shape": (8, 8), "extent": 8.0}), gen)
    v = torch.randn_like(step.stepped)
    found = AmortisedPullback(bank_at(step))(step, v)
    torch.testing.assert_close(found, DensePullback(1e-5)(step, v), rtol=1e-4, atol=1e-5)


def test_mean_and_interpolation_exact(toy, gen):
    """Twice as far from one snapshot as from the other: weights 4/5 and 1/5."""
    step = step_of(toy, gen, batch=2)
    one, other = step.state
    bank = bank_at(step)
    point = (one + 2 * other)[None] / 3
    between = Step(toy, point, step.forcing[:1], toy.step(point, step.forcing[:1]))
    v = torch.randn_like(point)
    first, second = ((v.flatten(1) @ bank.transposed(k).double().T).view_as(v) for k in (0, 1))
    for lookup, expected in (
        ("mean", (first + second) / 2),
        ("interpolated", first / 5 + 4 * second / 5),
        ("nearest", second),
    ):
        found = AmortisedPullback(bank, lookup)(between, v)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_distance_takes_the_forcing_where_it_has_a_scale(toy, gen):
    step = step_of(toy, gen, batch=2)
    bank = bank_at(step)
    assert bank.distances(step.state[:1], step.forcing[1:])[0].argmin() == 0
    bank = bank_at(step, forcing_scale=torch.tensor([1e-3, 1e-3]))
    assert bank.distances(step.state[:1], step.forcing[1:])[0].argmin() == 1


def test_queries_are_counted_exact(toy, gen):
    """128 for each snapshot, then one for each watched product, and no other."""
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    bank = bank_at(step)
    assert counter.steps == 3 + 3 * 128
    AmortisedPullback(bank)(step, step.stepped)
    assert counter.steps == 3 + 3 * 128
    AmortisedPullback(bank, watch=Watch(gen))(step, step.stepped)
    assert counter.steps == 3 + 3 * 128 + 1


def test_the_watch_sees_what_fits_and_adds_what_does_not(toy, gen):
    step, far = step_of(toy, gen), step_of(toy, gen, batch=1)
    bank, watch = bank_at(step), Watch(gen, threshold=0.99, mu=1e-5)
    pullback = AmortisedPullback(bank, watch=watch)
    pullback(step, step.stepped)
    assert watch.agreements[0] > 0.9999
    assert (watch.added, len(bank)) == (0, 3)
    pullback(far, far.stepped)
    assert watch.agreements[1] < 0.99
    assert (watch.added, len(bank)) == (1, 4)
    found = pullback(far, far.stepped)
    dense = DensePullback(1e-5)(far, far.stepped)
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)
    assert watch.added == 1


def test_a_bank_on_disk_restores(toy, gen, tmp_path):
    step = step_of(toy, gen)
    bank = bank_at(step, path=tmp_path / "bank.f32")
    bank.add(step_of(toy, gen, batch=1), 1e-5, tag=7)
    again = Bank(toy.grid, 6, torch.tensor([1.0, 2.0]), path=tmp_path / "bank.f32")
    assert again.tags == [-1, -1, -1, 7]
    assert all(torch.equal(again.transposed(k), bank.transposed(k)) for k in range(4))
    v = torch.randn_like(step.stepped)
    assert torch.equal(AmortisedPullback(again)(step, v), AmortisedPullback(bank)(step, v))
    again.keep(7)
    assert len(Bank(toy.grid, 6, torch.ones(2), path=tmp_path / "bank.f32")) == 3
    with pytest.raises(InputError, match=r"got 6 Jacobians of 128 x 128, expected 5"):
        Bank(toy.grid, 5, torch.ones(2), path=tmp_path / "bank.f32")


def test_farthest_points_exact():
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    assert farthest_points(points, 4).tolist() == [2, 4, 0, 1]
    with pytest.raises(InputError, match="snapshots: got 6, expected at most the 5 states"):
        farthest_points(points, 6)


def test_what_will_not_do_raises(toy, gen):
    with pytest.raises(InputError, match=r"got 100000 x 128 x 128 entries, 6.1 GiB, expected"):
        Bank(toy.grid, 100_000, torch.ones(2))
    empty = Bank(toy.grid, 1, torch.ones(2))
    with pytest.raises(InputError, match="no snapshot"):
        AmortisedPullback(empty)
    step = step_of(toy, gen)
    with pytest.raises(InputError, match="one more snapshot, expected 1 at most"):
        empty.add(step, 1e-5)
    forced = Step(toy, step.state, step.forcing, step.stepped, "forcing")
    with pytest.raises(InputError, match="Jacobians of the state, expected one of the forcing"):
        AmortisedPullback(empty)(forced, step.stepped)
