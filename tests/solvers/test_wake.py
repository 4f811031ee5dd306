import math
import pickle
from pathlib import Path

import pytest
import torch

from zopde import (
    Grid,
    InputError,
    load_config,
    load_solver,
    load_trajectories,
    run_correction,
    save_trajectories,
)
from zopde.contracts import Differentiable, ReferenceSolver
from zopde.progress import Silent
from zopde.solvers.mac import Faces, divergence, to_faces, to_state
from zopde.solvers.wake import TEST_REYNOLDS, TRAIN_REYNOLDS, Wake
from zopde.studies.correct.open import open_solver, reference_of


@pytest.fixture(scope="module")
def solver():
    return Wake((32, 16))


def flow(solver, count=3, steps=20, dtype=torch.float64):
    """States behind a poked cylinder, and their Reynolds numbers."""
    scenario = solver.scenario(count, torch.Generator().manual_seed(0))
    state, forcing = scenario.initial.to(dtype), scenario.forcing(0).to(dtype)
    for _ in range(steps):
        state = solver.step(state, forcing)
    return state, forcing


def all_divergence(solver, state, forcing):
    """Of the faces before they are packed in a state, which leaves out the first column's."""
    moved = solver._diffused(to_faces(state, 1.0, solver.grid.spacing), forcing[:, 0])
    found = solver._projected(moved)
    return divergence(found, 1.0, solver.grid.spacing), found


def test_contract(solver):
    assert isinstance(solver, ReferenceSolver)
    assert isinstance(solver, Differentiable)
    assert isinstance(solver.grid, Grid)
    assert solver.grid.boundary == "open"
    assert isinstance(load_solver("wake", {"shape": (32, 16)}), Wake)


