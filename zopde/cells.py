"""Values of the cells of a grid: checked, joined and cut, and which fluid cell is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from zopde.errors import InputError


def array_of(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:  # noqa: ANN401
    """Numbers of every cell; weights may broadcast, a mask is whole."""
    got = "no array"
    try:
        array = np.asarray(values, dtype=float)
        got = f"shape {array.shape}"
        array = np.broadcast_to(array, shape) if name == "weights" else array
    except (ValueError, TypeError, RuntimeError):
        array = np.empty(0)
    if array.shape != shape:
        raise InputError(f"grid {name}", got=got, expected=f"the grid's {shape}")
    return array


def in_order(values: Any, dims: Sequence[str]) -> Any:  # noqa: ANN401
    """An array of xarray with the grid's dims in the grid's order; all else as it is."""
    named = getattr(values, "dims", ())
    if not isinstance(named, tuple) or not set(named) & set(dims):
        return values
    if unknown := set(named) - set(dims):
        got = f"dims {named}"
        raise InputError("grid mask or weights", got=got, expected=f"of {dims}, not {unknown}")
    array = np.asarray(values.transpose(*(dim for dim in dims if dim in named)))
    return array[tuple(slice(None) if dim in named else None for dim in dims)]


def nested(values: Any) -> Any:  # noqa: ANN401 - down to a number
    """Lists of lists as tuples of tuples."""
    return tuple(map(nested, values)) if isinstance(values, list) else values


def resized(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A field on cells that are cut, or joined to their mean."""
    for axis, (old, new) in enumerate(zip(field.shape, shape, strict=True)):
        if old % new and new % old:
            got, expected = f"{old} cells cut into {new}", "a multiple or a divisor"
            raise InputError("grid with a mask or weights", got=got, expected=expected)
        if new < old:
            field = field.unflatten(axis, (new, old // new)).mean(dim=axis + 1)
        else:
            field = field.repeat_interleave(new // old, dim=axis)
    return field


def recut(edges: Sequence[float], cells: int) -> np.ndarray:
    """Centres of other cells on an axis: each old one is cut evenly, or joined to others."""
    old = np.arange(len(edges))
    new = np.interp(np.linspace(0, len(edges) - 1, cells + 1), old, edges)
    centres: np.ndarray = (new[1:] + new[:-1]) / 2
    return centres


def nearest(
    fluid: Bool[np.ndarray, "*space"], periodic: Sequence[bool]
) -> Int[np.ndarray, " cells"]:
    """The number of the fluid cell nearest to each cell, round periodic axes too.

    Source: Euclidean distance transform, scipy.ndimage; distances are counted in cells.
    """
    around = [n if closed else 0 for n, closed in zip(fluid.shape, periodic, strict=True)]
    land = np.pad(~fluid, [(n, n) for n in around], mode="wrap")
    found = distance_transform_edt(land, return_distances=False, return_indices=True)
    inside = tuple(slice(a, a + n) for a, n in zip(around, fluid.shape, strict=True))
    places = [part[inside] - a for part, a in zip(found, around, strict=True)]
    numbers: np.ndarray = np.ravel_multi_index(places, fluid.shape, mode="wrap").flatten()
    return numbers
