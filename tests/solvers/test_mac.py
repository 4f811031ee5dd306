"""The operators of the wake against exact solutions, and the pressure against a dense solve."""

import math

import pytest
import torch

from zopde.solvers.mac import (
    Faces,
    advect,
    divergence,
    downsample_faces,
    laplacian,
    minus_gradient,
    to_faces,
    to_state,
    vorticity,
    with_surroundings,
)
from zopde.solvers.pressure import Pressure

CROSS, NU, WAVE = 0.7, 0.002, 2 * math.pi


def places(cells, at_faces):
    """Of every padded value along an axis of length 1."""
    shift = 0.0 if at_faces else 0.5
    return (torch.arange(-1, cells + 1 + at_faces, dtype=torch.float64) + shift) / cells


def carried_wave(cells, t):
    """v = exp(-nu k^2 t) sin k (x - c t) over u = c solves the viscous equations, without p."""
    x = places(cells, at_faces=False)
    v = math.exp(-NU * WAVE**2 * t) * torch.sin(WAVE * (x - CROSS * t))
    u = torch.full((1, cells + 2, cells + 3), CROSS, dtype=torch.float64)
    return Faces(v.expand(1, cells + 2, -1), u)


def wave_error(cells):
    """After a time of 1/4, in steps of 0.4 cells, the surroundings from the exact solution."""
    dx, dt = 1 / cells, 0.4 / cells
    steps = round(0.25 / dt)
    state = carried_wave(cells, 0.0)
    for k in range(steps):
        start = carried_wave(cells, k * dt)
        inside = Faces(*(f[:, 1:-1, 1:-1] + NU * dt * laplacian(f, (dx, dx)) for f in state))
        padded = Faces(start.v.clone(), start.u.clone())
        padded.v[:, 1:-1, 1:-1], padded.u[:, 1:-1, 1:-1] = inside
        moved = advect(padded, dt, (dx, dx))
        state = carried_wave(cells, (k + 1) * dt)
        state = Faces(state.v.clone(), state.u)
        state.v[:, 1:-1, 1:-1] = moved.v
        torch.testing.assert_close(moved.u, padded.u[:, 1:-1, 1:-1])
    return float((state.v - carried_wave(cells, steps * dt).v).abs().max())


def test_a_viscous_wave_is_carried_at_first_order():
    assert wave_error(80) / wave_error(160) == pytest.approx(2, rel=0.15)


def test_vorticity_of_a_turning_and_a_sheared_flow_exact():
    """v = a x, u = b y + c x: dv/dx - du/dy = a - b."""
    a, b, c, spacing = 1.3, -0.4, 2.0, (1 / 6, 1 / 5)
    y, x = places(6, at_faces=False) * 6 * spacing[0], places(5, at_faces=False) * 5 * spacing[1]
    x_faces = places(5, at_faces=True) * 5 * spacing[1]
    v, u = (a * x).expand(1, 8, -1), b * y[:, None] + c * x_faces
    found = vorticity(Faces(v, u[None]), spacing)
    torch.testing.assert_close(found, torch.full((1, 6, 5), a - b, dtype=torch.float64))


def test_second_differences_order():
    def error(cells):
        y, x = places(cells, at_faces=False)[:, None], places(cells, at_faces=False)
        wave = (torch.sin(3 * y) * torch.cos(2 * x))[None]
        found = laplacian(wave, (1 / cells, 1 / cells))
        return float((found + 13 * wave[:, 1:-1, 1:-1]).abs().max())

    assert error(20) / error(40) == pytest.approx(4, rel=0.05)


def test_one_advection_is_linear_interpolation_exact():
    """A linear profile in a uniform cross-flow is moved without error."""
    padded = carried_wave(8, 0.0)
    ramp = places(8, at_faces=False).expand(1, 10, -1)
    moved = advect(Faces(ramp, padded.u), 0.1, (1 / 8, 1 / 8))
    torch.testing.assert_close(moved.v, ramp[:, 1:-1, 1:-1] - 0.1 * CROSS)


def random_faces(shape, gen, batch=2):
    v = torch.randn(batch, *shape, generator=gen, dtype=torch.float64)
    u = torch.randn(batch, shape[0], shape[1] + 1, generator=gen, dtype=torch.float64)
    return Faces(v, u)


def obstacle():
    solid = torch.zeros(9, 7, dtype=torch.bool)
    solid[2:5, 3:5] = True
    solid[5, 3] = True
    return solid