@pytest.mark.parametrize("shape", [(32, 16), (64, 32), (40, 60)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_leaves_no_divergence_and_no_flow_through_the_cylinder(shape, dtype):
    solver = Wake(shape)
    state, forcing = flow(solver, steps=3, dtype=dtype)
    assert state.dtype == dtype
    scale = 1 / min(solver.grid.spacing)
    eps = torch.finfo(dtype).eps
    after = divergence(to_faces(state, 1.0, solver.grid.spacing), 1.0, solver.grid.spacing)
    assert after.abs().max() < 30 * eps * scale
    noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    left, faces = all_divergence(solver, state + 0.1 * noise, forcing)
    assert left.abs().max() < 300 * eps * scale
    y, x = (torch.tensor(solver.grid.centres(axis)) for axis in (0, 1))
    solid = (y[:, None] - 50) ** 2 + (x - 50) ** 2 < 100
    assert (faces.v[:, solid] == 0).all()
    assert (faces.u[..., 1:][:, solid] == 0).all()
    assert (faces.v[:, :-1][:, solid[1:]] == 0).all()
    assert (faces.u[..., :-1][:, solid] == 0).all()


def test_what_flows_in_flows_out_conserves(solver):
    state, _ = flow(solver)
    faces = to_faces(state, 1.0, solver.grid.spacing)
    dy, dx = solver.grid.spacing
    through_top = faces.v[:, -1].sum(dim=1) * dx
    through_sides = (faces.u[..., -1] - faces.u[..., 0]).sum(dim=1) * dy
    torch.testing.assert_close(through_top + through_sides, torch.full((3,), 100.0).double())


def test_states_are_answered_on_their_own_agrees(solver):
    state, forcing = flow(solver, 3)
    alone = torch.cat([solver.step(state[i : i + 1], forcing[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(solver.step(state, forcing), alone, rtol=0, atol=1e-14)


def test_chunks_are_the_whole_agrees(solver):
    state, forcing = flow(solver, 3)
    many = 200  # 512 cells each: two chunks of at most 2^17 cells are 256 and more
    whole = solver.step(state.repeat(many, 1, 1, 1), forcing.repeat(many, 1, 1, 1))
    torch.testing.assert_close(whole[-3:], solver.step(state, forcing), rtol=0, atol=1e-14)


def test_step_carries_no_gradient_and_restores(solver):
    state, forcing = flow(solver)
    state.requires_grad_(True)
    before, reynolds = state.detach().clone(), forcing.clone()
    assert not solver.step(state, forcing).requires_grad
    assert torch.equal(state, before)
    assert torch.equal(forcing, reynolds)


@pytest.mark.parametrize("index", [0, 1])
def test_twin_is_the_same_step_with_a_gradient_agrees(solver, index):
    """With respect to the state, and to the Reynolds number."""
    inputs = list(flow(solver))
    twin = solver.differentiable_twin()
    gen = torch.Generator().manual_seed(2)
    direction = torch.randn(inputs[index].shape, generator=gen, dtype=torch.float64)
    free = [part.clone().requires_grad_(True) for part in inputs]
    answer = twin.step(*free)
    assert torch.equal(answer.detach(), solver.step(*inputs))
    (pulled,) = torch.autograd.grad(answer.square().sum(), free[index])
    mu, ends = (1e-7, 1e-3)[index], []
    for sign in (1, -1):
        moved = list(inputs)
        moved[index] = moved[index] + sign * mu * direction
        ends.append(solver.step(*moved).square().sum())
    slope = float((ends[0] - ends[1]) / (2 * mu))
    assert float((pulled * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_a_mirrored_flow_stays_mirrored_exact(solver):
    """The face that the state leaves out is treated as the one that it keeps."""
    spacing = solver.grid.spacing

    def mirrored(state):
        faces = to_faces(state, 1.0, spacing)
        return to_state(Faces(faces.v.flip(2), -faces.u.flip(2)))

    state, forcing = flow(solver)
    torch.testing.assert_close(
        solver.step(mirrored(state), forcing), mirrored(solver.step(state, forcing))
    )


def test_viscosity_is_physical():
    """What a lower Reynolds number changes in a step is the same on a finer grid."""

    def change(shape):
        solver = Wake(shape)
        like = torch.ones(1, 1, *shape, dtype=torch.float64)
        y, x = (torch.tensor(solver.grid.centres(axis)).double() for axis in (0, 1))
        wave = torch.exp(-((y[:, None] - 130) ** 2 + (x - 50) ** 2) / 200)
        state = torch.stack([1 + wave, 0 * wave])[None]
        thick, thin = (solver.step(state, re * like) for re in (100.0, 1e6))
        return (thick - thin)[:, :, shape[0] // 2 :]

    def compare(fine):
        padded = torch.cat([torch.zeros_like(fine), fine], dim=2)
        coarse = Wake((64, 32)).downsample(padded)[:, :, 32:]
        known = change((64, 32))
        return float((coarse - known).norm() / coarse.norm())

    assert compare(change((128, 64))) < 0.1
    assert compare(change((256, 128))) < 0.15


@pytest.mark.parametrize("cells", [64, 256])
def test_diffusion_is_stable_on_fine_grids(cells):
    solver = Wake((cells, cells // 2), reynolds=(10.0,))
    checker = torch.ones(1, cells, cells // 2 + 1)
    checker[:, ::2] *= -1
    checker[:, :, ::2] *= -1
    faces = Faces(1 + checker[..., 1:], checker)
    for _ in range(3):
        faces = solver._diffused(faces, torch.full((1, cells, cells // 2), 9.0))
    assert faces.u.abs().max() < 1


def test_scenario_draws_the_published_numbers_on_any_grid(solver):
    fine = solver.at((64, 32))
    draws = [s.scenario(12, torch.Generator().manual_seed(4)) for s in (solver, fine)]
    numbers = draws[0].forcing(3)[:, 0, 0, 0]
    assert numbers.tolist() == pytest.approx([*TRAIN_REYNOLDS, *TEST_REYNOLDS, 97.66])
    coarse = solver.downsample(draws[1].initial)
    assert (coarse - draws[0].initial).norm() / coarse.norm() < 0.15
    assert fine.options == solver.options
    chosen = Wake((32, 16), reynolds=[50, 80]).scenario(3, torch.Generator().manual_seed(0))
    assert chosen.forcing(0)[:, 0, 0, 0].tolist() == [50, 80, 50]


def test_two_runs_are_bit_identical(solver):
    state, forcing = flow(solver, dtype=torch.float32)
    other = pickle.loads(pickle.dumps(solver))
    for _ in range(5):
        assert torch.equal(solver.step(state, forcing), other.step(state, forcing))


@pytest.mark.parametrize(
    ("reynolds", "words"),
    [
        (torch.full((1, 1, 32, 16), 50.0), "forcing: got Reynolds number 50, expected at least 87"),
        (torch.full((1, 1, 32, 16), math.nan), "forcing: got Reynolds number nan"),
        (None, "forcing: got None"),
    ],
)
def test_bad_input_raises(solver, reynolds, words):
    with pytest.raises(InputError, match=words):
        solver.step(torch.zeros(1, 2, 32, 16), reynolds)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (4, 2)}, "shape: got .4, 2., expected cells small enough"),
        ({"reynolds": ()}, "reynolds: got none"),
        ({"reynolds": (100, -1)}, "reynolds: got -1"),
    ],
)
def test_bad_options_raise(options, words):
    with pytest.raises(InputError, match=words):
        Wake(**options)


def test_vorticity_is_none_in_the_free_stream_and_nan_in_the_cylinder_alone(solver):
    shape = solver.grid.shape
    stream = torch.stack([torch.ones(shape), torch.zeros(shape)])[None]
    found = solver.vorticity(stream)
    assert found.shape == (1, *shape)
    y, x = (torch.tensor(solver.grid.centres(axis)) for axis in (0, 1))
    inside = (y[:, None] - 50) ** 2 + (x - 50) ** 2 < 10**2
    assert torch.equal(found[0].isnan(), inside)
    assert found[0][~inside].abs().max() == 0


def test_vorticity_shows_the_shear_layers_of_the_cylinder(solver):
    """Where the stream passes at smaller x it turns one way, at larger x the other."""
    scenario = solver.scenario(1, torch.Generator().manual_seed(0))
    state = scenario.initial
    for _ in range(5):
        state = solver.step(state, scenario.forcing(0))
    found = solver.vorticity(state)[0]
    beside = round(50 / solver.grid.spacing[0])
    middle = solver.grid.shape[1] // 2
    assert found[beside, :middle].nan_to_num().min() < -0.05
    assert found[beside, middle:].nan_to_num().max() > 0.05


def test_downsampling_to_another_count_raises(solver):
    with pytest.raises(InputError, match=r"fine state: got \(48, 32\) cells"):
        solver.downsample(torch.zeros(1, 2, 48, 32))


def test_reference_data_keeps_the_flux_and_tells_the_network_re(tmp_path):
    changes = ["data.fine=[64,32]", "data.coarse=[32,16]", "data.skip=1", "data.steps=9"]
    changes += ["data.train=2", "data.test=1", "solver.options.reynolds=[100, 200, 300]"]
    config = load_config("quick", None, changes, {"solver": {"spec": "wake"}})
    made = reference_of(config, open_solver(config), Path()).make(Silent())
    assert made.states.shape == (3, 10, 2, 32, 16)
    assert made.forcing[:, 4, 0, 3, 5].tolist() == [100, 200, 300]
    spacing = made.grid.spacing
    assert divergence(to_faces(made.states[:, 5], 1.0, spacing), 1.0, spacing).abs().max() < 1e-6
    save_trajectories(made, tmp_path / "wake.nc")
    again = load_trajectories(tmp_path / "wake.nc", made.grid, made.settings)
    assert torch.equal(again.states, made.states)


def test_a_run_draws_its_vorticity(tmp_path):
    changes = ["data.fine=[64,32]", "data.coarse=[32,16]", "data.skip=0", "data.steps=16"]
    changes += ["data.train=1", "data.test=1", "run.labels=SRC"]
    config = load_config("quick", None, changes, {"solver": {"spec": "wake"}})
    run_correction(config, tmp_path / "run")
    for name in ("vorticity.png", "fields.png", "error_over_time.png"):
        assert (tmp_path / "run" / name).stat().st_size > 10_000
