"""Land that holds the nearest fluid value: seen by solver and network, and by nobody else."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zopde import (
    BankPullback,
    BlackBox,
    ColouredPullback,
    ConvCorrector,
    DensePullback,
    Grid,
    InputError,
    InterfaceSolver,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
    differentiable,
    interface,
)
from zopde.blackbox import CountedSolver, Filled
from zopde.grid import as_grid
from zopde.hybrid import InjectBefore
from zopde.identity import content_of

WET = torch.ones(8, 12, dtype=torch.bool)
WET[2:6, 4:7] = False  # an island, three cells from coast to coast
WET[:2, 11] = False  # and some land at the seam


class Careless:
    """Fluxes between all cells, those on land too: with the nearest value no heat passes."""

    grid = Grid(
        WET.shape,
        (8.0, 12.0),
        0.1,
        ("a", "b"),
        ("f",),
        boundary=("open", "periodic"),
        mask=WET,
        fill="nearest",
    )
    keeps_graph = False

    def step(self, state, forcing=None):
        with torch.set_grad_enabled(self.keeps_graph and torch.is_grad_enabled()):
            after = state + 0.1 * torch.sin(state.flip(1)) * (1 + forcing)
            ahead = state.roll(-1, 3) - state
            after = after + 0.1 * (ahead - ahead.roll(1, 3)) * (1 + 0.1 * state.square())
            flux = 0.1 * state.diff(dim=2)
            zero = flux[:, :, :1] * 0
            return after + torch.cat([flux, zero], 2) - torch.cat([zero, flux], 2)


class Twin(Careless):
    keeps_graph = True


def inputs(count=3, steps=0):
    draw = torch.Generator().manual_seed(0)
    state, forcing = (torch.randn(count, c, 8, 12, generator=draw) for c in (2, 1))
    return tuple(torch.where(WET, field, torch.nan) for field in (state, forcing))


def cosine(one, other):
    return float(torch.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


def test_the_nearest_cell_of_fluid_is_the_nearest_one_golden():
    """By brute force, round the periodic axis only."""
    found, cells = Careless.grid.nearest, torch.cartesian_prod(torch.arange(8), torch.arange(12))
    off = (cells[:, None] - cells).abs()
    off[..., 1] = torch.minimum(off[..., 1], 12 - off[..., 1])
    squares = off.square().sum(dim=2).masked_fill(~WET.flatten(), 10**6)
    here = torch.arange(96)
    assert torch.equal(squares[here, found], squares.amin(dim=1))
    assert torch.equal(found[WET.flatten()], here[WET.flatten()])


def test_solver_and_network_see_it_and_nobody_else_exact():
    grid, seen = Careless.grid, []
    state, forcing = inputs()

    class Spy(Careless):
        def step(self, *given):
            seen.extend(given)
            return super().step(*given)

    class Body(torch.nn.Module):
        def forward(self, x):
            seen.append(x[:, :2])
            return 0 * x[:, :2]

    answer = BlackBox(Spy()).step(state, forcing)
    network = Normalised(Body(), torch.ones(2), torch.ones(1), mask=WET, nearest=grid.nearest)
    network(state, forcing)
    for field, given in zip((state, forcing, state), seen, strict=True):
        assert given.isfinite().all()
        assert torch.equal(given[..., 3, 4], field[..., 3, 3])
        assert torch.equal(given[..., WET], field[..., WET])
    assert answer[..., ~WET].eq(0).all()
    assert torch.equal(grid.filled(state)[..., ~WET], torch.zeros(3, 2, int((~WET).sum())))


def test_a_grid_with_it_is_another_one():
    nearest, zero = Careless.grid, replace(Careless.grid, fill="zero")
    assert as_grid(asdict(nearest)) == nearest
    names = [content_of("", {}, BlackBox(SimpleNamespace(grid=grid))) for grid in (nearest, zero)]
    assert names[0] != names[1]
    assert repr(nearest) == repr(zero)
    assert zero.nearest is None
    assert replace(nearest, mask=None).nearest is None
    with pytest.raises(InputError, match="grid fill: got 'mean', expected one of"):
        replace(zero, fill="mean")


@pytest.mark.parametrize(
    ("way", "border"),
    [
        ("dense", BlackBox),
        ("coloured", BlackBox),
        ("bank", BlackBox),
        ("dense", lambda solver: solver),  # what it answers on land is looked at by nobody
    ],
)
def test_products_pass_through_land_exact(way, border):
    """A step feels the fluid next to land through the land; dense products leave land out."""
    solver, grid = border(Careless()), Careless.grid
    counter = CountedSolver(solver)
    at = [grid.filled(field) for field in inputs()]
    step = interface.Step(counter, *at, solver.step(*map(grid.spread, at)))
    if way == "dense":
        pullback, price = DensePullback(), 2 * 3 * grid.fluid_cells
    elif way == "coloured":
        pullback = interface.coloured_for(step, check_every=0)
        price = 3 * pullback.probes_for()
        assert max(pullback.radius) <= 3
    else:
        bank = interface.Bank(3, interface.Key(torch.ones(2), torch.ones(1)))
        bank.add(step)
        pullback, price = BankPullback(bank, watch=interface.Watch(torch.Generator(), at=())), 0
    before, weight = counter.steps, torch.randn(3, 2, 8, 12)
    gradients = [
        torch.autograd.grad((grid.filled(through.step(leaf, at[1])) * weight).sum(), leaf)[0]
        for through in (InterfaceSolver(counter, pullback), Filled(Twin()))
        for leaf in [at[0].clone().requires_grad_()]
    ]
    assert counter.steps - before - 3 == price
    assert gradients[0][..., ~WET].eq(0).all()
    assert cosine(*gradients) > 0.9999
    leaf = at[0].clone().requires_grad_()
    (grid.filled(Twin().step(leaf, at[1])) * weight).sum().backward()
    assert cosine(grid.filled(leaf.grad), gradients[1]) < 0.999, "land does not matter here"


@pytest.mark.parametrize("way", ["dense", "coloured"])
def test_gradients_of_weights_and_forcing_over_an_unroll_exact(way):
    """With the correction before the step, so that every gradient passes the solver."""
    state, forcing = inputs()
    torch.manual_seed(1)
    body = ConvCorrector(4, 2, width=4, padding="zero")
    for weight in body.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    grid = Careless.grid
    network = Normalised(body, torch.ones(2), torch.ones(1), mask=WET, nearest=grid.nearest)
    steps = [grid.filled(state)]
    for _ in range(4):
        steps.append(BlackBox(Careless()).step(steps[-1], forcing))
    targets = 1.1 * torch.stack(steps[1:], dim=1)
    found = []
    for solver in (Filled(Twin()), differentiable(Careless(), state, forcing, way=way)):
        driven = grid.filled(forcing)[:, None].repeat(1, 4, 1, 1, 1)
        window = Window(None, targets, driven, steps[0])
        loss = UnrolledObjective(solver, window, torch.ones(2), InjectBefore())(network, 1)[0]
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, body.parameters())]))
    assert cosine(*found) > 0.9999


def test_probes_of_weights_side_by_side_agree_with_one_by_one():
    state, forcing = inputs()
    torch.manual_seed(1)
    body = ConvCorrector(4, 2, width=4, padding="zero")
    network = Normalised(
        body, torch.ones(2), torch.ones(1), mask=WET, nearest=Careless.grid.nearest
    )
    for weight in body.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    given = Careless.grid.filled(state), Careless.grid.filled(forcing)

    def objective(f, num_probes):
        answer = f(*(field.repeat(num_probes, 1, 1, 1) for field in given))
        return answer.view(num_probes, -1).square().mean(dim=1)

    numbers = torch.arange(0, sum(p.numel() for p in body.parameters()), 7)
    losses = WeightOracle(network, objective).coordinates(numbers, 0.1)
    flat, alone = torch.nn.utils.parameters_to_vector(network.parameters()).detach(), []
    for number in numbers:
        moved = flat.clone()
        moved[number] += 0.1
        torch.nn.utils.vector_to_parameters(moved, network.parameters())
        alone.append(objective(network, 1)[0].detach())
    torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-5, atol=1e-7)
    assert np.ptp(losses.numpy()) > 0


def test_the_reach_counts_what_goes_through_land():
    """Of a step that reaches one cell, through land that shows its coast."""
    state, forcing = (Careless.grid.filled(field) for field in inputs())
    box = BlackBox(Careless())
    step = interface.Step(box, state, forcing, box.step(state, forcing))
    radius = interface.coloured_for(step, check_every=0).radius
    plain = ColouredPullback(Careless.grid, (1, 1))
    assert all(1 <= r <= 2 for r in radius)
    assert plain.probes_for() <= ColouredPullback(Careless.grid, radius).probes_for()
