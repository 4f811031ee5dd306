"""Products and gradients of a solver with land, against its differentiable twin."""

import pytest
import torch
from toy_land import Basin, BasinTwin

from zopde import (
    BankPullback,
    BlackBox,
    ColouredPullback,
    CorrectedPullback,
    DensePullback,
    Grid,
    IdentityPullback,
    InputError,
    InterfaceSolver,
    RegressedPullback,
    UnrolledObjective,
    Window,
    differentiable,
    interface,
)
from zopde.blackbox import CountedSolver, Filled
from zopde.hybrid import InjectBefore
from zopde.nets import ConvCorrector, Normalised
from zopde.tangent import Learning, PairStore, TangentPullback, learn

SHAPE = (8, 12)


def states_of(solver, count=6, steps=5):
    draw = torch.Generator().manual_seed(0)
    state = solver.scenario(count, draw).initial
    for _ in range(steps):
        state = solver.step(state)
    return state


@pytest.fixture(scope="module")
def basin():
    return Basin(SHAPE)


@pytest.fixture(scope="module")
def states(basin):
    """With NaN on land, as a user has them."""
    return states_of(basin)


def exact_product(state, cotangent):
    _, product = torch.autograd.functional.vjp(
        Filled(BasinTwin(SHAPE)).step, Filled(Basin(SHAPE)).grid.filled(state), cotangent
    )
    return product


def cosine(one, other):
    return float(torch.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


def product(basin, pullback, state, cotangent):
    """By back-propagation, and the solver steps that it took."""
    counter = CountedSolver(BlackBox(basin))
    leaf = state.clone().requires_grad_()
    InterfaceSolver(counter, pullback).step(leaf).mul(cotangent).nansum().backward()
    return leaf.grad, counter.steps - len(state)


@pytest.mark.parametrize("way", ["dense", "coloured", "regressed", "bank", "corrected"])
def test_products_know_of_no_land_exact(basin, states, way):
    state, fluid = states[:2], basin.grid.fluid_cells
    cotangent = torch.randn(state.shape, generator=torch.Generator().manual_seed(1))
    box = BlackBox(basin)
    filled = basin.grid.filled(state)
    step = interface.Step(box, filled, None, box.step(filled))
    if way == "dense":
        pullback, price = DensePullback(), 2 * 2 * fluid
    elif way == "coloured":
        pullback = interface.coloured_for(step, check_every=0)
        price = 2 * pullback.probes_for()
        assert pullback.radius == (1, 1)
        assert price < 2 * fluid
    elif way == "regressed":
        watch = interface.Watch(torch.Generator(), at=())
        pullback = RegressedPullback(basin.grid, (1, 1), watch=watch)
        price = 2 * pullback.probes_for()
    elif way == "bank":
        bank = interface.Bank(2, interface.Key(torch.tensor([0.3, 2.0])))
        bank.add(step)
        assert bank.jacobians[0].shape == (2 * fluid, filled[0].numel())
        pullback, price = BankPullback(bank, watch=interface.Watch(torch.Generator(), at=())), 0
    else:
        pullback = CorrectedPullback(torch.Generator().manual_seed(2), 10_000)
        price = 2 * 2 * fluid
    found, steps = product(basin, pullback, state, cotangent)
    expected = exact_product(state, basin.grid.filled(cotangent))
    assert found[..., ~basin.grid.fluid].eq(0).all()
    assert cosine(found, expected) > (0.99 if way == "corrected" else 0.99999)  # all cells move
    assert steps == price


def test_fewer_queries_than_a_full_grid_takes(basin):
    full = Basin(SHAPE, mask=None)
    ways = [ColouredPullback(one.grid, (3, 5)).probes_for() for one in (basin, full)]
    assert ways[0] < ways[1]


def test_what_one_entry_reaches_is_measured_in_the_fluid(basin, states):
    box = BlackBox(basin)
    assert interface.measure_radius(box, basin.grid.filled(states)) == (1, 1)


def test_the_identity_passes_nothing_on_land(basin, states):
    found, _ = product(basin, IdentityPullback(), states[:1], torch.ones_like(states[:1]))
    assert torch.equal(found, basin.grid.filled(torch.ones_like(found)))


def test_a_watch_sees_a_right_derivative_agree(basin, states):
    box, filled = BlackBox(basin), basin.grid.filled(states[:2])
    step = interface.Step(box, filled, None, box.step(filled))
    twin = Filled(BasinTwin(SHAPE))

    def push(direction):
        return torch.autograd.functional.jvp(twin.step, filled, direction)[1]

    found = interface.compare(step, push, interface.Probing(), torch.Generator().manual_seed(0))
    assert found.cosine > 0.999
    assert found.error < 0.02


def test_a_solver_without_a_border_raises(basin, states):
    answer = InterfaceSolver(basin, DensePullback()).step(states[:1].clone().requires_grad_())
    with pytest.raises(InputError, match=r"step: got NaN outside of the mask.*zopde\.BlackBox"):
        answer.nansum().backward()


def unrolled(solver, states, network, unroll=8):
    """The loss against a state that moved further, and its gradient in the weights."""
    targets = [solver.grid.filled(states)]
    for _ in range(unroll):
        targets.append(1.05 * BlackBox(Basin(SHAPE)).step(targets[-1]))
    window = Window(None, torch.stack(targets[1:], dim=1), None, targets[0])
    scale = network.state_scale.flatten()
    loss = UnrolledObjective(solver, window, scale, InjectBefore())(network, 1)[0]
    return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters())])


