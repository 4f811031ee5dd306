"""What a correction run is made of: every setting, its unit and its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from zopde.studies.correct.labels import check_injection, fit_preset
from zopde.studies.settings import (
    Legal,
    Span,
    build,
    check_length,
    check_settings,
    choices,
    merge,
    read_toml,
)
from zopde.studies.workers import RunSettings, check_run_settings
from zopde.validate import check_choice, check_not_negative, check_positive, check_share

PRESETS = ("quick", "paper")


@dataclass(frozen=True)
class SolverSettings:
    """The coarse solver: `spec` as `zopde solvers` names it, and its class's options."""

    spec: str = "burgers"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSettings:
    """Reference data: cells per side of both grids, and how many runs of how many steps.

    `path` is the NetCDF file; "" means <solver>-<fine>-<coarse>-seed<seed>.nc beside the run
    folder. `skip` steps pass before the first kept state.
    """

    path: str = ""
    fine: tuple[int, ...] = (128, 128)
    coarse: tuple[int, ...] = (32, 32)
    skip: int = 30
    steps: int = 200
    train: int = 10
    test: int = 5
    seed: int = 0


@dataclass(frozen=True)
class CorrectorSettings:
    """The network: "conv" or "residual", its sizes, and its padding ("auto": as the grid).

    `inject` says where its answer enters: "after" the solver's step or "before" it, added to the
    state, or in the "forcing" of the step, see `zopde.CorrectedSolver`. With the last two NON and
    NOG have no gradient: presets leave them out and start from scratch.
    """

    kind: Literal["conv", "residual"] = "conv"
    sizes: dict[str, int] = field(default_factory=dict)
    padding: Literal["auto", "periodic", "zero"] = "auto"
    inject: Literal["after", "before", "forcing"] = "after"


@dataclass(frozen=True)
class NonSettings:
    """The NON stage, one step on stored data, from which labels start where init = "non".

    `batch` counts windows of one step.
    """

    length: str = "600 iterations"
    batch: int = 16
    lr: float = 1e-2
    warmup: int = 10


@dataclass(frozen=True)
class TrainingSettings:
    """The stage in which the labels differ.

    `batch` windows of `unroll` corrected steps per iteration (NON: batch * unroll windows of
    one step, as many reference states). `init`: "non" or "scratch".
    """

    length: str = "200 iterations"
    batch: int = 4
    unroll: int = 8
    init: Literal["non", "scratch"] = "non"
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 3e-3
    warmup: int = 10
    clip: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class ZoSettings:
    """Zeroth-order gradients: step `mu` in the units of the weights, share NOT asked for.

    With `mu_relative`, `mu` is in units of each tensor's root mean square, see `relative_mu`.
    A random mask is drawn every `resample`. `score` shares its weights out over the layers, once,
    on the first batch: "none" (uniformly), or the ratios that "random", "magnitude", "grasp" or
    "zo-grasp" (from `score_directions` directions) gives. `chunk` is how many probes share a
    pass; 0 finds out when the run starts. Two runs agree bit for bit where it is the same.
    """

    mu: float = 1e-3
    mu_relative: bool = False
    scheme: Literal["forward", "central"] = "forward"
    sparsity: float = 0.9
    score: Literal["none", "random", "magnitude", "grasp", "zo-grasp"] = "none"
    score_directions: int = 192
    resample: str = "10 iterations"
    chunk: int = 0


