"""What a look at a product finds: right figures, and what is done about them."""

import math
from dataclasses import replace

import pytest
import torch

from zopde import DensePullback, Grid, SolverError
from zopde.blackbox import CountedSolver
from zopde.interface import Agreement, Probing, Step, Watch, compare

FACTORS = torch.tensor([3.0, 1.0], dtype=torch.float64).view(1, 2, 1)


class Scales:
    """S(u, f) = factor u + 0.5 f, channel by channel: its Jacobians are 3, 1 and 0.5."""

    grid = Grid((8,), (1.0,), 0.5, ("a", "b"), ("fa", "fb"), dims=("x",))

    def __init__(self, factors=FACTORS):
        self.factors = factors

    def step(self, state, forcing=None):
        if not bool(state.isfinite().all()):
            raise SolverError("not finite")
        return self.factors * state + self.grid.dt * forcing


def step_of(gen, solver=None, variable="state", batch=1):
    solver = solver or Scales()
    state, forcing = torch.randn(2, batch, 2, 8, generator=gen, dtype=torch.float64)
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


PROBING = Probing(1e-3, scale=torch.ones(2))


def seen(gen, push, **given):
    return compare(step_of(gen, **given), push, PROBING, gen)


def times(*factors):
    return lambda d: torch.tensor(factors, dtype=torch.float64).view(1, 2, 1) * d


@pytest.mark.parametrize(
    ("factors", "cosine", "error"),
    [
        ((3.0, 1.0), 1.0, 0.0),
        ((3.3, 1.0), 1.0, 0.1),  # 2.3 d beside 2 d: as if the direction were right
        ((0.0, 1.0), -1.0, 1.0),
        ((3.0, 0.0), 0.0, 1.0),  # a change where there is none
        ((3.0, 2.5), 0.0, 1.5),
    ],
)
def test_figures_exact(gen, factors, cosine, error):
    found = seen(gen, times(*factors))
    assert found.cosine == pytest.approx(cosine, abs=1e-4)  # of round-off, where J d = d
    assert found.error == pytest.approx(error, abs=1e-6)


def test_of_the_forcing_nothing_is_left_as_it_is_exact(gen):
    for factor, cosine, error in ((0.5, 1.0, 0.0), (-0.5, -1.0, 2.0), (0.6, 1.0, 0.2)):
        found = seen(gen, times(factor, factor), variable="forcing")
        assert found.cosine == pytest.approx(cosine, abs=1e-6)
        assert found.error == pytest.approx(error, abs=1e-6)


def test_a_channel_that_hardly_changes_is_measured_by_the_others_exact(gen):
    """Its change is 0.1 % of the other's: off by as much again, 10 % of that 1 %."""
    factors = torch.tensor([1000.0, 1.0], dtype=torch.float64).view(1, 2, 1)
    found = seen(gen, times(1000.0, 2.0), solver=Scales(factors))
    assert found.error == pytest.approx(0.1, rel=1e-6)


def test_where_nothing_changes_anything_else_is_wrong(gen):
    still = Scales(torch.zeros(1, 2, 1, dtype=torch.float64))
    assert seen(gen, times(0.0, 0.0), solver=still).error == 0
    assert seen(gen, times(0.0, 1e-9), solver=still).error == math.inf


def test_a_batch_is_compared_as_one(gen):
    half = torch.tensor([1.0, 1.2], dtype=torch.float64).view(2, 1, 1)
    found = seen(gen, lambda d: half * FACTORS * d, batch=2)
    assert found.error == pytest.approx(0.2 / math.sqrt(2), abs=1e-6)


def test_numbers_that_are_not_finite(gen):
    assert seen(gen, times(math.nan, 1.0)) == Agreement(-1.0, math.inf)

    class Fails(Scales):
        def step(self, state, forcing=None):
            return math.nan * state

    step = replace(step_of(gen), solver=Fails())
    assert compare(step, times(3.0, 1.0), PROBING, gen) is None


def test_queries_are_counted_exact(gen):
    for scheme, sides in (("forward", 1), ("central", 2)):
        counter = CountedSolver(Scales())
        step = replace(step_of(gen, batch=3), solver=counter)
        compare(step, times(3.0, 1.0), Probing(1e-3, scheme), gen)
        assert counter.counts() == {"steps": 2 * 3 * sides}  # at two finite-difference steps
        watch = Watch(gen, at=(1, 3))
        for _ in range(5):
            watch.instead(step, lambda _, d: FACTORS * d, PROBING)
        assert counter.counts() == {"steps": 2 * 3 * sides, "checking": 4}
        assert len(watch.seen) == 2


def test_without_a_threshold_a_bad_product_warns(gen):
    watch = Watch(gen)
    with pytest.warns(UserWarning, match=r"agree -1\.00 \(a cosine\)"):
        watch.instead(step_of(gen), lambda _, d: 0 * d, PROBING)
    assert watch.instead(step_of(gen), lambda _, d: 0 * d, PROBING) is None
    assert len(watch.seen) == 1, "the next look is at the product ten later"


@pytest.mark.parametrize("mends", [True, False])
def test_the_fallback_serves_where_nothing_mends(gen, mends):
    asked, dense, step = [], DensePullback(1e-3), step_of(gen, batch=4)

    def mend(single):
        asked.append(single.state)
        return mends

    watch = Watch(gen, 0.9, (0, 2), mend, dense)

    def instead(factor):
        return watch.instead(step, lambda _, d: factor * d, PROBING)

    served = None if mends else dense
    assert [instead(FACTORS * 0), instead(FACTORS), instead(FACTORS)] == [served, served, None]
    assert len(asked) == 1
    assert any(torch.equal(asked[0][0], state) for state in step.state)
    assert watch.serving is False


def test_states_are_drawn_from_the_whole_batch(gen):
    rows = []
    step = step_of(gen, batch=4)
    watch = Watch(gen, 0.9, range(40), lambda single: bool(rows.append(single.state[0, 0, 0])))
    for _ in range(40):
        watch.instead(step, lambda _, d: 0 * d, PROBING)
    assert {float(value) for value in rows} == set(step.state[:, 0, 0].tolist())
