"""A corrector by name, zopde's or the user's own, tried before anything is simulated."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from zopde.contracts import Domain
from zopde.data import clock_channels
from zopde.data.clock import is_clock
from zopde.domain import with_forcing
from zopde.errors import InputError, first_line
from zopde.hybrid import INJECTIONS
from zopde.memory import check_fits
from zopde.mesh import Mesh
from zopde.nets import Normalised, build_corrector, coordinate_channels
from zopde.nets.correctors import MESH, Inject, Padding
from zopde.nets.kinds import KINDS
from zopde.seeding import generator, global_stream
from zopde.studies import limits
from zopde.studies.model_file import check_storable, named_network
from zopde.validate import check_choice

_MOST_DIMS = 3  # of the convolutions that torch has
_MOVE = 0.1  # of the weights of a copy
_ROUNDING = 1e-3  # of a network's largest answer, in any precision
_NEAR = 1e-9  # what a period may be too short by, for it was rounded
_COORDINATES = "coordinates"
Network = TypeVar("Network", bound=nn.Module)


def body_of(
    kind: str,
    inputs: int,
    outputs: int,
    padding: Padding,
    sizes: Mapping[str, int],
    dims: int,
    mesh: Mapping[str, Tensor],
) -> nn.Module:
    """The layers of a corrector; one of the user's own is `Class(inputs, outputs, **sizes)`.

    On a mesh it gets what it names of `edges` and `positions`, too.
    """
    if ":" in kind:
        own = named_network(kind)
        asked = {name: mesh[name] for name in mesh if name in signature(own).parameters}
        return own(inputs, outputs, **asked, **sizes)
    return build_corrector(kind, inputs, outputs, padding, sizes, dims, mesh)


def in_precision(network: Network, dtype: torch.dtype) -> Network:
    """The network with weights of a precision; complex ones, unlike by `to`, stay complex."""
    return network.double() if dtype == torch.float64 else network.float()


@dataclass(frozen=True)
class Body:
    """What the layers of a corrector are built from."""

    kind: str
    sizes: Mapping[str, int]
    padding: Padding
    inputs: int
    outputs: int
    shape: tuple[int, ...]  # cells of the grid
    mesh: Mapping[str, Tensor]  # edges and positions; nothing on a grid

    def build(self) -> nn.Module:
        """The layers, their weights drawn by the global stream."""
        channels = self.inputs, self.outputs
        dims = len(self.shape)
        return body_of(self.kind, *channels, self.padding, self.sizes, dims, self.mesh)

    def drawn(self, like: Tensor, seed: int) -> nn.Module:
        """The same, drawn by the seed, of the precision and on the device of a tensor."""
        with global_stream(generator(seed, "weights")):
            return in_precision(self.build(), like.dtype).to(like.device)


def check_body(body: Body, like: Tensor, seed: int) -> None:
    """Call an untrained corrector once, of the precision and on the device of a tensor.

    Raises:
        InputError: If the network cannot be built, raises on a state of that grid, answers
            another shape or precision, mixes the states of a batch, has no weights, keeps
            something from call to call, or draws random numbers.
    """
    kind, sizes, shape = body.kind, dict(body.sizes), list(body.shape)
    if kind in KINDS and len(shape) > _MOST_DIMS:
        raise InputError(
            "corrector.kind",
            got=f"{kind!r} on a grid of {shape} cells",
            expected=f"a grid of at most {_MOST_DIMS} dimensions",
            remedy="bring a network of your own: corrector.kind=file.py:Class",
        )
    own = kind not in KINDS
    if not own:
        with torch.device("meta"):  # nothing is allocated
            weights = body.build().parameters()
        check_fits("corrector.sizes", sum(weight.numel() for weight in weights))
    x = torch.randn(2, body.inputs, *shape, generator=generator(seed, "probes")).to(like)
    try:
        network = body.drawn(like, seed)
        with torch.no_grad(), global_stream(generator(seed, "probes", 1)):
            if own:
                _check_call(kind, network, x, body.outputs)
            else:
                network(x)
    except InputError:
        raise
    except Exception as error:  # a user's module may raise anything
        raise InputError(
            "corrector.kind" if own else "corrector.sizes",
            got=f"{kind!r} of sizes {sizes} ({type(error).__name__}: {first_line(error)})",
            expected=f"a network for states of {body.inputs} channels on {shape} cells",
            remedy="" if own else "such as --set corrector.sizes={}",
        ) from error
    if own:
        check_storable(network)


def _check_call(kind: str, network: nn.Module, x: Tensor, outputs: int) -> None:
    """Require of a network of the user's own what training takes for granted."""
    if not any(p.requires_grad and p.numel() for p in network.parameters()):
        raise InputError(f"network {kind!r}", got="no weights to train", expected="some")
    before, drawn = deepcopy(network.state_dict()), torch.get_rng_state()
    _check_answer(kind, network(x), x.new_empty(len(x), outputs, *x.shape[2:]))
    changed = "" if torch.equal(drawn, torch.get_rng_state()) else "random numbers"
    now = network.state_dict()
    if not all(torch.equal(value, now[name]) for name, value in before.items()):
        changed = "its buffers"
    if changed:
        raise InputError(
            f"network {kind!r}",
            got=f"a call that takes or changes {changed}",
            expected="the same answer to the same state: no Dropout, no running statistics",
            remedy="take GroupNorm or LayerNorm in place of BatchNorm",
        )
    _check_apart(kind, network, x)


