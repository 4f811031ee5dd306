"""How far a step reaches, and what one gradient takes with every cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zopde.contracts import Solver
from zopde.interface import ColouredPullback, Step, measure_reach
from zopde.sparsity import RandomMasks
from zopde.studies.correct.check.points import Point
from zopde.studies.correct.check.states import States
from zopde.studies.correct.cuts import InterfaceCut, WeightCut

_PROBES = 32


@dataclass(frozen=True)
class Cost:
    """What one gradient takes."""

    way: str  # the cut, and how it asks
    solver_steps: int  # in states
    seconds: float  # at the measured time of a step; the network's own are left out
    once: int = 0  # solver steps before the first gradient
    remark: str = ""  # what they depend on


def check_reach(solver: Solver, states: States, mu: float) -> Point:
    """The stencil radius of a step, and the colours that it takes.

    Args:
        solver: The black box.
        states: Where to measure.
        mu: Finite-difference step in standard deviations of the state.
    """
    state, forcing = states.rows(slice(None))
    step = Step(solver, state, forcing, solver.step(state, forcing))
    found = measure_reach(step, _PROBES, mu * states.scale)
    radius, cells = found.radius(), math.prod(solver.grid.shape)
    # With few digits what is far away answers with rounding alone.
    wide = found.radius(1e-3)
    colours = ColouredPullback(solver.grid, radius).colours
    loose = ColouredPullback(solver.grid, wide).colours
    values = {
        "channels": len(solver.grid.channels),
        "radius": list(radius),
        "colours": colours,
        "bias": found.bias(radius),
        "radius_of_3_percent": list(wide),
        "colours_of_3_percent": loose,
    }
    told = f"radius {_cells(radius)}, {colours} colours for {cells} cells"
    if 2 * colours <= cells:
        return Point("reach", "pass", f"local: {told}", "", values)
    if 2 * loose <= cells:
        told += f"; but for 3 % of a response {_cells(wide)}, {loose} colours"
        remedy = f"interface.radius={list(wide)} with interface.allow_bias=true, or the bank"
        return Point("reach", "warn", told, remedy, values)
    remedy = 'interface.way="bank" measures few Jacobians, once'
    return Point("reach", "warn", f"not local: {told}", remedy, values)


def costs(
    zo: WeightCut,
    interface: InterfaceCut,
    once: int,
    weights: int,
    seconds: float,
    reach: Point,
    entries: int,
) -> list[Cost]:
    """One gradient of every cut, for the configured unroll and batch.

    Args:
        zo: The weight cut.
        interface: The interface cut.
        once: Solver steps of a forward pass.
        weights: Of the corrector.
        seconds: Of a solver step, in a batch.
        reach: From `check_reach`.
        entries: Of a state.
    """
    active = RandomMasks(weights, zo.sparsity, 1, 0).active
    both, sides = zo.sides, interface.sides
    colours, channels = reach.values["colours"], reach.values["channels"]
    rows = [
        ("weights", (both * active + (2 - both)) * once, 0, f"{active:,} of {weights:,} weights"),
        ("interface, coloured", once * (1 + sides * colours * channels), 0, f"{colours} colours"),
        ("interface, random", once * (1 + sides * interface.directions), 0, "noisy"),
        ("interface, dense", once * (1 + sides * entries), 0, f"{entries:,} entries"),
        (
            "interface, bank",
            once,
            sides * entries * interface.snapshots,
            f"{interface.snapshots} Jacobians once",
        ),
    ]
    return [Cost(way, steps, steps * seconds, before, why) for way, steps, before, why in rows]


def _cells(radius: tuple[int, ...]) -> str:
    return " x ".join(map(str, radius))