@dataclass(frozen=True)
class InterfaceSettings:
    """The interface cut: how the solver's vector-Jacobian product is asked for.

    `kind`: "coloured" (local solvers; `radius` in cells along each axis, [] measures it, and
    `allow_bias` accepts one that the solver's step leaves), "dense" (every entry), "random"
    (`directions` of them), "amortised" (Jacobians measured once at `snapshots` states of the
    training data, found again by `lookup`, see `zopde.BankPullback`). Such a bank takes at
    most `limit_gib`: where it would not fit, each Jacobian is compressed to the entries within
    `near` cells along each axis ([]: 5) and a product of rank `rank` for the rest. With
    `watch_every` > 0 it is compared with the solver every so many iterations, and where they
    agree less than `watch_below` (a cosine) up to `more_snapshots` are added; after that
    `fallback` answers for the rest of the iteration.
    `mu` is in units of the training data's standard deviation, the root mean square over the
    channels. A solver call takes at most `states` states.
    """

    kind: Literal["coloured", "dense", "amortised", "random"] = "coloured"
    mu: float = 1e-3
    scheme: Literal["forward", "central"] = "forward"
    radius: tuple[int, ...] = ()
    allow_bias: bool = False
    directions: int = 64
    snapshots: int = 10
    more_snapshots: int = 0
    lookup: Literal["nearest", "fitted"] = "fitted"
    watch_every: int = 0
    watch_below: float = 0.9
    fallback: Literal["none", "dense", "coloured"] = "none"
    limit_gib: float = 4.0
    near: tuple[int, ...] = ()
    rank: int = 64
    states: int = 512


@dataclass(frozen=True)
class CorrectionConfig:
    """Everything that decides a correction run. Checked when built.

    Raises:
        InputError: If a value is outside its legal range.
    """

    solver: SolverSettings = field(default_factory=SolverSettings)
    data: DataSettings = field(default_factory=DataSettings)
    corrector: CorrectorSettings = field(default_factory=CorrectorSettings)
    non: NonSettings = field(default_factory=NonSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    zo: ZoSettings = field(default_factory=ZoSettings)
    interface: InterfaceSettings = field(default_factory=InterfaceSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        check_settings(self, _LEGAL)
        check_run_settings(self.run)
        check_injection(self.corrector.inject, self.run.labels, self.training.init)

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of `run.dtype`."""
        return torch.float64 if self.run.dtype == "float64" else torch.float32


_LEGAL: Legal = (
    (
        check_positive,
        {
            "data": "steps train test",
            "non": "batch lr",
            "training": "batch unroll lr",
            "zo": "mu score_directions",
            "interface": "mu directions states snapshots limit_gib rank",
            "run": "checkpoint_seconds threads failure_limit store_gib",
        },
    ),
    (
        check_not_negative,
        {
            "data": "skip seed",
            "non": "warmup",
            "training": "warmup clip weight_decay",
            "zo": "chunk",
            "interface": "more_snapshots watch_every watch_below radius near",
            "run": "workers retries timeout seeds",
        },
    ),
    (check_share, {"zo": "sparsity"}),
    (Span.parse, {"non": "length"}),
    (check_length, {"training": "length", "zo": "resample"}),
)


def load_config(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> CorrectionConfig:
    """A preset, with more and more particular settings laid over it.

    A solver named in what is laid over may have presets of its own, `presets/<solver>/`; the
    others share those in `presets/`.

    Args:
        preset: "quick" or "paper", embedded in the package.
        file: TOML file laid over the preset.
        changes: Texts "table.key=value" laid over that.
        tables: Nested dicts laid over all.

    Returns:
        The checked settings.

    Raises:
        InputError: On an unknown preset or key (naming the nearest), a wrong type or value.
    """
    check_choice("preset", preset, PRESETS)
    chosen = choices(file, changes, tables)
    tree = read_toml(_preset_file(preset, chosen))
    return build(CorrectionConfig, merge(fit_preset(tree, chosen), chosen))


def _preset_file(preset: str, chosen: Mapping[str, Any]) -> Path:
    """The one of the chosen solver where it has a folder of its name, or the common one."""
    folder = Path(str(files("zopde.studies.correct") / "presets"))
    solver = chosen.get("solver")
    spec = solver.get("spec") if isinstance(solver, Mapping) else None
    own = {entry.name: entry for entry in folder.iterdir() if entry.is_dir()}
    return own.get(str(spec), folder) / f"{preset}.toml"
