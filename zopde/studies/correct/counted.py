"""What one gradient costs by every cut, counted in solver steps, with their time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from zopde.contracts import Solver
from zopde.errors import InputError, first_line
from zopde.hybrid import Injection
from zopde.interface import Variable
from zopde.interface.identity import check_source
from zopde.interface.vjp import entries_of
from zopde.studies.correct.bank import check_bank, steps_of_bank
from zopde.studies.correct.cuts import InterfaceCut, WeightCut
from zopde.studies.correct.problem import products_of
from zopde.studies.correct.tangent import learning_of
from zopde.tangent.choose import check_learnable
from zopde.tangent.price import seconds_of


def queries_of_cut(cut: WeightCut, active: int) -> int:
    """Of one gradient; the forward scheme needs the loss itself, too."""
    return active * cut.sides + (2 - cut.sides)


@dataclass(frozen=True)
class CutPrice:
    """What a gradient by one cut takes."""

    cut: str  # its name
    setup_steps: int | None  # solver steps once, before; None where the cut will not do
    setup_seconds: float | None  # their time, by as many workers as the run has
    steps: int | None  # solver steps of a gradient, those of the forward pass included
    seconds: float | None  # time of a gradient
    note: str = ""  # what there is to know, such as a radius, or why the cut will not do


# Solver steps of a product by variable, solver steps once, and a note; or an `InputError`
Coloured = Callable[[], tuple[Mapping[Variable, int], int, str]]


@dataclass(frozen=True)
class BareGradient:
    """One gradient without the solver steps of its backward pass."""

    steps: int  # solver steps of the forward pass
    products: Mapping[Variable, int]  # vector-Jacobian products of the backward pass, in states
    seconds: float  # all of it
    seconds_of_a_step: float  # of one state, in a batch

    def price(
        self, probes: Mapping[Variable, int], setup: int = 0, note: str = "", workers: int = 1
    ) -> CutPrice:
        """By a cut that makes `probes` solver steps for a product, and `setup` once, before."""
        steps = sum(count * probes.get(variable, 0) for variable, count in self.products.items())
        once, seconds = setup * self.seconds_of_a_step / workers, steps * self.seconds_of_a_step
        return CutPrice("", setup, once, self.steps + steps, self.seconds + seconds, note)


def bare_gradient(
    injection: Injection, unroll: int, batch: int, seconds_of_a_step: float, every: int = 1
) -> BareGradient:
    """Counted; the network's own time is left out."""
    products = {v: batch * n for v, n in products_of(injection, unroll, every).items()}
    steps = max(products.values())  # the backward pass meets each step of the forward pass
    return BareGradient(steps, products, steps * seconds_of_a_step, seconds_of_a_step)


def price_of_weights(cut: WeightCut, active: int, gradient: BareGradient) -> CutPrice:
    """A gradient by the weight cut, counted; `active` weights are probed."""
    steps = queries_of_cut(cut, active) * gradient.steps
    note = f"{active:,} weights at sparsity {cut.sparsity:g}"
    return CutPrice("weights", 0, 0.0, steps, steps * gradient.seconds_of_a_step, note)


def prices_of_interface(
    cut: InterfaceCut,
    solver: Solver,
    gradient: BareGradient,
    coloured: Coloured,
    workers: int,
    like: Tensor,
) -> list[CutPrice]:
    """A gradient by every way of the interface cut, counted; what will not do says why.

    Arguments are those of `ways_of`.
    """
    prices = []
    for way, counted in ways_of(cut, solver, gradient, coloured, workers, like).items():
        name = f"interface, {way}"
        try:
            prices.append(replace(counted(), cut=name))
        except InputError as error:
            prices.append(CutPrice(name, None, None, None, None, first_line(error)))
    return prices


def ways_of(
    cut: InterfaceCut,
    solver: Solver,
    gradient: BareGradient,
    coloured: Coloured,
    workers: int,
    like: Tensor,
) -> dict[str, Callable[[], CutPrice]]:
    """Way of the interface cut -> what counts a gradient by it, or raises an `InputError`.

    The way that the cut names does not matter; so many workers fill a bank side by side. A
    tangent's fit is timed on random numbers `like` the states.
    """
    grid, inputs = solver.grid, list(gradient.products)

    def dense() -> CutPrice:
        return gradient.price({v: cut.sides * entries_of(grid, [v]) for v in inputs})

    def bank() -> CutPrice:
        check_bank(cut, grid, inputs)
        inside, outside = entries_of(grid, inputs), math.prod(grid.state_shape)
        size = 4 * cut.snapshots * inside * outside / 2**30
        note = f"{cut.snapshots} Jacobians, {size:.2g} GiB, lookup {cut.lookup}"
        return gradient.price({}, steps_of_bank(cut, grid, inputs), note, workers)

    def tangent() -> CutPrice:
        check_learnable("tangent", grid)
        fit, product = fit_and_product(cut, solver, inputs, like)
        note = f"at most; {fit:.2g} s of fit; error measured then"
        row = gradient.price({}, cut.budget, note, workers)
        products = sum(gradient.products.values()) * product
        once = (row.setup_seconds or 0.0) + fit
        return replace(row, setup_seconds=once, seconds=(row.seconds or 0.0) + products)

    def regressed() -> CutPrice:
        probes, once, note = coloured()
        return gradient.price({v: count + cut.sides for v, count in probes.items()}, once, note)

    def identity() -> CutPrice:
        if "forcing" in inputs:
            check_source(grid)
        return gradient.price({})

    def random() -> CutPrice:
        note = f"{cut.directions} directions; error grows with training.unroll"
        return gradient.price(dict.fromkeys(inputs, cut.sides * cut.directions), 0, note)

    return {
        "identity": identity,
        "dense": dense,
        "coloured": lambda: gradient.price(*coloured()),
        "regressed": regressed,
        "bank": bank,
        "tangent": tangent,
        "random": random,
    }


def fit_and_product(
    cut: InterfaceCut, solver: Solver, inputs: list[Variable], like: Tensor
) -> tuple[float, float]:
    """Seconds of a tangent's fit, and of a product of one state."""
    settings = learning_of(cut)
    settings.bases(cut.sides, len(inputs), "interface.budget")  # a budget that will not do
    return seconds_of(solver, inputs, settings, like)
