import math
import pickle
from itertools import pairwise

import pytest
import torch

from zopde import (
    BlackBox,
    ColouredPullback,
    InputError,
    InterfaceSolver,
    downsample,
    interface,
    load_config,
    load_solver,
    run_correction,
)
from zopde.blackbox import CountedSolver
from zopde.contracts import Differentiable, ReferenceSolver
from zopde.solvers.shallow_water import ShallowWater

RADIUS, GRAVITY, SPIN = 6.371e6, 9.81, 7.292e-5


@pytest.fixture(scope="module")
def solver():
    return ShallowWater()


def waves(solver, count=2, steps=0, dtype=torch.float64):
    state = solver.scenario(count, torch.Generator().manual_seed(0)).initial.to(dtype)
    return after(solver, state, steps)


def after(solver, state, steps):
    for _ in range(steps):
        state = solver.step(state)
    return state


def latitudes(solver):
    return torch.tensor(solver.grid.centres(0), dtype=torch.float64)[:, None].deg2rad()


def test_contract(solver):
    assert isinstance(solver, ReferenceSolver)
    assert isinstance(solver, Differentiable)
    assert isinstance(load_solver("shallow-water", {"depth": 500.0}), ShallowWater)
    assert solver.grid.periodic == (False, True)
    assert 0.8 < solver.grid.fluid_cells / math.prod(solver.grid.shape) < 0.95


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"shape": (0, 0)}, "shape along lat: got 0, expected a whole number >= 1"),
        ({"shape": (16, 0)}, "shape along lon: got 0"),
        ({"shape": (10**9, 10**9)}, "GiB"),
        ({"depth": 1e12}, r"depth: got 1000000000000\.0, expected .* at most 100000"),
    ],
)
def test_what_no_step_can_be_made_of_raises(options, line):
    with pytest.raises(InputError, match=line):
        ShallowWater(**options)


def test_one_row_of_cells():
    solver = ShallowWater((1, 8), land=())
    assert solver.step(waves(solver)).isfinite().all()


def test_an_exact_current_stays_as_it_is_order():
    """Solid-body rotation in balance with the height: of the nonlinear equations, on the sphere.

    Source: Williamson et al. 1992, test case 2.
    """

    def error(rows):
        solver = ShallowWater((rows, 2 * rows), drag=0.0, land=[])
        lat, fast = latitudes(solver), 5.0
        state = torch.zeros(1, 3, *solver.grid.shape, dtype=torch.float64)
        state[0, 0] = -(RADIUS * SPIN * fast + fast**2 / 2) * lat.sin() ** 2 / GRAVITY + 100
        state[0, 1] = fast * lat.cos()
        return (after(solver, state, 24) - state).abs().mean(dim=(0, 2, 3))

    errors = [error(rows) for rows in (8, 16, 32)]
    for coarse, fine in pairwise(errors):
        assert torch.allclose(coarse / fine, torch.tensor(4.0).double(), rtol=0.2)


def test_waves_against_finer_grids_order():
    """Each grid against one twice as fine: a second-order error shrinks fourfold."""
    solvers = [ShallowWater((n, 4 * n), dt=600.0, land=[]) for n in (16, 32, 64)]
    states = [after(s, waves(s, count=1), 12) for s in solvers]
    low, middle = (
        float((c.downsample(fine) - coarse).norm() / coarse.norm())
        for c, coarse, fine in zip(solvers, states, states[1:], strict=False)
    )
    assert low < 0.2
    assert low / middle == pytest.approx(4, rel=0.25)


def test_mass_is_kept_and_energy_nearly_conserves():
    """Energy is lost to the error in time alone, which is of third order."""

    def energies(dt):
        free = ShallowWater(dt=dt, drag=0.0)
        area = latitudes(free).cos() * free.grid.fluid

        def energy(state):
            eta, u, v = state.unbind(1)
            east, north = (free._depth + (eta + eta.roll(-1, -1)) / 2), free._depth + eta
            north = (north[..., :-1, :] + north[..., 1:, :]) / 2
            face = (latitudes(free) + latitudes(free)[0] - latitudes(free)[0])[:-1]
            half = float(latitudes(free)[1] - latitudes(free)[0]) / 2
            moving = (area * east * u**2).sum() + (
                (face + half).cos() * north * v[:, :-1] ** 2
            ).sum()
            return float(moving + (area * GRAVITY * eta**2).sum())

        begun = waves(free, count=1, steps=4)
        moved = after(free, begun, 4)
        drift = float((area * (moved - begun)[:, 0]).sum() / (area * begun[:, 0].abs()).sum())
        assert abs(drift) < 1e-12
        return abs(1 - energy(moved) / energy(begun))

    assert energies(900.0) < 1e-3
    assert energies(900.0) / energies(450.0) > 6


def test_nothing_flows_through_land(solver):
    moved = waves(solver, steps=10)
    fluid = solver.grid.fluid
    east, north = fluid & fluid.roll(-1, 1), fluid.clone()
    north[:-1] &= fluid[1:]
    north[-1] = False
    for channel, open_face in ((0, fluid), (1, east), (2, north)):
        assert moved[:, channel, ~open_face].eq(0).all()
        assert moved[:, channel, open_face].ne(0).all()