def _check_answer(kind: str, answer: object, wanted: Tensor) -> None:
    """Require the type and the shape that a correction has."""
    got = f"an answer {type(answer).__name__}"
    if isinstance(answer, Tensor):
        got = f"an answer {tuple(answer.shape)}, {answer.dtype}"
    expected = f"an answer {tuple(wanted.shape)}, {wanted.dtype}"
    if got != expected:
        raise InputError(f"network {kind!r}", got=got, expected=expected)


def _check_apart(kind: str, network: nn.Module, x: Tensor) -> None:
    """Require that the correction of a state does not depend on the states beside it.

    On a copy with other weights: those of a new network may be zero.
    """
    moved = deepcopy(network)
    for weight in moved.parameters():
        weight.add_(_MOVE * torch.randn_like(weight))
    answer = moved(x)
    off = float((answer[:1] - moved(x[:1])).abs().max())
    if not off <= _ROUNDING * float(answer.abs().max()):
        raise InputError(
            f"network {kind!r}",
            got=f"another answer for a state alone than beside another one (by {off:.1e})",
            expected="each state of a batch corrected by itself",
            remedy="take GroupNorm or LayerNorm in place of BatchNorm, means over the last axes",
        )


@dataclass(frozen=True)
class CorrectorSettings:
    """The network: "conv", "residual", "graph" or your own; its sizes; its padding.

    "auto" is "conv" on a grid and "graph" on a mesh, and pads as the grid says. Any other `kind` is
    a class "package.module:Class" or "file.py:Class", built as `Class(inputs, outputs, **sizes)`,
    that maps (batch, inputs, *space), the channels of state and forcing in standard deviations, to
    (batch, outputs, *space). It pads as it likes. On a mesh it is given `edges` (edge, 2) and
    `positions` (point, axis), if it takes arguments of these names.
    `inject` says where its answer enters: "after" the solver's step or "before" it, added to the
    state, or in the "forcing" of the step, or as the exponent of a factor of it, a "parameter" that
    stays positive; see `zopde.CorrectedSolver`. But for "after", NON, NOG and PUSH have no
    gradient: presets leave them out and start from scratch.
    Of `every` solver steps one is corrected: the network sees the forcing of the first of them,
    rollouts are compared with every so many states of the data, and `training.unroll` counts
    corrections.
    `inputs` are further channels that the network sees: "coordinates" tells it where it is, by the
    sine and the cosine of 2 pi x / L along a periodic axis, and by a number from -1 to 1 along any
    other and on a mesh; see `zopde.nets.coordinate_channels`. Any other name is a variable of the
    data, such as a parameter of each simulation, of which the solver is not told.
    `periods` tell it the time t of the data: sin and cos of 2 pi t / P for each period P, in the
    unit of the grid's `dt`, such as a day, of two corrected steps at least; see
    `zopde.data.clock_channels`.
    With a `history` of k it sees the k states before the one that the step starts from, too, each a
    corrected step earlier: of the data in training, as far as they go back, and of the rollout
    after it. Where a run begins, its first state stands for those before it.
    """

    kind: limits.Text = "auto"  # The network; "auto" takes one for the grid or mesh.
    sizes: dict[str, limits.Size] = field(default_factory=dict)  # Arguments of its class.
    padding: Literal["auto", "periodic", "zero"] = "auto"  # What it sees beyond the border.
    inject: Inject = "after"  # Where its answer enters.
    every: limits.Count = 1  # Solver steps to a correction.
    # What the network sees beside state and forcing: "coordinates", or variables of the data.
    inputs: tuple[limits.Text, ...] = ()
    periods: tuple[limits.Positive, ...] = ()  # Of the clocks that it sees, in time.
    history: limits.History = 0  # So many earlier states it sees.

    def __post_init__(self) -> None:
        if ":" not in self.kind:
            check_choice("corrector.kind", self.kind, ["auto", *KINDS, "file.py:Class"])
        elif self.padding != "auto":
            expected = '"auto": a class of your own pads as it likes'
            raise InputError("corrector.padding", got=repr(self.padding), expected=expected)
        clocks = [clock_channels([period]) for period in self.periods]
        for name, said, given in (
            ("corrector.inputs", self.inputs, self.inputs),
            ("corrector.periods", clocks, self.periods),
        ):
            if len(set(said)) < len(said):
                raise InputError(name, got=list(given), expected="each once")
        if wrong := [name for name in self.inputs if is_clock(name)]:
            remedy = f"give the period in corrector.periods=[{wrong[0].split()[1]}]"
            expected = "variables of the data"
            raise InputError("corrector.inputs", got=wrong[0], expected=expected, remedy=remedy)

    @property
    def told(self) -> tuple[str, ...]:
        """Forcing channels that the network sees and the solver is not given."""
        names = (name for name in self.inputs if name != _COORDINATES)
        return *names, *clock_channels(self.periods)

    def alone(self) -> CorrectorSettings:
        """The same network, which is told nothing, for who has no data to tell it."""
        places = tuple(name for name in self.inputs if name == _COORDINATES)
        return replace(self, inputs=places, periods=(), history=0)

    def told_on(self, grid: Domain) -> Domain:
        """A solver's grid with the channels of `told` behind its own.

        Raises:
            InputError: If one is a channel that the solver has, or a name that no channel can have,
                or if the network sees a period less than twice.
        """
        for name in self.told:
            if name in grid.forcing_channels:
                raise InputError(
                    "corrector.periods" if is_clock(name) else "corrector.inputs",
                    got=f"{name!r}, a forcing channel of the solver",
                    expected="what the solver is not given",
                    remedy="leave it out: the network sees it already",
                )
        shortest = 2 * self.every * grid.dt
        for period in self.periods:
            if period < (1 - _NEAR) * shortest:
                steps = "2 steps of the solver" if self.every == 1 else "2 corrections"
                remedy = "leave it out: the network sees a shorter one as another one, or as none"
                expected = f"{shortest:g} or more, {steps}"
                raise InputError("corrector.periods", got=period, expected=expected, remedy=remedy)
        try:
            return with_forcing(grid, self.told)
        except InputError as error:
            raise error.of("corrector.inputs") from error

    def network(
        self, grid: Domain, scale: Tensor, forcing_scale: Tensor, means: Tensor, seed: int
    ) -> Normalised:
        """An untrained corrector, its weights drawn by the seed; it divides by the two scales.

        `grid` and `forcing_scale` have the channels of `told`, and `means`, of the forcing, too.
        """
        body, land = self._body(grid, scale.dtype).drawn(scale, seed), (grid.fluid, grid.nearest)
        what = len(grid.shape), self.inject, *land, _mesh_of(grid, scale.dtype), self.every
        told = dict(zip(self.told, means[len(means) - len(self.told) :].tolist(), strict=True))
        return Normalised(body, scale, forcing_scale, *what, self._fixed(grid), told, self.history)

    def kind_on(self, grid: Domain) -> str:
        """The kind by name, also where it goes by the domain."""
        by_domain = "graph" if isinstance(grid, Mesh) else "conv"
        return by_domain if self.kind == "auto" else self.kind

    def check_on(self, grid: Domain, dtype: torch.dtype, seed: int) -> None:
        """Build the corrector once: whether it will do must be known before anything is simulated.

        Raises:
            InputError: If it will not.
        """
        check_body(self._body(grid, dtype), torch.ones((), dtype=dtype), seed)

    def _fixed(self, grid: Domain) -> Tensor | None:
        return coordinate_channels(grid) if _COORDINATES in self.inputs else None

    def _body(self, grid: Domain, dtype: torch.dtype) -> Body:
        words = tuple("periodic" if closed else "zero" for closed in grid.periodic)
        auto = words if len(set(words)) > 1 else words[0]
        inputs = len(grid.channels) * (1 + self.history) + len(grid.forcing_channels)
        inputs += grid.fluid is not None
        inputs += 0 if (fixed := self._fixed(grid)) is None else len(fixed)
        added_to = INJECTIONS[self.inject].adds_to
        outputs = len(grid.channels)
        if added_to == "forcing":
            outputs = len(grid.forcing_channels) - len(self.told)
        padding = auto if self.padding == "auto" else self.padding
        mesh = _mesh_of(grid, dtype)
        return Body(self.kind_on(grid), self.sizes, padding, inputs, outputs, grid.shape, mesh)


def _mesh_of(grid: Domain, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a network is told of a mesh; nothing of a grid."""
    if not isinstance(grid, Mesh):
        return {}
    return dict(zip(MESH, (grid.edges, grid.positions.to(dtype)), strict=True))
