"""The two cuts, each by its plain values: which part of the loop is treated as a black box.

A table of settings is one of these: `[zo]` is a `WeightCut`, `[interface]` an `InterfaceCut`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zopde.studies.settings import Count, Length, NotNegative, Positive, Share, Whole

Way = Literal["coloured", "dense", "bank", "random"]


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

    mu: Positive = 1e-3
    mu_relative: bool = False
    scheme: Literal["forward", "central"] = "forward"
    sparsity: Share = 0.9
    score: Literal["none", "random", "magnitude", "grasp", "zo-grasp"] = "none"
    score_directions: Count = 192
    resample: Length = "10 iterations"
    chunk: Whole = 0

    @property
    def sides(self) -> int:
        """Probes of a weight."""
        return 2 if self.scheme == "central" else 1


@dataclass(frozen=True)
class InterfaceCut:
    """The solver alone is the black box; entries of its state are moved.

    `way` says how the solver's vector-Jacobian product is measured: "coloured" (for local
    solvers: entries whose responses cannot overlap share a probe; `radius` in cells along each
    axis, [] measures it, and `allow_bias` accepts one that the solver's step leaves), "dense"
    (every entry by itself), "random" (`directions` of them), "bank" (Jacobians are measured once
    at `snapshots` states of the training data and found again by `lookup`, see
    `zopde.interface.lookup`). A bank takes at most `limit_gib`: where it would not fit, each
    Jacobian is compressed to the entries within `near` cells along each axis ([]: 5) and a product
    of rank `rank` for the rest. With `watch_every` > 0 it is compared with the solver every so
    many iterations, and where they agree less than `watch_below` (a cosine) up to
    `more_snapshots` are added; after that `fallback` serves for the rest of the iteration.
    `mu` is in units of the training data's standard deviation, the root mean square over the
    channels. A solver call takes at most `states` states.

    `labels` holds what one label has otherwise, in a table of its own:
    `[interface.labels.ZO-bank]` with `snapshots = 6`, for instance.
    """

    way: Way = "coloured"
    mu: Positive = 1e-3
    scheme: Literal["forward", "central"] = "forward"
    radius: tuple[Whole, ...] = ()
    allow_bias: bool = False
    directions: Count = 64
    snapshots: Count = 10
    more_snapshots: Whole = 0
    lookup: Literal["nearest", "fitted"] = "fitted"
    watch_every: Whole = 0
    watch_below: NotNegative = 0.9
    fallback: Literal["none", "dense", "coloured"] = "none"
    limit_gib: Positive = 4.0
    near: tuple[Whole, ...] = ()
    rank: Count = 64
    states: Count = 512
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sides(self) -> int:
        """Probes of an entry."""
        return 2 if self.scheme == "central" else 1

    @property
    def ways(self) -> set[str]:
        """What is to be ready: the way, and what serves where a bank does not."""
        return {self.way, self.fallback} if self.way == "bank" else {self.way}


def small_bank(cut: InterfaceCut) -> InterfaceCut:
    """The same with one snapshot that nobody watches, to measure what one takes."""
    return replace(cut, snapshots=1, more_snapshots=0, watch_every=0)


def renamed(interface: Mapping[str, Any]) -> dict[str, Any]:
    """An `[interface]` table of an earlier version in today's words."""
    table = dict(interface)
    if "kind" in table:
        table["way"] = table.pop("kind")
    if table.get("way") == "amortised":
        table["way"] = "bank"
    return table
