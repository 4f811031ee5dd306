"""Velocities on the faces of a MAC grid in an open stream: what a step does to them locally."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Spacing: TypeAlias = tuple[float, ...]


class Faces(NamedTuple):
    """The velocity normal to every face but the inflow's, where it is known."""

    v: Float[Tensor, "batch y x"]  # along y, at the upper face of each cell: y = dy, 2 dy, ..
    u: Float[Tensor, "batch y faces_x"]  # along x, at all x + 1 faces: x = 0, dx, ..


def to_faces(state: Float[Tensor, "batch 2 y x"], inflow: float, spacing: Spacing) -> Faces:
    """All faces from the state, which keeps the upper and the right face of each cell.

        u(0) = u(dx) + dx / dy (v_above - v_below)

    The faces at x = 0 are those that free the first column of divergence. After a step, and
    after `downsample_faces` of a step, that is what they were.
    """
    v, u = state[:, 0], state[:, 1]
    dy, dx = spacing
    first = u[..., :1] + dx / dy * (v - _below(v, inflow))[..., :1]
    return Faces(v, torch.cat([first, u], dim=-1))


def to_state(faces: Faces) -> Float[Tensor, "batch 2 y x"]:
    """The upper and the right face of each cell."""
    return torch.stack([faces.v, faces.u[..., 1:]], dim=1)


def divergence(faces: Faces, inflow: float, spacing: Spacing) -> Float[Tensor, "batch y x"]:
    """(v_above - v_below) / dy + (u_right - u_left) / dx in every cell."""
    dy, dx = spacing
    along_y = (faces.v - _below(faces.v, inflow)) / dy
    return along_y + (faces.u[..., 1:] - faces.u[..., :-1]) / dx


def minus_gradient(faces: Faces, pressure: Float[Tensor, "batch y x"], spacing: Spacing) -> Faces:
    """u - grad p, with p = 0 in the cells beyond the outflow and the sides."""
    dy, dx = spacing
    along_y = functional.pad(pressure, (0, 0, 0, 1)).diff(dim=1) / dy
    return Faces(faces.v - along_y, faces.u - functional.pad(pressure, (1, 1)).diff(dim=2) / dx)


def with_surroundings(faces: Faces, inflow: float) -> Faces:
    """One more face all around: the free stream (inflow, 0) outside, no change at the outflow.

    The velocity through the sides does not change across them. v becomes (batch, y + 2, x + 2),
    its first row the inflow; u becomes (batch, y + 2, x + 3).
    """
    v = functional.pad(faces.v, (1, 1, 1, 0), value=inflow)
    u = functional.pad(faces.u[:, None], (1, 1, 0, 1), mode="replicate")[:, 0]
    return Faces(torch.cat([v, v[:, -1:]], dim=1), functional.pad(u, (0, 0, 1, 0)))


def laplacian(
    padded: Float[Tensor, "batch y_and_2 x_and_2"], spacing: Spacing
) -> Float[Tensor, "batch y x"]:
    """Second differences, (f[i+1] - 2 f[i] + f[i-1]) / dx^2 summed over both directions."""
    weight_y, weight_x = (dx**-2 for dx in spacing)
    columns, rows = padded[:, :, 1:-1], padded[:, 1:-1]
    centre = columns[:, 1:-1] * (-2 * (weight_y + weight_x))
    centre = torch.add(centre, columns[:, 2:] + columns[:, :-2], alpha=weight_y)
    return torch.add(centre, rows[:, :, 2:] + rows[:, :, :-2], alpha=weight_x)


def advect(padded: Faces, dt: float, spacing: Spacing) -> Faces:
    """Semi-Lagrangian: every face takes the velocity from where its fluid was dt ago.

        w(x) <- w(x - dt (v, u)(x)),   bilinear between faces, the nearest one outside

    From faces `with_surroundings` to those inside.
    """
    v, u = padded
    u_at_v = _four(u[:, 1:, 1:-1])
    v_at_u = _four(v[:, :-1])
    inner_v, inner_u = v[:, 1:-1, 1:-1], u[:, 1:-1, 1:-1]
    return Faces(
        _carried(v, inner_v, u_at_v, dt, spacing), _carried(u, v_at_u, inner_u, dt, spacing)
    )


def vorticity(padded: Faces, spacing: Spacing) -> Float[Tensor, "batch y x"]:
    """Mean of dv/dx - du/dy over the four corners of each cell, from faces `with_surroundings`."""
    dy, dx = spacing
    return _four(padded.v[:, :-1].diff(dim=2) / dx - padded.u[..., 1:-1].diff(dim=1) / dy)


def downsample_faces(
    fine: Float[Tensor, "batch 2 fine_y fine_x"], shape: tuple[int, ...]
) -> Float[Tensor, "batch 2 y x"]:
    """Mean over the fine faces that make up each coarse face.

    The flux through every coarse face is that of the fine flow, so the divergence of a coarse
    cell is the mean of the divergences inside it: a fine flow without any stays so. Each count of
    the coarse `shape` divides the fine one.
    """
    by_y, by_x = fine.shape[2] // shape[0], fine.shape[3] // shape[1]
    v = fine[:, 0, by_y - 1 :: by_y].unflatten(2, (shape[1], by_x)).mean(dim=3)
    u = fine[:, 1, :, by_x - 1 :: by_x].unflatten(1, (shape[0], by_y)).mean(dim=2)
    return torch.stack([v, u], dim=1)


def _below(v: Tensor, inflow: float) -> Tensor:
    return functional.pad(v[:, :-1], (0, 0, 1, 0), value=inflow)


def _four(field: Tensor) -> Tensor:
    """Mean of the four neighbours of every corner inside."""
    pairs = field[:, 1:] + field[:, :-1]
    return 0.25 * (pairs[..., 1:] + pairs[..., :-1])


def _carried(padded: Tensor, v: Tensor, u: Tensor, dt: float, spacing: Spacing) -> Tensor:
    rows, columns = padded.shape[1:]
    # grid_sample counts from -1 to 1, first sample to last, x before y.
    scale_y, scale_x = 2 / (rows - 1), 2 / (columns - 1)

    def inner(count: int, scale: float) -> Tensor:
        place = torch.arange(1, count - 1, dtype=torch.float64, device=v.device)
        return (place * scale - 1).to(v.dtype)

    y = torch.add(inner(rows, scale_y)[:, None], v, alpha=-dt / spacing[0] * scale_y)
    x = torch.add(inner(columns, scale_x), u, alpha=-dt / spacing[1] * scale_x)
    where = torch.stack([x, y], dim=-1)
    taken = functional.grid_sample(
        padded[:, None], where, mode="bilinear", padding_mode="border", align_corners=True
    )
    return taken[:, 0]
