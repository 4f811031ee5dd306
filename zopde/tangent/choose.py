"""Which way of passing a solver suits a case: one rule, from counts of solver steps alone."""

from __future__ import annotations

from typing import Literal

from zopde.contracts import Domain
from zopde.errors import InputError
from zopde.mesh import Mesh

Chosen = Literal["coloured", "bank", "tangent"]
"""The ways among which the rule chooses."""

SOME_PRODUCTS = 1000  # where nobody knows how many products there will be
_EXACT = 100  # times the tangent's steps that an exact way may take
_SMALL = 4  # times the tangent's steps that a bank may take


def choose(
    coloured: int | None, bank: int | None, tangent: int, domain: Domain | None = None
) -> Chosen:
    """Choose the way for a whole training from the solver steps that each way would take.

    1. Coloured, if the step is local and all products together take at most 100 times the solver
       steps of a tangent: it is exact up to mu, and needs neither a fit nor a guess.
    2. Else the bank, if it fits into the memory and its Jacobians take at most 4 times the solver
       steps of a tangent: the state has few entries then, and again there is nothing to fit.
    3. Else the tangent, whose price does not grow with the state. It is made of convolutions, so on
       a mesh coloured follows, if the step is local, or the bank, if it fits.

    Steps count and seconds do not, so that the choice is the same on every machine, and a run that
    is resumed makes it again.

    Args:
        coloured: Products of the training times solver steps of a coloured product, all inputs
            together; None where the step reaches so far that colours save nothing.
        bank: Snapshots times entries of the inputs (twice with the central scheme); None where
            so many Jacobians do not fit into the memory.
        tangent: Solver steps that a tangent is measured with at most.
        domain: The solver's; None: a grid.

    Raises:
        InputError: If on a mesh no way is left.

    Example:
        >>> choose(coloured=50_000, bank=2_560, tangent=1_280)
        'coloured'
        >>> choose(coloured=None, bank=2_560, tangent=1_280)
        'bank'
        >>> choose(coloured=None, bank=81_920, tangent=1_280)
        'tangent'
    """
    if coloured is not None and coloured <= _EXACT * tangent:
        return "coloured"
    if bank is not None and bank <= _SMALL * tangent:
        return "bank"
    if not isinstance(domain, Mesh):
        return "tangent"
    if coloured is None and bank is None:
        got = "a step that is not local, on a mesh with too many points for a bank"
        raise InputError(
            "auto", got=got, expected="one or the other", remedy="take random or dense"
        )
    return "bank" if coloured is None else "coloured"


def check_learnable(name: str, domain: Domain, way: str = "tangent") -> None:
    """Require a domain on which a tangent can be learned, or an emulator."""
    if isinstance(domain, Mesh):
        what = "an emulator" if way == "emulator" else "a tangent"
        expected = f"another way: {what} is made of convolutions, which a mesh has not"
        remedy = "take coloured, or auto, which chooses"
        raise InputError(name, got=f"{way!r} on a mesh", expected=expected, remedy=remedy)


def told(
    chosen: str, coloured: int | None, bank: int | None, tangent: int, domain: Domain | None = None
) -> str:
    """Say the choice in a line, with the solver steps of every way."""
    learnable = None if isinstance(domain, Mesh) else tangent
    steps = {"coloured": coloured, "bank": bank, "tangent": learnable}
    none = {"coloured": "not local", "bank": "does not fit", "tangent": "not on a mesh"}
    prices = (f"{way} {none[way] if n is None else f'{n:,}'}" for way, n in steps.items())
    return f"{chosen}, chosen by solver steps of all derivatives: {', '.join(prices)}"
