"""What a run asks of its black box: entries of weights, entries of states, or an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zopde.errors import InputError
from zopde.studies import limits


@dataclass(frozen=True)
class WeightCut:
    """Network, solver and loss are one black box; single weights are moved.

    A probe moves a weight by `mu`, in the units of the weights; with `mu_relative`, `mu` is in
    units of each tensor's root mean square, see `relative_mu`. A share `sparsity` of the weights
    is NOT probed: a random mask is drawn every `resample`. `score` shares its weights out over the
    layers, once, on the first batch: "none" (uniformly), or the ratios that "random", "magnitude",
    "grasp" or "zo-grasp" (from `score_directions` directions) gives. `chunk` is how many probes
    share a pass; 0 finds out when the run starts. Two runs agree bit for bit where it is the same.
    """

    mu: limits.Difference = 1e-3  # A probe moves a weight by so much.
    mu_relative: bool = False  # Whether `mu` counts in the tensor's root mean square.
    scheme: Literal["forward", "central"] = "forward"  # Which difference is taken.
    sparsity: limits.Share = 0.9  # This share of the weights is not probed.
    # How layers share the probed weights.
    score: Literal["none", "random", "magnitude", "grasp", "zo-grasp"] = "none"
    score_directions: limits.Count = 192  # Random directions of "zo-grasp".
    resample: limits.Length = "10 iterations"  # So long a mask is kept.
    chunk: limits.Whole = 0  # Probes that share a pass; 0 measures the best.

    @property
    def sides(self) -> int:
        """Probes of a weight."""
        return 2 if self.scheme == "central" else 1


@dataclass(frozen=True)
class InterfaceCut:
    """The solver alone is the black box; entries of its state are moved.

    `way` says how the solver's vector-Jacobian product is measured: "auto" (the run chooses one of
    coloured, bank and tangent when it begins, by their solver steps, and keeps to it; see
    docs/ways.md), "coloured" (for local
    solvers: entries whose responses cannot overlap share a probe; `radius` in cells along each
    axis, [] measures it, and `allow_bias` accepts one that the solver's step leaves), "regressed"
    (as coloured, but every probe moves all entries, and least squares tell them apart: for solvers
    with noise, see `zopde.RegressedPullback`), "dense"
    (every entry by itself), "random" (the identity, or what `around` names, corrected along so
    many `directions`, see `zopde.CorrectedPullback`), "tangent" (a network learns the derivative
    from at most `budget` solver steps, until its error on pairs that were held out is `target`;
    `width` channels, `fit` iterations; see `zopde.tangent.Tangent`), "bank" (Jacobians are measured
    once at `snapshots` states of the training data and found again by `lookup`, see
    `zopde.BankPullback`), "identity" (not at all: the gradient is passed on as it is, see
    `zopde.IdentityPullback`), "emulator" (a network learns the solver's answers, and its derivative
    stands for the solver's; its settings are `[emu]`). A bank that would take more than `limit_gib`
    is refused.
    Every `watch_every` iterations (0: never) one product of a bank, a tangent, an emulator or the
    regressed way, drawn at random, is compared with the solver, see `zopde.interface.Watch`. Where
    the cosine is below `watch_below`, or a tangent's relative error above `watch_error`, the
    tangent is refitted at that state, and if its error there is still above `stop_error`,
    `fallback` serves, or the run ends. With a bank, the state becomes a snapshot, up to
    `more_snapshots` of them; after that, and with the emulator and the regressed way at once,
    `fallback` serves until a later look finds agreement. A product of the coloured way is compared
    as often, and its radius grows where it is wrong. The steps of these looks are counted apart.
    `mu` is in standard deviations of the training data, `mu_of` each channel by itself; "mean",
    their root mean square over the channels, is for runs of before. A solver call takes at most
    `states` states.

    `labels` holds what one label has otherwise, in a table of its own:
    `[interface.labels.ZO-bank]` with `snapshots = 6`, for instance.
    """

    # How the product with the derivative of a step is got.
    way: Literal[
        "auto",
        "coloured",
        "regressed",
        "dense",
        "bank",
        "random",
        "identity",
        "tangent",
        "emulator",
    ] = "auto"
    mu: limits.Difference = 1e-3  # A probe moves an entry by so many standard deviations.
    mu_of: Literal["channel", "mean"] = "channel"  # Whether these are the channel's own.
    scheme: Literal["forward", "central"] = "forward"  # Which difference is taken.
    # A step reaches so many cells along each axis; [] measures it.
    radius: tuple[limits.Whole, ...] = ()
    allow_bias: bool = False  # Whether a step may reach farther than `radius`.
    directions: limits.Count = 64  # The way random asks along so many.
    # What the way random corrects.
    around: Literal["identity", "bank", "tangent", "emulator"] = "identity"
    snapshots: limits.Count = 10  # A bank measures so many Jacobians.
    more_snapshots: limits.Whole = 0  # The watch may add so many.
    budget: limits.Count = 1280  # A tangent takes at most so many solver steps.
    target: limits.Positive = 0.03  # A tangent with this error is good enough.
    width: limits.Count = 16  # Channels of a tangent.
    fit: limits.Count = 400  # Iterations in which a tangent is fitted.
    watch_error: limits.Positive = 0.5  # Above this error a tangent is fitted again.
    stop_error: limits.Positive = 0.7  # Above this error, after that, `fallback` serves.
    lookup: Literal["nearest", "fitted"] = "fitted"  # How a bank finds its Jacobians.
    watch_every: limits.Whole = 10  # Iterations from one look to the next; 0 never looks.
    watch_below: limits.NotNegative = 0.9  # Below this cosine a product is mended.
    fallback: Literal["none", "dense", "coloured"] = "none"  # What serves where mending fails.
    limit_gib: limits.Positive = 4.0  # A larger bank is refused.
    states: limits.Count = 512  # A solver call takes at most so many states.
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)  # What one label has otherwise.

    @property
    def ways(self) -> tuple[str, ...]:
        """The way, and what it corrects."""
        return (self.way, self.around) if self.way == "random" else (self.way,)

    @property
    def sides(self) -> int:
        """Probes of an entry."""
        return 2 if self.scheme == "central" else 1

    def hears_above(self, noise: float) -> bool:
        """Whether a probe moves a state by ten times a noise, in standard deviations."""
        return 10 * noise <= self.mu


@dataclass(frozen=True)
class EmulatorCut:
    """A network learns what the solver answers: the label EMU, and the way "emulator".

    It is fitted to the stored states first, whose answers every label needs. Then, after one of
    every `refit_every` iterations, it is fitted on: a share `visited` of each batch are states that
    such iterations have visited, with the answers that their forward passes have paid for. See
    `zopde.tangent.EmulatorPullback`. What watches it stands in `[interface]`.
    """

    width: limits.Count = 16  # Channels of the emulator.
    fit: limits.Count = 400  # Iterations in which it is fitted to stored states.
    refit: limits.Count = 20  # Iterations of a refit.
    refit_every: limits.Whole = 10  # Iterations of the training from one to the next; 0: none.
    visited: limits.PositiveShare = 0.5  # So much of a refit's batch was visited in the training.


@dataclass(frozen=True)
class ForwardCut:
    """Exact slopes of the differentiable twin along random directions: the label FG.

    An iteration unrolls the windows once for each of the `directions`. What they say of the
    gradient is averaged (unbiased), or projected (least squares). See
    `zopde.training.ForwardGradient`.
    """

    directions: limits.Count = 16  # Of an iteration.
    combine: Literal["average", "project"] = "average"  # How slopes become a gradient.


@dataclass(frozen=True)
class CorrectedCut:
    """A free or a learned derivative, corrected by a few queries: the label CV.

    It is the way "random" around `base`, whose own settings hold: those of a bank and of a tangent
    in `[interface]`, those of an emulator in `[emu]`. See `zopde.CorrectedPullback`.
    """

    base: Literal["identity", "bank", "tangent", "emulator"] = "emulator"  # What is corrected.
    directions: limits.Count = 16  # Queries of a product; twice as many with the central scheme.


@dataclass(frozen=True)
class EvolutionCut:
    """All weights are moved at once, each matrix by one of low rank: the label ES.

    An iteration unrolls each of the `members`, which are pairs, and the network itself. A matrix is
    moved by A B^T / sqrt(rank), A and B random with `rank` columns; see `zopde.zo.es`. `sigma` is
    in units of each tensor's root mean square. Losses enter as `shaping` says: "standard" (in
    standard deviations of the members' losses), "rank" (their ranks), "none" (as they are).
    """

    members: limits.Pairs = 64  # Networks of an iteration, two for each move.
    rank: limits.Count = 1  # Of the move of a matrix.
    sigma: limits.Positive = 0.03  # So far the members move.
    shaping: Literal["standard", "rank", "none"] = "standard"  # What stands in for the losses.


@dataclass(frozen=True)
class EnsembleCut:
    """The weights of many networks are moved by what these predict: the labels EKI and ETKI.

    `length` replaces `training.length`: an iteration unrolls each of the `members`, and their mean.
    `spread` is in units of each tensor's root mean square. See `zopde.training.EnsembleKalman`.
    """

    length: limits.Length = "20 iterations"  # How long they are trained.
    members: limits.Members = 100  # Networks of an ensemble.
    spread: limits.Positive = 0.3  # So much the members differ at first.
    noise: limits.NotNegative = 0.0  # Of the data, in standard deviations; 0: as the misfits say.
    inflation: limits.Inflation = 1.0  # An update's deviations are made larger by this factor.
    # Whether EKI makes correlations that may be chance smaller; ETKI cannot.
    localised: bool = False

    def check(self, labels: Sequence[str]) -> None:
        """Require a label that can be localised, if that is asked for."""
        if self.localised and "EKI" not in labels:
            raise InputError(
                "eki.localised",
                got=f"true with the labels {', '.join(labels)}",
                expected="EKI among them, the only one that can be localised",
            )
