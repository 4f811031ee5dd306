"""A product corrected by queries: a projection, which never makes it worse."""

import pytest
import torch

from zopde import CorrectedPullback, InputError
from zopde.blackbox import CountedSolver
from zopde.interface import Step
from zopde.interface.corrected import chosen

ENTRIES = 128  # of a state of two channels on 8 x 8 cells
SCALE = torch.tensor([2.0, 0.25], dtype=torch.float64)
UNITS = SCALE.view(2, 1, 1)


class Linear:
    """u' = A u + B f, so that differences are exact but for rounding."""

    def __init__(self, grid, a, b=None):
        self.grid, self.a, self.b = grid, a, b

    def step(self, state, forcing=None):
        moved = state.flatten(1) @ self.a.T
        if self.b is not None:
            moved = moved + forcing.flatten(1) @ self.b.T
        return moved.view_as(state)


def draw(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def step_of(solver, gen, variable="state"):
    state, forcing = draw(gen, 2, 3, 2, 8, 8)
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


def pull(matrix, v):
    return (v.flatten(1) @ matrix).view_as(v)


def squared(error):
    """Of every state, in units of the scale."""
    return (UNITS * error).flatten(1).square().sum(dim=1)


@pytest.fixture
def linear(toy, gen):
    return Linear(toy.grid, *(draw(gen, ENTRIES, ENTRIES) / 8 for _ in range(2)))


def corrected(gen, directions, around=None, **settings):
    settings = {"mu": 0.5, "scale": SCALE, **settings}
    return CorrectedPullback(gen, directions, around, **settings)


@pytest.mark.parametrize("variable", ["state", "forcing"])
@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_a_product_is_never_worse_and_exact_with_every_direction(linear, gen, variable, scheme):
    step, v, guess = step_of(linear, gen, variable), draw(gen, 3, 2, 8, 8), draw(gen, 3, 2, 8, 8)
    exact = pull(linear.a if variable == "state" else linear.b, v)
    before = squared(guess - exact)
    for directions in (1, 8, 21, 22, 60, 120):
        pullback = corrected(gen, directions, lambda *_: guess, scheme=scheme)
        error = squared(pullback(step, v) - exact)
        assert (error < before).all()
        assert (error < (1 - 0.3 * directions / ENTRIES) * before).all()
    for directions in (ENTRIES, 1000):
        found = corrected(gen, directions, lambda *_: guess, scheme=scheme)(step, v)
        torch.testing.assert_close(found, exact)


def test_an_error_orthogonal_to_the_directions_stays_exact(linear, gen):
    """What is corrected lies in the span: what is left is orthogonal to it, state by state."""
    step, v = step_of(linear, gen), draw(gen, 3, 2, 8, 8)
    found, exact = corrected(gen, 40)(step, v), pull(linear.a, v)
    removed, left = UNITS * (found - v), UNITS * (exact - found)
    cosines = torch.cosine_similarity(removed.flatten(1), left.flatten(1), dim=1)
    assert cosines.abs().max() < 1e-9
    assert squared(found - exact) + squared(found - v) == pytest.approx(squared(exact - v))


def stencil(state, forcing=None):
    """Another multiple of every channel, and of its neighbour's."""
    return state * torch.tensor([3.0, 0.5]).view(2, 1, 1) - 0.7 * state.roll(1, 3)


def regions(state, forcing=None):
    """Another multiple in every quarter of the domain."""
    whole = torch.arange(1.0, 5.0).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return whole * state


@pytest.mark.parametrize(("advance", "enough", "few"), [(stencil, 11, 10), (regions, 82, 21)])
def test_a_filter_by_channel_and_region_is_found_exact(toy, gen, advance, enough, few):
    solver = type("Solver", (), {"grid": toy.grid, "step": staticmethod(advance)})()
    step, v = step_of(solver, gen), draw(gen, 3, 2, 8, 8)
    (exact,) = torch.autograd.grad(advance(u := step.state.requires_grad_()), u, v)
    step.state.requires_grad_(False)
    torch.testing.assert_close(corrected(gen, enough)(step, v), exact)
    assert squared(corrected(gen, few)(step, v) - exact).min() > 1e-3


def test_the_image_under_a_symmetric_step_is_the_product_exact(toy, gen):
    half = draw(gen, ENTRIES, ENTRIES)
    solver = Linear(toy.grid, half + half.T)
    step, v = step_of(solver, gen), draw(gen, 3, 2, 8, 8)
    exact = pull(solver.a, v)
    torch.testing.assert_close(corrected(gen, 22, scale=0.5)(step, v), exact)
    assert ((corrected(gen, 21, scale=0.5)(step, v) - exact).abs().amax(dim=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize("asked", [0, 1, 5, 21, 22, 60, 127, 128, 500])
@pytest.mark.parametrize(("scheme", "steps"), [("forward", 1), ("central", 2)])
def test_queries_are_counted_exact(toy, gen, asked, scheme, steps):
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    found = corrected(gen, asked, scheme=scheme, states=7)(step, step.stepped)
    assert counter.steps == 3 + 3 * steps * min(asked, ENTRIES)
    assert torch.equal(found, step.stepped) == (asked == 0)


def test_calls_of_any_size_give_the_same_product(linear, gen):
    step, v = step_of(linear, gen), draw(gen, 3, 2, 8, 8)
    products = [
        corrected(torch.Generator().manual_seed(3), 30, states=states)(step, v)
        for states in (1, 7, 512)
    ]
    for other in products[1:]:
        torch.testing.assert_close(other, products[0], rtol=1e-10, atol=1e-10)


class Lossy:
    """NaN for the probes with these numbers, counted from the first one."""

    def __init__(self, solver, lost):
        self.grid, self.solver, self.lost, self.seen = solver.grid, solver, set(lost), 0

    def step(self, state, forcing=None):
        answer = self.solver.step(state, forcing)
        for row in range(len(state)):
            if self.seen + row in self.lost:
                answer[row] = torch.nan
        self.seen += len(state)
        return answer


def test_failed_probes_are_left_out(linear, gen):
    plain, v = step_of(linear, gen), draw(gen, 3, 2, 8, 8)
    exact = pull(linear.a, v)

    def product(lost):
        step = Step(Lossy(linear, lost), plain.state, plain.forcing, plain.stepped)
        return corrected(torch.Generator().manual_seed(1), 21)(step, v)

    whole, part = product([]), product(range(3, 9))  # of the first state
    assert torch.equal(part[1:], whole[1:])
    before, after, left = (squared(w - exact)[0] for w in (v, whole, part))
    assert after < left < before
    assert torch.equal(product(range(63)), v), "with none left, what is corrected"


def test_an_image_that_failed_costs_its_directions_alone(linear, gen):
    plain, v = step_of(linear, gen), draw(gen, 3, 2, 8, 8)
    step = Step(Lossy(linear, [0, 1, 2]), plain.state, plain.forcing, plain.stepped)
    found, exact = corrected(gen, 30)(step, v), pull(linear.a, v)
    assert (squared(found - exact) < squared(v - exact)).all()


def test_the_error_that_is_left_is_estimated(linear, gen):
    pullback, errors = corrected(gen, 40), []
    for _ in range(60):
        step, v = step_of(linear, gen), draw(gen, 3, 2, 8, 8)
        errors.append(squared(pullback(step, v) - pull(linear.a, v)).mean() / ENTRIES)
    assert pullback.variance == pytest.approx(float(torch.stack(errors).mean()), rel=0.3)


def test_of_a_forcing_dt_is_passed_where_it_is_a_source(linear, gen):
    step, v = step_of(linear, gen, "forcing"), draw(gen, 3, 2, 8, 8)
    assert torch.equal(corrected(gen, 0)(step, v), linear.grid.dt * v)
    other = Step(linear, step.state, step.forcing[:, :1], step.stepped, "forcing")
    assert not corrected(gen, 0, scale=1.0)(other, v).any()


def test_a_loss_that_is_not_finite_is_not_hidden(toy, gen):
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    assert corrected(gen, 9)(step, step.stepped * torch.nan).isnan().all()
    assert counter.steps == 3


def test_a_product_of_nothing_is_nothing(linear, gen):
    step = step_of(linear, gen)
    assert not corrected(gen, 30)(step, torch.zeros_like(step.stepped)).any()


@pytest.mark.parametrize(("most", "boxes"), [(10, 1), (59, 4), (60, 6), (7, 1)])
def test_chosen_directions_are_pieces_of_the_fields_exact(gen, most, boxes):
    field = draw(gen, 3, 2, 12, 8)
    found = chosen([field], most)
    assert found.shape == (3, min(most, 10 * boxes), 2, 12, 8)
    assert torch.equal(found[:, : 2 * boxes].sum(dim=1), field)
    assert torch.equal((found[:, : 2 * boxes] != 0).sum(dim=1), torch.ones_like(field).long())
    if most >= 10:
        last = found[:, 8 * boxes : 10 * boxes].sum(dim=1)
        assert torch.equal(last, field.roll(-1, 3))


@pytest.mark.parametrize("directions", [-1, 1.5, True, "all"])
def test_wrong_settings_raise(gen, directions):
    with pytest.raises(InputError, match="directions"):
        CorrectedPullback(gen, directions)
