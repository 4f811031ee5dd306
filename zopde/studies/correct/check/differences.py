"""What finite differences find: the steps that suit a solver's noise, and how far it reaches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from zopde.check.noise import measure_noise
from zopde.check.sweep import ladder, sweep_mu
from zopde.contracts import Oracle, Solver, Window
from zopde.errors import InputError
from zopde.hybrid import Injection, UnrolledObjective
from zopde.hybrid.unrolled import repeated
from zopde.interface import ColouredPullback, EntryOracle, measure_reach
from zopde.oracle import WeightOracle
from zopde.seeding import generator, noise_seeds
from zopde.studies.correct.check.points import Point, Verdict
from zopde.studies.correct.check.states import States
from zopde.studies.correct.cuts import InterfaceCut, WeightCut
from zopde.studies.correct.evaluate import finite

_MOST, _LEAST = 16, 4  # entries, and weights: 2 probes each for every step of the ladder
_SECONDS = 25.0  # for either
_GOOD = 0.14  # relative error of a gradient whose cosine is 0.99
_OFFSET = 0.1  # of the correction to learn, in standard deviations
_REACH_PROBES = 32


def check_state_mu(cut: InterfaceCut, solver: Solver, states: States, seconds: float) -> Point:
    """The mu of the interface cut, in standard deviations of the state; a step takes `seconds`."""
    step, dtype = states.step(solver, 1), states.state.dtype
    drawn = torch.randn(step.state.shape, generator=generator(0, "probes")).to(step.state)
    scale = states.scales("state", cut.mu).view(-1, *[1] * (step.state.dim() - 2))
    oracle = EntryOracle(step, drawn / scale, cut.states)
    scales = scale.expand_as(step.state[0]).flatten()[step.entries].double().cpu()
    return _recommend("interface mu", "interface", oracle, scales, cut, dtype, seconds)


def check_weight_mu(
    cut: WeightCut, network: nn.Module, objective: UnrolledObjective, seconds: float
) -> Point:
    """The mu of the weight cut, in the units of the weights; a step takes `seconds`."""
    oracle = WeightOracle(network, objective, cut.chunk or 64)
    dtype = next(network.parameters()).dtype
    scales = torch.ones(oracle.num_coordinates, dtype=torch.float64)
    return _recommend("weight mu", "zo", oracle, scales, cut, dtype, seconds)


def _recommend(
    name: str,
    table: str,
    oracle: Oracle,
    scales: Tensor,
    cut: WeightCut | InterfaceCut,
    dtype: torch.dtype,
    seconds: float,
) -> Point:
    """The mu of the best gradient, in units of `scales`, and how the configured one does."""
    mus = ladder(dtype)
    count = max(_LEAST, min(int(_SECONDS / (2 * len(mus) * seconds)), _MOST))
    order = torch.randperm(oracle.num_coordinates, generator=generator(0, "mask"))
    chosen = order[:count].sort().values
    try:
        sweep = sweep_mu(oracle, chosen, mus, scales[chosen])
    except InputError as nowhere:
        return Point(name, "fail", str(nowhere), "check on states that the solver can take")
    best, central = sweep.best(cut.scheme), sweep.best("central")
    error = float(getattr(best, cut.scheme))
    if math.isnan(error):
        found = f"none of {len(chosen)} numbers that were moved changes the answer"
        return Point(name, "fail", found, "does the answer depend on the whole state?")
    noise = measure_noise(oracle, chosen, sweep.reference * scales[chosen], best.mu * scales)
    nearest = min(sweep.points, key=lambda p: abs(math.log(p.mu / cut.mu)))
    configured = float(getattr(nearest, cut.scheme))
    values: dict[str, Any] = {
        "recommended_mu": best.mu,
        "scheme": cut.scheme,
        "relative_error": error,
        "noise": noise.level,
        "noise_floor": noise.floor,
        "configured_mu": cut.mu,
        "configured_relative_error": finite(configured),
        "sweep": [[p.mu, finite(p.forward), finite(p.central)] for p in sweep.points],
    }
    floor = "no noise" if noise.floor is None else f"noise floor {noise.floor:.0e}"
    found = f"{best.mu:.1e}, gradient off by {100 * error:.2g} %; {floor}"
    verdict: Verdict = "pass"
    remedy = ""
    if not error <= _GOOD:
        verdict, remedy = "fail", "no mu gives a good gradient: more digits, a tighter tolerance"
        if cut.scheme == "forward" and central.central <= _GOOD:
            remedy = f"take {table}.scheme=central, mu {central.mu:.1e}"
    elif not configured <= _GOOD:
        verdict = "warn"
        remedy = f"set {table}.mu={best.mu:.1e}: at {cut.mu:g} it is off by {configured:.0%}"
    return Point(name, verdict, found, remedy, values)


def stand_in_objective(
    solver: Solver, states: States, injection: Injection, every: int
) -> UnrolledObjective:
    """A loss of two corrected steps with a small correction to learn."""
    (state, given), several = states.rows(slice(1)), repeated(solver, every)
    if every > 1 and given is not None:  # the same for all of them
        given = torch.stack([given] * every, dim=1)
    stepped = several.step(state, given)
    second = several.step(stepped, given)
    noise = torch.randn(state.shape, generator=generator(1, "probes")).to(state)
    offset = _OFFSET * states.scale * noise
    targets = torch.stack([stepped + offset, second + 2 * offset], dim=1)
    forcing = None if given is None else torch.stack([given] * 2, dim=1)
    window = Window(stepped, targets, forcing, state, every)
    scale = torch.full((state.shape[1],), states.scale).to(state)
    return UnrolledObjective(solver, window, scale, injection, noise_seeds(0, 0, 2))


def draw_zeros(network: nn.Module, draw: Generator) -> None:
    """Draw the weights that start at zero: a last layer of zeros would hide the others."""
    for weight in network.parameters():
        if weight.numel() and not weight.any():
            noise = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
            weight.data.copy_(0.1 * noise / (weight[0].numel() if weight.dim() else 1) ** 0.5)


def check_reach(solver: Solver, states: States, mu: float, injection: Injection) -> Point:
    """The stencil radius of a step, and the colours that it takes; `mu` as the interface cut's."""
    step = states.step(solver)
    reach = measure_reach(step, _REACH_PROBES, mu, states.scales("state", mu))
    # With few digits what is far away answers with rounding alone.
    radius, wide = reach.radius(), reach.radius(1e-3)
    colours, loose = (ColouredPullback(solver.grid, box).colours for box in (radius, wide))
    values: dict[str, Any] = {
        "channels": len(solver.grid.channels),
        "radius": list(radius),
        "colours": colours,
        "bias": reach.bias(radius),
        "radius_of_3_percent": list(wide),
        "colours_of_3_percent": loose,
    }
    if injection.adds_to == "forcing":
        driven, scale = replace(step, variable="forcing"), states.scales("forcing", mu)
        driven_reach = measure_reach(driven, _REACH_PROBES, mu, scale)
        values["radius_of_forcing"] = list(driven_reach.radius())
    cells = solver.grid.fluid_cells
    told = f"radius {_cells(radius)}, {colours} colours for {cells} cells"
    if 2 * colours <= cells:
        return Point("reach", "pass", f"local: {told}", "", values)
    if 2 * loose <= cells:
        told += f"; but for 3 % of a response {_cells(wide)}, {loose} colours"
        remedy = f'interface.way = "auto", or interface.radius={list(wide)}, allow_bias=true'
        return Point("reach", "warn", told, remedy, values)
    remedy = 'interface.way = "bank" or "tangent" measure once, "auto" chooses: see their prices'
    return Point("reach", "warn", f"not local: {told}", remedy, values)


def _cells(radius: tuple[int, ...]) -> str:
    return " x ".join(map(str, radius))
