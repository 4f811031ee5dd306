from itertools import product

import pytest
import torch

from zopde import ColouredPullback, DensePullback, Grid, InputError, load_solver
from zopde.blackbox import CountedSolver
from zopde.interface import Step, coloured_for, measure_radius, measure_reach
from zopde.interface.colours import lattice_colours


def draw(gen, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=gen, dtype=dtype)


def step_of(solver, gen, batch=2, dtype=torch.float64, variable="state"):
    state = draw(gen, batch, *solver.grid.state_shape, dtype=dtype)
    forcing = draw(gen, batch, *solver.grid.forcing_shape, dtype=dtype)
    forcing = forcing if solver.grid.forcing_channels else None
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("shape", "radius"),
    [
        ((9,), (1,)),
        ((32,), (2,)),
        ((8, 8), (1, 1)),
        ((12, 7), (1, 2)),
        ((5, 16), (0, 3)),
        ((6, 5, 4), (1, 0, 1)),
    ],
)
def test_boxes_of_one_colour_never_overlap(shape, radius, periodic):
    colours = lattice_colours(shape, radius, periodic).tolist()

    def colour(place):
        found = colours
        for i in place:
            found = found[i]
        return found

    for one, other in product(product(*map(range, shape)), repeat=2):
        if one < other and colour(one) == colour(other):
            apart = [abs(a - b) for a, b in zip(one, other, strict=True)]
            if periodic:
                apart = [min(d, n - d) for d, n in zip(apart, shape, strict=True)]
            assert any(d > 2 * r for d, r in zip(apart, radius, strict=True))


@pytest.mark.parametrize(
    ("shape", "radius", "periodic", "count"),
    [
        ((32, 32), (2, 2), True, 32),
        ((64, 64), (1, 1), True, 16),
        ((33, 33), (1, 1), True, 9),
        ((32, 32), (2, 2), False, 25),
        ((32, 32), (16, 16), True, 1024),
        ((1, 5), (0, 0), True, 1),
    ],
)
def test_number_of_colours(shape, radius, periodic, count):
    assert int(lattice_colours(shape, radius, periodic).max()) + 1 <= count


class Local:
    """A linear stencil of a given radius with a weight of its own at every cell."""

    def __init__(self, gen, shape, radius, boundary):
        self.grid = Grid(shape, tuple(map(float, shape)), 0.1, ("a", "b"), boundary=boundary)
        self.radius = radius
        size = [2, 2, *[2 * r + 1 for r in radius], *shape]
        self.weight = draw(gen, *size)

    def step(self, state, forcing=None):
        answer = torch.zeros_like(state)
        for offset in product(*(range(-r, r + 1) for r in self.radius)):
            moved = state
            for axis, o in enumerate(offset, start=2):
                moved = moved.roll(o, axis)
                if self.grid.boundary == "open" and o:
                    n = state.shape[axis]
                    lost = torch.arange(o) if o > 0 else torch.arange(n + o, n)
                    moved = moved.index_fill(axis, lost, 0.0)
            part = self.weight[
                (
                    slice(None),
                    slice(None),
                    *(o + r for o, r in zip(offset, self.radius, strict=True)),
                )
            ]
            answer = answer + torch.einsum("oiyx,biyx->boyx", part, moved)
        return answer


@pytest.mark.parametrize("boundary", ["periodic", "open"])
@pytest.mark.parametrize(
    ("shape", "radius"),
    [((8, 8), (1, 1)), ((12, 9), (2, 1)), ((11, 16), (1, 3)), ((4, 16), (2, 0))],
)
def test_product_of_a_linear_stencil_exact(gen, shape, radius, boundary):
    solver = Local(gen, shape, radius, boundary)
    step = step_of(solver, gen)
    v = torch.randn_like(step.stepped)
    state = step.state.clone().requires_grad_()
    (solver.step(state) * v).sum().backward()
    for states in (512, 5):
        found = ColouredPullback(solver.grid, radius, 0.5, "forward", states)(step, v)
        torch.testing.assert_close(found, state.grad)
    assert measure_radius(solver, step.state, probes=64) == radius


@pytest.mark.parametrize("variable", ["state", "forcing"])
def test_coloured_agrees_with_dense_on_the_toy(toy, gen, variable):
    step = step_of(toy, gen, variable=variable)
    v = torch.randn_like(step.stepped)
    coloured = coloured_for(step, mu=1e-4)
    assert coloured.radius == ((1, 1) if variable == "state" else (0, 0))
    torch.testing.assert_close(
        coloured(step, v), DensePullback(1e-4)(step, v), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("shape", [(8, 8), (16, 16)])
def test_coloured_agrees_with_dense_and_autograd_on_burgers(gen, shape):
    solver = load_solver("burgers", {"shape": shape, "extent": float(shape[0])})
    step = step_of(solver, gen)
    v = torch.randn_like(step.stepped)
    coloured = ColouredPullback(solver.grid, (2, 2), 1e-5, "central")(step, v)
    dense = DensePullback(1e-5, "central")(step, v)
    torch.testing.assert_close(coloured, dense, rtol=1e-7, atol=1e-9)
    state = step.state.clone().requires_grad_()
    (solver.differentiable_twin().step(state, step.forcing) * v).sum().backward()
    cosine = torch.cosine_similarity(coloured.flatten(), state.grad.flatten(), dim=0)
    assert cosine > 0.999999


def test_burgers_reaches_two_cells(gen):
    solver = load_solver("burgers")
    step = step_of(solver, gen, dtype=torch.float32)
    reach = measure_reach(step)
    assert reach.radius() == (2, 2)
    assert reach.bias((2, 2)) < 1e-6 < reach.bias((1, 1)) < 0.02
    assert coloured_for(step).probes_for() <= 64


def test_queries_are_counted_exact(toy, gen):
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    pullback = ColouredPullback(toy.grid, (1, 1))
    pullback(step, step.stepped)
    assert counter.steps == 2 + 2 * pullback.probes_for()
    assert pullback.probes_for() == 2 * pullback.colours


class Global:
    """Takes the mean of the whole field away: every cell answers to every cell."""

    def __init__(self, grid):
        self.grid = grid

    def step(self, state, forcing=None):
        return state - 3 * state.mean(dim=(2, 3), keepdim=True)


def test_a_step_that_is_not_local_raises(toy, gen):
    step = step_of(Global(toy.grid), gen)
    with pytest.raises(InputError, match=r"reaches \(4, 4\) of \(8, 8\) cells: 64 colours"):
        coloured_for(step)
    with pytest.raises(InputError, match=r"radius: got \(1, 1\) with a step that reaches"):
        coloured_for(step, (1, 1))


def test_an_allowed_bias_is_known(toy, gen):
    """55 of 64 cells outside, each 3/64 of the change: against 1 - 3/64 at the cell itself."""
    step = step_of(Global(toy.grid), gen)
    found = coloured_for(step, (1, 1), allow_bias=True).bias
    lost, kept = 55 * (3 / 64) ** 2, 8 * (3 / 64) ** 2 + (1 - 3 / 64) ** 2
    assert found == pytest.approx((lost / (lost + kept)) ** 0.5)
