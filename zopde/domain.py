"""Where a state lives, as most of zopde sees it: all that a grid and a mesh have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.errors import InputError
from zopde.validate import check_type


class Domain(Protocol):
    """Where a state lives: all that most of zopde knows of a `Grid` or a `Mesh`.

    A value of a state is at a cell of the one, or at a point of the other; both are called cells
    here. On a mesh every cell is fluid, and space has one dimension, the number of the point.
    """

    @property
    def dt(self) -> float:
        """Time that one solver step covers."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of every state channel."""

    @property
    def forcing_channels(self) -> tuple[str, ...]:
        """Name of every forcing channel."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each dimension."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Name of every dimension."""

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each dimension is periodic."""

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state without its batch axis: (channel, *space)."""

    @property
    def forcing_shape(self) -> tuple[int, ...]:
        """Shape of one forcing without its batch axis: (forcing_channel, *space)."""

    @property
    def places(self) -> Float[Tensor, "axis ..."]:
        """Where each cell lies, from 0 to 1 along each axis of the domain."""

    @property
    def fluid(self) -> Bool[Tensor, "*space"] | None:
        """Which cells have values; None where all do."""

    @property
    def fluid_cells(self) -> int:
        """How many do."""

    @property
    def cell_weights(self) -> Float[Tensor, "*space"] | None:
        """By how much each cell counts in a mean, of mean 1; None where all count alike."""

    @property
    def units(self) -> Mapping[str, str]:
        """Unit by name, as far as units were declared."""

    def unit(self, name: str) -> str:
        """Unit of a channel, of "space" or of "time"; "1" where none was declared."""

    @property
    def nearest(self) -> Int[Tensor, " cells"] | None:
        """The number of the cell whose value each cell shows; None where each shows its own."""

    def filled(self, values: Tensor) -> Tensor:
        """Values (..., *space) with 0 in the cells that have none."""

    def spread(self, values: Tensor) -> Tensor:
        """Values (..., *space) as a solver and a network see them."""

    def fluid_values(self, values: Tensor) -> Float[Tensor, "... cells"]:
        """(..., *space) -> (..., cells): the values of the cells that have some."""


def strided(domain: Domain, every: int) -> Domain:
    """The same for who takes `every` steps as one."""
    other = copy(domain)
    object.__setattr__(other, "dt", every * domain.dt)  # nothing else goes by it: no new checks
    return other


def with_forcing(domain: Domain, names: Sequence[str]) -> Domain:
    """The same with further forcing channels, such as a solver is not given but a network sees.

    Raises:
        InputError: If a name is no name for a channel of it.
    """
    if not names:
        return domain
    more = check_names("names of further forcing channels", names, needed=True)
    other = copy(domain)
    object.__setattr__(other, "forcing_channels", (*domain.forcing_channels, *more))
    check_channels("further", other, (*domain.dims, "mask", "weights"))
    return other


def check_names(what: str, names: Sequence[str], needed: bool) -> tuple[str, ...]:
    """Require names, each once, and at least one where they are needed; they as a tuple."""
    check_type(what, names, tuple[str, ...])
    if "" in names or len(set(names)) < len(names) or (needed and not names):
        expected = f"names, each once{', at least one' if needed else ''}"
        raise InputError(what, got=tuple(names), expected=expected)
    return tuple(names)


def check_channels(what: str, domain: Domain, others: Sequence[str]) -> None:
    """Require names of channels that a data file can have beside those of its coordinates."""
    names = (*domain.channels, *domain.forcing_channels)
    for place, name in enumerate(names):
        got = f"a channel {name!r}"
        if name in names[:place]:
            raise InputError(
                f"{what} forcing_channels", got=got, expected="no channel of the state"
            )
        if "/" in name or name in ("time", "simulation", *others):
            expected = "another name for it, without '/': a data file has a coordinate of it"
            raise InputError(what, got=got, expected=expected)
