"""The correctors by name."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import Tensor, nn

from zopde.errors import InputError
from zopde.nets.correctors import MESH, ConvCorrector, Padding, ResidualCorrector
from zopde.nets.graph import GraphCorrector
from zopde.validate import check_choice, check_count

_GIVEN = ("inputs", "outputs", "padding", "dims", *MESH)

KINDS: dict[str, Any] = {
    "conv": ConvCorrector,
    "residual": ResidualCorrector,
    "graph": GraphCorrector,
}
"""What `build_corrector` builds, by name."""


def build_corrector(
    kind: str,
    inputs: int,
    outputs: int,
    padding: Padding,
    sizes: Mapping[str, int] | None = None,
    dims: int = 2,
    mesh: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Build the layers of a corrector, which know no units, by name.

    Args:
        kind: On a grid "conv" (`ConvCorrector`) or "residual" (`ResidualCorrector`), on a mesh
            "graph" (`GraphCorrector`).
        inputs: Input channels.
        outputs: Output channels.
        padding: "periodic" or "zero"; one word, or one for each axis. A mesh has none.
        sizes: The other arguments of the class; absent ones keep their defaults.
        dims: Number of space dimensions of a grid: 1, 2 or 3.
        mesh: "edges" and "positions" of a `zopde.Mesh`; None on a grid.

    Raises:
        InputError: If there is no such kind, or not on this domain; if a size is unknown to the
            class, or not a whole number >= 1.
    """
    check_choice("corrector.kind", kind, KINDS)
    if (kind == "graph") != bool(mesh):
        where, other = ("mesh", '"graph"') if mesh else ("grid", '"conv" or "residual"')
        expected = f"{other}, or a class of your own: file.py:Class"
        raise InputError("corrector.kind", got=f"{kind!r} on a {where}", expected=expected)
    known = [n for n in signature(KINDS[kind]).parameters if n not in _GIVEN]
    for name, size in (sizes or {}).items():
        check_choice("corrector.sizes", name, known)
        check_count(f"corrector.sizes.{name}", size)
        if name == "kernel" and size % 2 == 0:
            raise InputError("corrector.sizes.kernel", got=size, expected="an odd width")
    given: Mapping[str, Any] = mesh or {"padding": padding, "dims": dims}
    network: nn.Module = KINDS[kind](inputs, outputs, **given, **(sizes or {}))
    return network
