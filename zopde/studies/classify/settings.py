"""The settings of a classification run; the defaults are DeepZero's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zopde.errors import InputError
from zopde.studies import limits
from zopde.studies.classify.labels import LABELS
from zopde.studies.settings import ImageSettings, ProbeSettings, check_names, load

PRESETS = (
    "quick",
    *(f"cnn-{weights}" for weights in (730, 3700, 6670, 9640, 12610)),
    *(f"resnet20-{percent}" for percent in (80, 90, 95, 99)),
)
"""What `load_classification` finds in the package, by name."""


@dataclass(frozen=True)
class NetworkSettings:
    """The network: "cnn", "resnet", or a module of the user's, and its sizes.

    Those of zopde's own are `depth`, `width`, and `groups`: GroupNorm of so many groups takes the
    place of BatchNorm, which samples need that do not mix (`zo.estimator = "units"`).

    Any other `kind` is a class "package.module:Class" or "file.py:Class", built as
    `Class(in_channels, classes, **sizes)`, that maps (batch, channel, y, x) to logits.
    """

    kind: limits.Text = "cnn"
    sizes: dict[str, limits.Size] = field(default_factory=dict)


@dataclass(frozen=True)
class FitSettings:
    """How long, on how many images at a time, by which optimiser; every method alike."""

    length: limits.Length = "50 epochs"
    batch: limits.Count = 256
    optimizer: Literal["adam", "sgd"] = "sgd"
    lr: limits.Rate = 0.1
    warmup: limits.LengthOrNone = "3 epochs"
    clip: limits.NotNegative = 0.0
    weight_decay: limits.NotNegative = 5e-4


@dataclass(frozen=True)
class QuerySettings:
    """Sparsity, and the estimates of CGE, RGE and DeepZero.

    `mu` is in the units of the weights. `sparsity` is the share of the weights of convolutions
    and linear layers that is NOT asked for (DeepZero), not updated (FO-sparse-gradient) or
    pruned (FO-sparse-weights); `score` shares the rest out over the layers, once, on
    `score_images` images of each class, "zo-grasp" from `score_directions` directions (a method
    with back-propagation takes its exact twin "grasp"). The mask is drawn anew every
    `resample`. `directions` is RGE's q; 0: as many as weights; `combine` says how these
    become a gradient, see `zopde.rge`. `chunk` probes share a pass.

    `estimator` says what CGE and DeepZero move: every weight, or with "units" the pre-activations
    of layers that have fewer of them than weights; see `zopde.zo.unitwise`. `mu` is then in the
    units of the pre-activations, too. The run's own process moves units.
    """

    estimator: Literal["weights", "units"] = "weights"
    mu: limits.Difference = 5e-3
    scheme: Literal["forward", "central"] = "forward"
    sparsity: limits.Share = 0.9
    score: Literal["random", "magnitude", "grasp", "zo-grasp"] = "zo-grasp"
    score_directions: limits.Count = 192
    score_images: limits.Count = 25
    resample: limits.Length = "5 epochs"
    directions: limits.Whole = 0
    combine: Literal["average", "project"] = "average"
    chunk: limits.Count = 32


@dataclass(frozen=True)
class ClassifyRunSettings(ProbeSettings):
    """Which methods, which seeds, where; as in a correction run.

    Probes are answered by `workers` processes of `threads` threads each (0: by this process),
    or by an `executor` of Dask.
    """

    methods: tuple[str, ...] = ("FO", "DeepZero")


@dataclass(frozen=True)
class ClassificationConfig:
    """All settings of a classification run, checked when it is built.

    They are the tables of config.toml: `data`, `network`, `training`, `zo` and `run`.

    Raises:
        InputError: If a value is outside its legal range.
    """

    data: ImageSettings = field(default_factory=ImageSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    training: FitSettings = field(default_factory=FitSettings)
    zo: QuerySettings = field(default_factory=QuerySettings)
    run: ClassifyRunSettings = field(default_factory=ClassifyRunSettings)

    def __post_init__(self) -> None:
        check_names("run.methods", self.run.methods, LABELS)
        if self.zo.estimator == "units" and self.run.probed_by().elsewhere:
            got, expected = '"units" with workers', "this process alone, which moves units"
            remedy = "set run.workers=0 and run.executor empty, or zo.estimator to weights"
            raise InputError("zo.estimator", got=got, expected=expected, remedy=remedy)


def load_classification(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> ClassificationConfig:
    """Read the settings of a classification run: a preset, and over it what is chosen.

    The presets are "quick" (digits, minutes), and "cnn-730" ... "cnn-12610" and "resnet20-80" ...
    "resnet20-99" (CIFAR-10). Arguments and errors are those of `load_config`.
    """
    return load(ClassificationConfig, PRESETS, preset, file, changes, tables)
