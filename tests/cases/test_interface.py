"""Products at a solver's border that were wrong in silence, against autograd of the same solver."""

import warnings

import pytest
import torch

from zopde import (
    BankPullback,
    ColouredPullback,
    DensePullback,
    Grid,
    InputError,
    RandomPullback,
    load_solver,
)
from zopde.blackbox import CountedSolver
from zopde.interface import (
    Bank,
    JacobianStore,
    Key,
    Probing,
    Step,
    Watch,
    coloured_for,
    measure_reach,
)
from zopde.interface.scales import channel_scale
from zopde.studies.correct import load_config
from zopde.studies.correct.check import check_solver

UNITS = torch.tensor([1.0, 1e5]).double().view(1, 2, 1)


def line(cells, *channels, boundary="periodic"):
    return Grid((cells,), (1.0,), 0.1, channels or ("u",), dims=("x",), boundary=boundary)


def step_at(solver, state, variable="state"):
    return Step(solver, state, None, solver.step(state), variable)


def exact(solver, state, v):
    state = state.clone().requires_grad_()
    (solver.step(state) * v).sum().backward()
    return state.grad


def off(found, expected):
    return float((found - expected).norm() / expected.norm())


class Carried:
    """Every cell is half what it was and half what the local speed brings, from up to 7 cells."""

    def __init__(self, cells=64, boundary="periodic"):
        self.grid = line(cells, boundary=boundary)

    def step(self, state, forcing=None):
        n = state.shape[-1]
        source = torch.arange(n) - state.detach().round().clamp(-7, 7).long()
        periodic = self.grid.boundary == "periodic"
        source = source % n if periodic else source.clamp(0, n - 1)
        return 0.5 * state + 0.5 * state.gather(2, source)


def waves(gen, count=32, cells=64, most=7.0):
    """Smooth states whose speeds differ; the fastest of all is the same in every draw."""
    x = 6.2832 * torch.arange(cells) / cells
    heights = torch.linspace(1, most, count)[torch.randperm(count, generator=gen)]
    phases = 6.28 * torch.rand(count, 1, generator=gen)
    return (heights[:, None] * torch.sin(x + phases)).double()[:, None]


@pytest.mark.parametrize("boundary", ["periodic", "open"])
@pytest.mark.parametrize("seed", range(6))
def test_a_reach_that_the_speed_decides_is_found_in_every_draw(seed, boundary):
    solver, gen = Carried(boundary=boundary), torch.Generator().manual_seed(seed)
    counter = CountedSolver(solver)
    step = step_at(solver, waves(gen))
    step = Step(counter, step.state, None, step.stepped)
    assert measure_reach(step).radius() in {(7,), (8,)}  # a cell of margin where it varies
    assert counter.steps == 32
    assert 0 < counter.counts()["checking"] < 200


@pytest.mark.parametrize("cells", [31, 64])
@pytest.mark.parametrize("by", [0, 1, 5, 7, 9, 15])
def test_a_step_that_only_moves_reaches_as_far(by, cells):
    class Moves:
        grid = line(cells)

        def step(self, state, forcing=None):
            return state.roll(by, -1)

    step = step_at(Moves(), torch.randn(4, 1, cells).double())
    assert measure_reach(step).radius() == (by,)


def test_a_stencil_longer_in_one_axis():
    class Sideways:
        grid = Grid((15, 33), (1.0, 1.0), 0.1, ("u",))

        def step(self, state, forcing=None):
            return state + 0.3 * state.roll(5, 3) ** 2 + 0.1 * state.roll(-1, 2)

    solver, state = Sideways(), torch.randn(3, 1, 15, 33).double()
    v, step = torch.randn_like(state), step_at(solver, state)
    coloured = coloured_for(step, mu=1e-6)
    assert coloured.radius == (1, 5)
    assert off(coloured(step, v), exact(solver, state, v)) < 1e-5