def test_water_behind_land_stays_at_rest_exact():
    walls = ShallowWater(land=[(40.0, 0.0, 1e3, 8.0), (40.0, 180.0, 1e3, 8.0)])
    state = waves(walls)
    state[..., 32:] = 0
    moved = after(walls, state, 20)
    assert moved[..., :32].abs().max() > 1
    assert moved[..., 32:].eq(0).all()


def test_what_land_holds_does_not_matter_exact(solver):
    state = waves(solver, steps=2)
    other = torch.where(solver.grid.fluid, state, 1e3)
    assert torch.equal(solver.step(state), solver.step(other))


def test_states_are_answered_on_their_own_and_a_copy_answers_alike_exact(solver):
    state = waves(solver, steps=2, dtype=torch.float32)
    alone = torch.cat([solver.step(one) for one in state.split(1)])
    assert torch.equal(solver.step(state), alone)
    assert torch.equal(pickle.loads(pickle.dumps(solver)).step(state), alone)
    assert alone.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_coloured_way_is_the_twins_gradient_with_fewer_steps_agrees(solver, dtype):
    """Also where it is measured how far a step reaches; on land nothing is probed."""
    state = waves(solver, steps=6, dtype=dtype)
    counter = CountedSolver(BlackBox(solver))
    step = interface.Step(counter, state, None, counter.step(state))
    pullback = interface.coloured_for(step, check_every=0)
    before = counter.steps
    weight = torch.randn(state.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found, exact = (
        torch.autograd.grad((through.step(leaf) * weight).sum(), leaf)[0]
        for through in (InterfaceSolver(counter, pullback), solver.differentiable_twin())
        for leaf in [state.clone().requires_grad_()]
    )
    fluid = solver.grid.fluid
    cosine = torch.cosine_similarity(found.flatten().double(), exact.flatten().double(), dim=0)
    assert cosine > 0.9999
    assert found[..., ~fluid].eq(0).all()
    full = ShallowWater(land=[])
    assert (counter.steps - before) / 2 - 1 == pullback.probes_for()
    assert pullback.probes_for() <= ColouredPullback(full.grid, pullback.radius).probes_for()
    twin = solver.differentiable_twin()
    assert torch.equal(twin.step(state.clone().requires_grad_()).detach(), solver.step(state))


def test_downsampling_keeps_water_and_flux_exact(solver):
    fine = solver.at((32, 128))
    state = waves(fine, steps=4)
    coarse = solver.downsample(state)
    whole = downsample(fine.grid.fluid.double()[None, None], solver.grid.shape)[0, 0] == 1
    inside = whole & whole.roll(-1, 1) & solver.grid.fluid
    weights = latitudes(fine).cos().expand(fine.grid.shape)
    means = downsample(state[:, :1], solver.grid.shape, weights)
    torch.testing.assert_close(coarse[:, :1, whole], means[..., whole])
    flux = state[:, 1, 0::2, 1::2] + state[:, 1, 1::2, 1::2]
    torch.testing.assert_close(2 * coarse[:, 1, inside], flux[:, inside])
    assert torch.equal(solver.grid.filled(coarse), coarse)
    with pytest.raises(InputError, match=r"fine state: got \(20, 64\) cells"):
        solver.downsample(torch.zeros(1, 3, 20, 64))


@pytest.mark.parametrize("shape", [(32, 128), (48, 192), (64, 256)])
def test_every_coarse_cell_of_fluid_has_some_in_finer_grids(solver, shape):
    fine = solver.at(shape).grid
    share = downsample(fine.fluid.double()[None, None], solver.grid.shape)[0, 0]
    assert share[solver.grid.fluid].min() > 0


def test_a_scenario_is_the_same_water_on_any_grid(solver):
    fine = solver.at((64, 256))
    low, high = waves(solver), waves(fine)
    assert torch.equal(low[:, 1:], torch.zeros_like(low[:, 1:]))
    assert (solver.downsample(high) - low).norm() / low.norm() < 0.1
    assert fine.options == solver.options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (8,)}, "shape: got .8,., expected cells along .lat, lon."),
        ({"depth": 0.0}, "depth: got 0"),
        ({"drag": -1.0}, "drag: got -1"),
        ({"dt": 1e12}, "substeps that a step takes"),
        ({"land": [(40.0, 100.0, 0.0, 3.0)]}, "land: got .*expected ellipses"),
        ({"land": [(40.0, 0.0, 1e3, 400.0)]}, "grid mask: got other values, or no fluid"),
    ],
)
def test_bad_options_raise(options, words):
    with pytest.raises(InputError, match=words):
        ShallowWater(**options)


def test_a_short_run_with_measured_derivatives_is_the_one_with_exact_ones_agrees(tmp_path):
    changes = ["data.fine=[16, 64]", "data.coarse=[8, 32]", "data.skip=2", "data.steps=8"]
    changes += ["data.train=2", "data.test=1", "non.length='2 iterations'", "training.batch=1"]
    changes += ["training.length='3 iterations'", "training.unroll=3", "training.warmup=0"]
    changes += ['run.labels=["SRC","NOG","ZO-interface","SOL"]', "interface.scheme=central"]
    config = load_config("quick", None, changes, {"solver": {"spec": "shallow-water"}})
    mae = run_correction(config, tmp_path / "run")["mae"]
    ignored, measured, exact = (mae[label]["mean"] for label in ("NOG", "ZO-interface", "SOL"))
    assert abs(measured - exact) < 0.1 * abs(ignored - exact)
