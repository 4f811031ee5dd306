"""Getting a solver ready to be back-propagated through: each way, measured at some states."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from zopde.contracts import Forcing, Solver, State, counted_apart
from zopde.errors import InputError
from zopde.files import digest_of, identity_of, reading, write_text
from zopde.identity import attributes_of, content_of, solver_identity
from zopde.interface import (
    Bank,
    BankPullback,
    ColouredPullback,
    CorrectedPullback,
    DensePullback,
    IdentityPullback,
    JacobianStore,
    Key,
    Probing,
    Pullback,
    Step,
    Variable,
    Watch,
    by_variable,
    coloured_for,
    farthest_points,
)
from zopde.interface.bank import check_banks_fit
from zopde.interface.scales import step_scale
from zopde.interface.vjp import Due, entries_of
from zopde.interface.watch import OFF
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.tangent.choose import SOME_PRODUCTS, check_learnable, choose, told
from zopde.tangent.compared import Compared, check_same
from zopde.tangent.pairs import PairStore
from zopde.tangent.pullback import TangentPullback
from zopde.tangent.rounds import Learning, learn

_PROBED, _SNAPSHOTS, _GIB = 64, 10, 4.0  # cells that show the reach; Jacobians of a bank, and room
_COSINE, _ERROR, _REFUSED = 0.5, 0.5, 1.0  # where a watch warns, and where it refuses
_APART = 0.3  # between the solver's own responses to other steps: where the step may not suit
_COMPARED = 32  # answers that say who a solver is, where its attributes do not
_AGAIN = "move it away: it is measured again"
EXAMPLES = "examples of states to measure at, (examples, channel, *space)"


class Ready(NamedTuple):
    """A way that is ready for products."""

    way: str
    pullback: Pullback
    note: Callable[[], str]  # what was found, so far
    error: Callable[[], float | None] = lambda: None  # of a response, where it is known
    steps: int = 0  # of a product with respect to every input
    product: Callable[[], float | None] = lambda: None  # error of one, along random directions


@dataclass(frozen=True)
class Case:
    """A solver, and states to measure it at."""

    solver: Solver
    state: State
    forcing: Forcing | None
    examples: bool  # whether the user gave them; else they are those of the first step
    budget: int  # solver steps of a tangent
    store: Path | None
    seed: int
    progress: Progress
    user_solver: Solver  # with nothing round it
    mu: float  # finite-difference step, as in `Probing`

    @property
    def inputs(self) -> list[Variable]:
        """What may require a gradient."""
        return ["state"] if self.forcing is None else ["state", "forcing"]

    @cached_property
    def probing(self) -> dict[Variable, Probing]:
        """How the response to each input is measured: in standard deviations of the examples."""
        values = {"state": self.state, "forcing": self.forcing}
        plain, found = Probing(self.mu), dict[Variable, Probing]()
        for variable in self.inputs:
            value = values[variable]
            assert value is not None
            fluid = self.solver.grid.fluid_values(value)
            scale = step_scale(fluid.transpose(0, 1).flatten(1), plain.mu)
            found[variable] = replace(plain, scale=scale) if self.examples else plain
        return found

    @cached_property
    def identity(self) -> str:
        """What decides the solver's results: its code and attributes, and how it steps two states.

        Those that vary most; more where an attribute does not pickle, and so cannot be compared.
        """
        if self.store is None:
            return ""
        solver = self.user_solver
        attributes, whole = attributes_of(solver)
        who = f"{solver_identity('', {}, solver, content_of('', {}, solver))} {attributes}"
        fields = self.state.flatten(2)
        sizes = fields.square().mean(dim=(0, 2)).sqrt().clamp_min(torch.finfo(fields.dtype).tiny)
        varied = (fields.std(dim=2, correction=0) / sizes).sum(dim=1).argsort(descending=True)
        stepped = self.step(varied[: 2 if whole else _COMPARED]).stepped
        return identity_of(f"{who} {type(solver).__qualname__} {digest_of([stepped])}")

    def kept(self, name: str) -> Path | None:
        """A file of the store for what was measured at these states; None without a store."""
        if self.store is None:
            return None
        states = digest_of([self.state, self.forcing])
        how = f"{self.identity} {states} {self.seed} {self.mu} {torch.get_num_threads()} {name}"
        return self.store / f"{identity_of(how)}{Path(name).suffix}"

    def step(self, rows: Tensor) -> Step:
        """Step some of the states."""
        rows = rows.to(self.state.device)
        state, driven = self.state[rows], None if self.forcing is None else self.forcing[rows]
        return Step(self.solver, state, driven, self.solver.step(state, driven))

    def watches(self, way: str) -> dict[Variable, Watch]:
        """Look at some products of each input, and warn where the derivative does not fit."""

        def watch(variable: Variable, number: int) -> Watch:
            def warn(_: Step) -> bool:
                look = found.seen[-1]
                off = f"cosine {look.cosine:.2f}, relative error {look.error:.2g}"
                if look.whole > _REFUSED:
                    got = f"a state at which the {way} is no derivative by the {variable} ({off})"
                    remedy = "give states and forcings that vary as yours do, or another way"
                    expected = "states like the examples"
                    raise InputError("states", got=got, expected=expected, remedy=remedy)
                text = f"the {way} does not fit the solver's derivative by the {variable} here "
                text += f"({off}): give more states, and such as you step from"
                if look.apart > _APART:
                    text += "; or another mu: responses to a quarter of it and to four times it "
                    text += f"differ by {look.apart:.2g}"
                warnings.warn(text, stacklevel=6)
                return False

            draws = generator(self.seed, "probes", 100 + number)
            found = Watch(draws, _COSINE, Due(), warn, above=_ERROR)
            return found

        return {variable: watch(variable, n) for n, variable in enumerate(self.inputs)}

    def worst(self, watches: Mapping[Variable, Watch]) -> tuple[float | None, str]:
        """The largest error of a response that was seen, and its channel; None before a look."""
        seen = [look for watch in watches.values() for look in watch.seen]
        if not seen:
            return None, ""
        look = max(seen, key=lambda look: look.error)
        return look.error, f"; worst channel {self.solver.grid.channels[look.channel]}"


def identity(_: Case) -> Ready:
    """The gradient passes as it is."""
    note = "the gradient passes as it is: nothing measured"
    return Ready("identity", IdentityPullback(), lambda: note)


def dense(case: Case) -> Ready:
    """Every entry by itself."""
    scales = {v: probing.scale for v, probing in case.probing.items()}
    made = {v: DensePullback(case.mu, scale=scale) for v, scale in scales.items()}
    return Ready("dense", by_variable(made), lambda: "exact up to mu")


def random(case: Case) -> Ready:
    """The identity, corrected by some queries."""
    draws = generator(case.seed, "probes")
    made = {v: CorrectedPullback(draws, mu=case.mu, scale=p.scale) for v, p in case.probing.items()}
    return Ready("random", by_variable(made), lambda: "the identity, corrected along 64 directions")


def coloured(case: Case) -> Ready:
    """Colours, by a reach that is measured, or was before."""
    radii, made = _radii(case), dict[Variable, ColouredPullback]()
    if radii is None:
        got, expected = "a step that reaches too far", "one that reaches a few cells"
        remedy = "take the bank or the tangent, with examples of states"
        raise InputError("coloured way", got=got, expected=expected, remedy=remedy)
    for v, radius in radii.items():
        made[v] = ColouredPullback(case.solver.grid, radius, case.mu, scale=case.probing[v].scale)
    steps = sum(pullback.probes_for(v) for v, pullback in made.items())

    def product() -> float | None:
        return max(pullback.error for pullback in made.values()) or None

    def note() -> str:
        if (product() or 0.0) > OFF:
            return "products did not agree with the solver: see the warnings"
        now = {v: pullback.radius for v, pullback in made.items()}
        reach = ", ".join(f"{v} {' x '.join(map(str, r)) or 'all'}" for v, r in now.items())
        if now != radii:
            return f"the reach was too small for the products before, and is now: {reach}"
        return f"exact up to mu, as far as a step reaches no more cells than measured: {reach}"

    return Ready("coloured", by_variable(made), note, steps=steps, product=product)


def _radii(case: Case) -> dict[Variable, tuple[int, ...]] | None:
    """How far a step reaches by each input, measured or kept; None where that is too far."""
    path, found = case.kept("reach.json"), dict[Variable, tuple[int, ...]]()
    if path is not None and path.exists():
        with reading("reach", path, "what zopde wrote", _AGAIN):
            known = json.loads(path.read_text(encoding="utf-8"))
            return known and {v: tuple(known[v]) for v in case.inputs}
    order = torch.randperm(len(case.state), generator=generator(case.seed, "probes"))
    step = case.step(order[:_PROBED])
    try:
        for v, p in case.probing.items():
            one = replace(step, variable=v)
            found[v] = coloured_for(one, mu=case.mu, probes=_PROBED, scale=p.scale).radius
    except InputError:
        found.clear()
    if path is not None:
        write_text(path, json.dumps(found or None))
    return found or None


def bank(case: Case) -> Ready:
    """Jacobians at a few of the states."""
    probing, count = case.probing, _count(case)
    scales = [torch.as_tensor(p.scale) for p in probing.values()]
    key, watches = Key(scales[0], *scales[1:]), case.watches("bank")
    points = key(case.state, case.forcing).flatten(1)
    snapshots = case.step(farthest_points(points, count))
    made = dict[Variable, Pullback]()
    with case.progress.stage("Jacobians", _steps_of_bank(case)) as advance:
        store = JacobianStore(case.store and case.store / "jacobians", case.identity, advance)
        for v in case.inputs:
            one = Bank(count, key, v, probing[v], store, limit_gib=_GIB / len(case.inputs))
            one.add(snapshots)
            made[v] = BankPullback(one, "fitted", watches[v])
    note = f"Jacobians at {count} states, compared with the solver now and then"
    worst = partial(case.worst, watches)
    return Ready("bank", by_variable(made), lambda: note + worst()[1], lambda: worst()[0])


def tangent(case: Case) -> Ready:
    """A network that learns the derivative."""
    check_learnable("way", case.solver.grid)
    settings, watches = Learning(case.budget), case.watches("tangent")
    path = case.kept(f"{settings}.tangent")
    with TemporaryDirectory(prefix="zopde-") as own:
        work = Path(own) if path is None else path.with_suffix(".fit")
        with case.progress.stage("pairs of the tangent", settings.budget) as advance:
            pairs = PairStore(case.store and case.store / "pairs", case.identity, advance)
            what = case.solver, case.state, case.forcing, case.probing, settings, pairs, work
            files = [] if path is None else [path]
            found = learn(*what, case.seed, files, case.progress)
    made = {v: TangentPullback(found.tangent, p, watches[v]) for v, p in case.probing.items()}
    error, without = max(found.error.values()), max(found.unlearned.values())
    note = f"{error:.2g} where nothing was learned from; {without:.2g} without learning"
    worst = partial(case.worst, watches)
    known = by_variable(made), lambda: note + worst()[1], lambda: max(error, worst()[0] or 0.0)
    return Ready("tangent", *known)


def auto(case: Case) -> Ready:
    """One of coloured, bank and tangent; see `zopde.tangent.choose`."""
    local, count = _radii(case) is not None, _count(case)
    if not case.examples:
        if local:
            return coloured(case)
        got = "none, with a step that reaches too far for the coloured way"
        raise InputError("states", got=got, expected=EXAMPLES)
    products = SOME_PRODUCTS * coloured(case).steps if local else None
    snapshots: int | None = _steps_of_bank(case)
    try:
        check_banks_fit(count, case.solver.grid, case.inputs, _GIB)
    except InputError:
        snapshots = None
    prices = products, snapshots, case.budget, case.solver.grid
    way = choose(*prices)
    case.progress.note(told(way, *prices))
    return WAYS[way](case)


def _count(case: Case) -> int:
    """Snapshots of a bank."""
    return min(_SNAPSHOTS, len(case.state))


def _steps_of_bank(case: Case) -> int:
    return _count(case) * entries_of(case.solver.grid, case.inputs)


def made_ready(case: Case, way: str) -> Ready:
    """A way that is ready, its products compared with the solver now and then; see `Compared`.

    A solver that answers by chance, or for whom a batch matters, is refused first: three solver
    steps at most.
    """
    _ = case.identity  # before a step changes the object
    if way == "identity":
        return identity(case)
    with counted_apart():
        check_same(case.step(torch.arange(min(2, len(case.state)))), case.mu)
    ready = WAYS[way](case)
    if ready.way == "coloured":  # compares its products itself
        return ready._replace(pullback=Compared(ready.pullback, case.probing))

    def say(off: float, text: str) -> str:
        if ready.way == "dense" or off <= _ERROR:
            return text * (ready.way == "dense")
        text = (
            f"the {ready.way} does not fit what this loss looks at: a product is off by {off:.0%} "
        )
        return f"{text}of its size; give more states, or take the way dense"

    draws = generator(case.seed, "probes", 200)
    pullback = Compared(ready.pullback, case.probing, draws, say)
    return ready._replace(pullback=pullback, product=lambda: max(pullback.seen, default=None))


WAYS: dict[str, Callable[[Case], Ready]] = {
    way.__name__: way for way in (auto, identity, dense, coloured, bank, random, tangent)
}
"""Name -> what makes it ready."""
