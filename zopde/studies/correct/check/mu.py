"""The step that suits a solver's noise: for probes of its state, and of a network's weights."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from zopde.check.noise import measure_noise
from zopde.check.sweep import ladder, sweep_mu
from zopde.contracts import Oracle, Solver, Window
from zopde.errors import InputError
from zopde.hybrid import UnrolledObjective
from zopde.interface import EntryOracle, Step
from zopde.nets import Normalised, build_corrector
from zopde.oracle import WeightOracle
from zopde.seeding import generator, noise_seeds
from zopde.studies.correct.check.points import Point, Verdict
from zopde.studies.correct.check.states import States
from zopde.studies.correct.cuts import InterfaceCut, WeightCut

_MOST, _LEAST = 16, 4  # entries, and weights: 2 probes each for every step of the ladder
_SECONDS = 25.0  # for either
_GOOD = 0.14  # relative error of a gradient whose cosine is 0.99
_OFFSET = 0.1  # of the correction to learn, in standard deviations


def check_state_mu(cut: InterfaceCut, solver: Solver, states: States, seconds: float) -> Point:
    """The mu of the interface cut, in standard deviations of the state; a step takes `seconds`."""
    state, forcing = states.rows(slice(0, 1))
    step = Step(solver, state, forcing, solver.step(state, forcing))
    cotangent = torch.randn(state.shape, generator=generator(0, "probes")).to(state)
    oracle = EntryOracle(step, cotangent, cut.states)
    scale = torch.full((oracle.num_coordinates,), states.scale, dtype=torch.float64)
    return _recommend("interface mu", oracle, scale, cut, "interface", state.dtype, seconds)


def check_weight_mu(
    cut: WeightCut, network: Normalised, objective: UnrolledObjective, seconds: float
) -> Point:
    """The mu of the weight cut, in the units of the weights; a step takes `seconds`."""
    oracle = WeightOracle(network, objective, cut.chunk or 64)
    scale = torch.ones(oracle.num_coordinates, dtype=torch.float64)
    return _recommend(
        "weight mu", oracle, scale, cut, "zo", next(network.parameters()).dtype, seconds
    )


def stand_in(
    kind: Literal["conv", "residual"], sizes: dict[str, int], solver: Solver, states: States
) -> tuple[Normalised, UnrolledObjective]:
    """A corrector of a kind and sizes, and a two-step loss with a small correction to learn."""
    grid, (state, given) = solver.grid, states.rows(slice(0, 1))
    inputs, outputs = len(grid.channels) + len(grid.forcing_channels), len(grid.channels)
    padding: Literal["periodic", "zero"] = "periodic" if grid.boundary == "periodic" else "zero"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = build_corrector(kind, inputs, outputs, padding=padding, sizes=sizes)
        for weight in body.parameters():  # a last layer of zeros would hide the others
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    deviations = torch.full((outputs,), states.scale), torch.ones(len(grid.forcing_channels))
    network = Normalised(body, *deviations)
    stepped = solver.step(state, given)
    second = solver.step(stepped, given)
    draw = generator(1, "probes")
    offset = _OFFSET * states.scale * torch.randn(state.shape, generator=draw).to(state)
    targets = torch.stack([stepped + offset, second + 2 * offset], dim=1)
    forcing = None if given is None else torch.stack([given] * 2, dim=1)
    window = Window(stepped, targets, forcing)
    scale = torch.full((outputs,), states.scale).to(state)
    seeds = noise_seeds(0, 0, 2)
    return network.to(state), UnrolledObjective(solver, window, scale, seeds=seeds)


def _recommend(
    name: str,
    oracle: Oracle,
    scale: Tensor,
    cut: WeightCut | InterfaceCut,
    table: str,
    dtype: torch.dtype,
    seconds: float,
) -> Point:
    draw = torch.randperm(oracle.num_coordinates, generator=generator(0, "mask"))
    mus = ladder(dtype)
    count = int(_SECONDS / (2 * len(mus) * seconds))
    chosen = draw[: max(_LEAST, min(count, _MOST))].sort().values
    try:
        sweep = sweep_mu(oracle, chosen, mus, scale[chosen])
    except InputError as nowhere:
        return Point(name, "fail", str(nowhere), "check on states that the solver can take")
    best = sweep.best(cut.scheme)
    error = float(getattr(best, cut.scheme))
    noise = measure_noise(oracle, chosen, sweep.reference * scale[chosen], best.mu * scale)
    least = min((p for p in sweep.points), key=lambda p: abs(math.log(p.mu / cut.mu)))
    configured = float(getattr(least, cut.scheme))
    values: dict[str, Any] = {
        "recommended_mu": best.mu,
        "scheme": cut.scheme,
        "relative_error": error,
        "noise": noise.level,
        "noise_floor": noise.floor,
        "configured_mu": cut.mu,
        "configured_relative_error": configured if math.isfinite(configured) else None,
        "sweep": [[p.mu, _plain(p.forward), _plain(p.central)] for p in sweep.points],
    }
    floor = "no noise" if noise.floor is None else f"noise floor {noise.floor:.0e}"
    found = f"{best.mu:.1e}, gradient off by {100 * error:.2g} %; {floor}"
    verdict: Verdict = "pass"
    remedy = ""
    if not error <= _GOOD:
        verdict, remedy = "fail", "no mu gives a good gradient: more digits, a tighter tolerance"
        if cut.scheme == "forward" and sweep.best("central").central <= _GOOD:
            remedy = f"take {table}.scheme=central, mu {sweep.best('central').mu:.1e}"
    elif not configured <= _GOOD:
        verdict = "warn"
        remedy = f"set {table}.mu={best.mu:.1e}: at {cut.mu:g} it is off by {configured:.0%}"
    return Point(name, verdict, found, remedy, values)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