def corrector(grid):
    torch.manual_seed(0)
    body = ConvCorrector(3, 2, width=4, padding="zero")
    for weight in body.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return Normalised(body, torch.tensor([0.3, 2.0]), torch.empty(0), mask=grid.fluid)


@pytest.fixture(scope="module")
def exact_gradient(basin, states):
    return unrolled(Filled(BasinTwin(SHAPE)), states[:2], corrector(basin.grid))


@pytest.mark.parametrize("way", ["dense", "coloured"])
def test_gradients_of_an_unroll_exact(basin, states, exact_gradient, way):
    solver = differentiable(basin, states, way=way)
    loss, found = unrolled(solver, states[:2], corrector(basin.grid))
    assert torch.allclose(loss, exact_gradient[0], rtol=1e-5)
    assert cosine(found, exact_gradient[1]) > 0.99999, solver.report()


def test_a_tangent_learns_in_the_fluid_alone(basin, states, exact_gradient, tmp_path):
    box, examples = BlackBox(basin), basin.grid.filled(states_of(basin, 24))
    values = basin.grid.fluid_values(examples).transpose(0, 1).flatten(1)
    probing = {"state": interface.Probing(scale=values.std(dim=1))}
    settings = Learning(640, width=8, iterations=100)
    tangent = learn(box, examples, None, probing, settings, PairStore(), tmp_path).tangent
    cosines = []
    for pullback in (TangentPullback(tangent), IdentityPullback()):
        through = InterfaceSolver(box, pullback)
        cosines.append(
            cosine(unrolled(through, states[:2], corrector(basin.grid))[1], exact_gradient[1])
        )
    assert cosines[0] > 0.999
    assert cosines[0] > cosines[1]
    moved = torch.ones(1, 1, 2, *SHAPE)
    assert torch.equal(
        tangent(examples[:1], None, moved), tangent(examples[:1], None, basin.grid.filled(moved))
    )
    assert tangent(examples[:1], None, moved)[..., ~basin.grid.fluid].eq(0).all()


def test_land_decides_no_loss(basin, states):
    """Whatever a target holds there, and whatever the fluid cells of the loss are."""
    network, grid = corrector(basin.grid), basin.grid
    some, box = grid.filled(states[:2]), BlackBox(basin)
    target = box.step(some) + 0.1
    losses = []
    for land in (0.0, 1e3, torch.nan):
        filled = torch.where(grid.fluid, target, land)[:, None]
        window = Window(None, filled, None, some)
        losses.append(UnrolledObjective(box, window, torch.ones(2))(network, 1)[0])
    off = grid.fluid_values(box.step(some) + network(box.step(some)) - target)
    assert losses[0] == losses[1] == losses[2]
    assert torch.allclose(losses[0], off.square().mean())


def test_the_correction_is_zero_on_land_and_knows_where_it_is(basin, states):
    network = corrector(basin.grid)
    noise = torch.where(basin.grid.fluid, states, 1e6 * torch.randn(states.shape))
    assert torch.equal(network(states), network(noise))
    assert network(states)[..., ~basin.grid.fluid].eq(0).all()
    assert network.body.layers[0].in_channels == 3


class Pool:
    """In any number of dimensions, with a source; there is nothing on land but NaN."""

    def __init__(self, shape):
        self.wet = torch.rand(shape, generator=torch.Generator().manual_seed(5)) > 0.25
        names = {"channels": ("a", "b"), "forcing_channels": ("f",), "boundary": "open"}
        self.grid = Grid(shape, (1.0,) * len(shape), 0.1, mask=self.wet, **names)

    def step(self, state, forcing=None):
        field, source = (torch.where(self.wet, v, 0.0) for v in (state, forcing))
        after = field + 0.1 * torch.sin(field) * (1 + source)
        for axis in range(2, state.dim()):
            slope = torch.diff(field, dim=axis)
            slope = slope * torch.diff(self.wet.cumsum(axis - 2), dim=axis - 2)
            after = after + 0.1 * torch.cat([slope, 0 * slope.narrow(axis, 0, 1)], axis)
        return torch.where(self.wet, after, torch.nan)


@pytest.mark.parametrize("shape", [(20,), (6, 7, 8)])
@pytest.mark.parametrize("way", ["dense", "coloured"])
def test_state_and_forcing_in_any_dimension_exact(shape, way):
    solver, draw = Pool(shape), torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, channels, *shape, generator=draw) for channels in (2, 1)]
    inputs = [torch.where(solver.wet, field, torch.nan) for field in inputs]

    def gradients(through):
        leaves = [field.clone().requires_grad_() for field in inputs]
        after = through.step(through.step(*leaves), leaves[1])
        solver.grid.filled(after).pow(3).sum().backward()
        return [leaf.grad for leaf in leaves]

    exact, found = gradients(Filled(solver)), gradients(differentiable(solver, *inputs, way=way))
    for one, other in zip(exact, found, strict=True):
        assert cosine(one, other) > 0.99999
        assert other[..., ~solver.wet].eq(0).all()