@pytest.mark.parametrize("boundary", ["periodic", "open"])
@pytest.mark.parametrize(("cells", "radius"), [(7, 1), (10, 1), (11, 2), (9, 4), (9, 6), (8, 7)])
def test_sizes_that_no_colour_divides(cells, radius, boundary, gen):
    """Also a radius of half the box, and of more."""

    class Stencil:
        grid = line(cells, boundary=boundary)
        near = (torch.arange(cells)[:, None] - torch.arange(cells)).abs()
        near = torch.minimum(near, cells - near) if boundary == "periodic" else near
        matrix = torch.randn(cells, cells, generator=gen).double() * (near <= radius)

        def step(self, state, forcing=None):
            return (state @ self.matrix).sin()

    solver, state = Stencil(), torch.randn(2, 1, cells, generator=gen).double()
    v, step = torch.randn_like(state), step_at(solver, state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ColouredPullback(solver.grid, (radius,), 1e-6, scale=1.0)(step, v)
    assert off(found, exact(solver, state, v)) < 1e-5


class Upwind:
    """Burgers' equation, upwind: the stencil lies on the side that the wind comes from."""

    grid = line(32)

    def step(self, state, forcing=None):
        left, right = state - state.roll(1, 2), state.roll(-1, 2) - state
        return state - 0.3 * torch.where(state > 0, state * left, state * right)


def test_upwind_on_both_sides(gen):
    """Where the wind is from the left alone, amplitudes of both signs show the other side."""
    solver = Upwind()
    for sign in (1, -1, 0):
        state = torch.randn(8, 1, 32, generator=gen).double()
        state = sign * state.abs() if sign else state
        step, v = step_at(solver, state), torch.randn_like(state)
        coloured = coloured_for(step, mu=1e-6)
        assert coloured.radius == (1,)
        assert off(coloured(step, v), exact(solver, state, v)) < 1e-4


def test_a_reach_that_grows_later_is_found_out(gen):
    solver = Carried()
    counter = CountedSolver(solver)
    slow = waves(gen, most=1.2)
    coloured = coloured_for(Step(counter, slow, None, solver.step(slow)), mu=1e-5, check_every=1)
    assert coloured.radius == (1,)
    fast, v = waves(gen), torch.randn(32, 1, 64, generator=gen).double()
    step = Step(counter, fast, None, solver.step(fast))
    with pytest.warns(UserWarning, match=r"radius \(1,\): .* off by .* radius \(\d,\) from now on"):
        found = coloured(step, v)
    assert off(found, exact(solver, fast, v)) < 1e-6
    assert coloured.radius[0] >= 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coloured(step, v)


class Pressure:
    """A step that couples every cell to every other, as a projection does."""

    def __init__(self, boundary):
        self.grid = line(32, "a", "b", boundary=boundary)

    def step(self, state, forcing=None):
        return state - 3 * state.mean(dim=2, keepdim=True) + 0.1 * state**2


@pytest.mark.parametrize("boundary", ["periodic", "open"])
def test_a_solver_that_is_not_local_is_refused_or_found_out(boundary, gen):
    solver = Pressure(boundary)
    state = torch.randn(3, 2, 32, generator=gen)
    v, step = torch.randn_like(state), step_at(CountedSolver(solver), state)
    with pytest.raises(InputError, match="colours"):
        coloured_for(step)
    coloured, before = ColouredPullback(solver.grid, (1,)), step.solver.steps
    with pytest.warns(UserWarning, match="off by"):
        found = coloured(step, v)
    assert off(found, exact(solver, state, v)) < 2e-3
    assert step.solver.counts()["checking"] > 2
    colours = 4 if boundary == "periodic" else 3  # then every cell has its own
    assert step.solver.steps - before == 3 * 2 * (colours + 32)


def test_a_check_takes_ten_steps_apart(toy, gen):
    counter = CountedSolver(toy)
    state, forcing = torch.randn(2, 3, 2, 8, 8, generator=gen).double()
    step = Step(counter, state, forcing, toy.step(state, forcing))
    coloured = ColouredPullback(toy.grid, (1, 1), check_every=2)
    for count in (10, 20, 30, 30, 40):  # the first two, then every second one
        coloured(step, step.stepped)
        assert counter.counts()["checking"] == count
    assert counter.steps == 5 * 3 * coloured.probes_for()


class TwoUnits:
    """Speeds near 1, and a pressure near 1e5, that act on each other."""

    grid = line(32, "speed", "pressure")

    def step(self, state, forcing=None):
        speed, pressure = state[:, :1], state[:, 1:] / 1e5
        ahead, behind = speed.roll(-1, 2), speed.roll(1, 2)
        push = pressure.roll(-1, 2) ** 2 - pressure.roll(1, 2)
        moved = pressure - 0.4 * (ahead - behind) * pressure
        return torch.cat([speed - 0.3 * speed * (ahead - behind) - 0.5 * push, 1e5 * moved], 1)


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("way", ["dense", "coloured", "bank"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_of_other_units_have_steps_of_their_own(way, scheme, dtype, gen):
    solver, units = TwoUnits(), UNITS.to(dtype)
    state, v = (torch.randn(4, 2, 32, generator=gen).to(dtype) for _ in range(2))
    state, v = state * units, v / units
    step, expected = step_at(solver, state), exact(solver, state, v)
    for scale in (None, UNITS.flatten()):
        if way == "dense":
            found = DensePullback(1e-3, scheme, scale=scale)(step, v)
        elif way == "coloured":
            found = coloured_for(step, scheme=scheme, scale=scale)(step, v)
        else:
            probing = Probing(1e-3, scheme, scale=scale)
            bank = Bank(4, Key(UNITS.flatten()), "state", probing)
            bank.add(step)
            found = BankPullback(bank)(step, v)
        for channel in range(2):
            assert off(found[:, channel], expected[:, channel]) < 2e-3


def test_random_directions_are_as_noisy_in_every_unit(gen):
    """The same numbers in other units, and so the same products."""
    solver = TwoUnits()

    class Scaled:
        grid = solver.grid

        def step(self, state, forcing=None):
            return solver.step(state * UNITS) / UNITS

    state, v = torch.randn(2, 4, 2, 32, generator=gen).double()
    plain = RandomPullback(torch.Generator().manual_seed(1), 64, scale=1.0)
    units = RandomPullback(torch.Generator().manual_seed(1), 64, scale=UNITS.flatten())
    found = units(step_at(solver, state * UNITS), v / UNITS) * UNITS
    torch.testing.assert_close(found, plain(step_at(Scaled(), state), v), rtol=1e-6, atol=1e-6)


class Aside:
    """A small-numbered channel that turns over with its state, and a large one that does not."""

    grid = line(16, "speed", "pressure")

    def step(self, state, forcing=None):
        speed, pressure = state[:, :1], state[:, 1:]
        speed = speed - 0.5 * speed * (speed.roll(-1, 2) - speed.roll(1, 2))
        return torch.cat([speed, pressure - 0.1 * (pressure.roll(-1, 2) - pressure)], 1)


def bank_of(solver, state, **settings):
    bank = Bank(3, Key(UNITS.flatten()), **settings)
    bank.add(step_at(solver, state))
    return bank


def test_a_watch_sees_a_channel_of_small_numbers(gen):
    solver = Aside()
    state, far = torch.randn(2, 1, 2, 16, generator=gen).double() * UNITS
    far[:, 0] = -state[:, 0]
    v = torch.randn(1, 2, 16, generator=gen).double() / UNITS
    bank, watch = bank_of(solver, state), Watch(torch.Generator().manual_seed(0))
    step = step_at(solver, far)
    with pytest.warns(UserWarning, match="the solver's agree -1.00"):
        found = BankPullback(bank, "nearest", watch)(step, v)
    expected = exact(solver, far, v)
    true = torch.cosine_similarity(found[0, 0], expected[0, 0], dim=0)
    assert true < 0.7
    assert watch.seen[0].cosine < 0.7
    own = Watch(torch.Generator().manual_seed(0))
    BankPullback(bank, "nearest", own)(step_at(solver, state), v)
    assert own.seen[0].cosine > 0.999


def test_a_bank_without_a_watch_is_compared_all_the_same(gen):
    solver = Aside()
    state, far = torch.randn(2, 1, 2, 16, generator=gen).double() * UNITS
    far[:, 0] = -state[:, 0]
    counter = CountedSolver(solver)
    step = Step(counter, far, None, solver.step(far))
    with pytest.warns(UserWarning, match="the solver's agree"):
        BankPullback(bank_of(solver, state), "nearest")(step, step.stepped)
    assert counter.counts() == {"checking": 2}


def test_what_a_step_is_a_multiple_of():
    rows = torch.stack([torch.tensor([-2.0, 2.0]), torch.tensor([5.0, 5.0]), torch.zeros(2)])
    assert channel_scale(rows, 1e-3).tolist() == [2.0, 5.0, 5.0]
    assert channel_scale(torch.zeros(2, 3), 1e-3).tolist() == [1.0, 1.0]
    # A pressure of 1e5 that varies by 1 has few digits left: mu of it must be more than those
    high = torch.tensor([[1e5 - 1, 1e5 + 1]])
    assert 1e-3 * float(channel_scale(high, 1e-3)) > 64 * 0.0078
    assert float(channel_scale(high.double(), 1e-3)) == pytest.approx(1.0)
    for wrong in (torch.tensor([1.0, 0.0]), -1.0, torch.ones(2, 2)):
        with pytest.raises(InputError, match="scale"):
            DensePullback(scale=wrong)
    step = step_at(TwoUnits(), torch.ones(1, 2, 32))
    with pytest.raises(InputError, match="got 3 numbers, expected one for each of the 2 channels"):
        DensePullback(scale=torch.ones(3))(step, step.stepped)


@pytest.mark.filterwarnings("ignore:.*lost in the rounding")
def test_a_jacobian_of_another_step_is_not_found(tmp_path, gen):
    solver, state = TwoUnits(), torch.randn(1, 2, 32, generator=gen) * UNITS.float()
    step = step_at(solver, state)
    for scale in (1.0, 2.0, UNITS.flatten()):
        store = JacobianStore(tmp_path, "same")
        store.fetch(step, Probing(scale=scale))
        assert store.solver_steps == 64


def test_check_solver_steps_by_channel(tmp_path):
    """In the units of speeds no mu would suit the pressure."""
    (tmp_path / "two.py").write_text(
        "import torch\nfrom zopde import Grid\n\n\nclass Two:\n"
        "    grid = Grid((8, 8), (1.0, 1.0), 0.1, ('v', 'p'))\n\n"
        "    def step(self, state, forcing=None):\n"
        "        v, p = state[:, :1], 1e5 * state[:, 1:]\n"
        "        moved = v - 0.3 * v * v.roll(1, 2) - 0.1 * p.sin()\n"
        "        return torch.cat([moved, state[:, 1:] * (1 + 0.1 * v)], 1)\n"
    )
    changes = ["run.dtype=float64", "corrector.sizes={width=3,depth=2}", "data.coarse=[8,8]"]
    spec = {"solver": {"spec": f"{tmp_path / 'two.py'}:Two"}}
    found = check_solver(load_config("quick", None, changes, spec), amplitude=1e-5)
    (point,) = [p for p in found.points if p.name == "interface mu"]
    assert point.values["relative_error"] < 1e-3


def test_burgers_has_the_reach_it_had(gen):
    solver = load_solver("burgers", {"shape": (16, 16), "extent": 16.0})
    state, forcing = torch.randn(2, 2, 2, 16, 16, generator=gen)
    step = Step(solver, state, forcing, solver.step(state, forcing))
    assert coloured_for(step).radius == (2, 2)