def open_masks(solid):
    v = ~solid.clone()
    v[:-1] &= ~solid[1:]
    u = torch.ones(9, 8, dtype=torch.bool)
    u[:, :-1] &= ~solid
    u[:, 1:] &= ~solid
    return v, u


def test_pressure_is_the_dense_solution_exact(gen):
    """Of the Laplacian of the open faces alone, assembled column by column."""
    spacing, solid = (0.5, 0.25), obstacle()
    v, u = open_masks(solid)

    def closed_laplacian(p):
        still = Faces(torch.zeros(len(p), 9, 7).double(), torch.zeros(len(p), 9, 8).double())
        gradient = minus_gradient(still, p, spacing)
        return -divergence(Faces(gradient.v * v, gradient.u * u), 0.0, spacing)

    unit = torch.eye(63, dtype=torch.float64).view(63, 9, 7)
    matrix = closed_laplacian(unit).flatten(1).T
    faces = random_faces((9, 7), gen)
    right = divergence(Faces(faces.v * v, faces.u * u), 0.3, spacing)
    fluid = ~solid.flatten()
    dense = torch.linalg.solve(matrix[fluid][:, fluid], right.flatten(1)[:, fluid].T).T
    found = Pressure(solid, spacing).solve(right).flatten(1)[:, fluid]
    torch.testing.assert_close(found, dense)


@pytest.mark.parametrize("shape", [(9, 7), (64, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_leaves_no_divergence_in_any_cell(shape, dtype, gen):
    solid = torch.zeros(shape, dtype=torch.bool)
    solid[2:5, 3:5] = True
    faces = Faces(*(part.to(dtype) for part in random_faces(shape, gen)))

    def stop(faces):
        faces.v[:, 1:5, 3:5] = 0
        faces.u[:, 2:5, 3:6] = 0

    stop(faces)
    pressure = Pressure(solid, (1.0, 1.0)).to(faces.v)
    free = minus_gradient(faces, pressure.solve(divergence(faces, 1.0, (1.0, 1.0))), (1.0, 1.0))
    stop(free)
    assert divergence(free, 1.0, (1.0, 1.0)).abs().max() < 1000 * torch.finfo(dtype).eps


def test_a_state_without_divergence_keeps_every_face_exact(gen):
    faces = random_faces((8, 6), gen)
    pressure = Pressure(torch.zeros(8, 6, dtype=torch.bool), (1.0, 2.0))
    p = pressure.solve(divergence(faces, 1.0, (1.0, 2.0)))
    faces = minus_gradient(faces, p, (1.0, 2.0))
    again = to_faces(to_state(faces), 1.0, (1.0, 2.0))
    torch.testing.assert_close(again.u, faces.u)
    assert torch.equal(again.v, faces.v)


def test_surroundings_are_the_free_stream():
    faces = Faces(torch.rand(1, 4, 3), torch.rand(1, 4, 4))
    v, u = with_surroundings(faces, 1.0)
    assert v.shape == (1, 6, 5)
    assert u.shape == (1, 6, 6)
    assert (v[:, 0] == 1).all()
    assert (v[..., [0, -1]] == 1).all()
    assert (u[:, 0] == 0).all()
    assert torch.equal(v[:, -1], v[:, -2])
    assert torch.equal(u[..., 0], u[..., 1])
    assert torch.equal(u[..., -1], u[..., -2])


def test_downsampling_conserves_flux_and_divergence(gen):
    """Coarse divergence is the mean of the fine one, for any flow."""
    fine = torch.randn(2, 2, 12, 8, generator=gen, dtype=torch.float64)
    coarse = downsample_faces(fine, (4, 4))
    torch.testing.assert_close(2 * coarse[:, 0, 0, 0], fine[:, 0, 2, :2].sum(dim=1))
    torch.testing.assert_close(3 * coarse[:, 1, 1, 2], fine[:, 1, 3:6, 5].sum(dim=1))
    ours = divergence(to_faces(coarse, 1.0, (3.0, 2.0)), 1.0, (3.0, 2.0))
    whole = divergence(to_faces(fine, 1.0, (1.0, 1.0)), 1.0, (1.0, 1.0))
    means = whole.reshape(2, 4, 3, 4, 2).mean(dim=(2, 4))
    torch.testing.assert_close(ours[..., 1:], means[..., 1:])
