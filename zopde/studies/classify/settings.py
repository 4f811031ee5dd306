"""What a classification run is made of; the defaults are DeepZero's recipe.

The compared ways of training a classifier, and what sets each apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from zopde.studies.settings import (
    Legal,
    Span,
    build,
    check_distinct,
    check_length,
    check_settings,
    choices,
    merge,
    read_toml,
)
from zopde.studies.workers import check_executor
from zopde.validate import (
    check_choice,
    check_count,
    check_device,
    check_not_negative,
    check_positive,
    check_share,
)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        gradient: "backprop", "cge" or "rge".
        mask: Which weights move: all; those of a random mask with the layers' ratios, drawn
            anew every few epochs; or those that pruning at the start leaves, the others zero.
    """

    gradient: Literal["backprop", "cge", "rge"]
    mask: Literal["none", "resampled", "pruned"] = "none"


METHODS = {
    "FO": Method("backprop"),
    "FO-sparse-gradient": Method("backprop", "resampled"),
    "FO-sparse-weights": Method("backprop", "pruned"),
    "CGE": Method("cge"),
    "RGE": Method("rge"),
    "DeepZero": Method("cge", "resampled"),
}


_FOLDER = files("zopde.studies.classify") / "presets"
PRESETS = (
    "quick",
    *(f"cnn-{weights}" for weights in (730, 3700, 6670, 9640, 12610)),
    *(f"resnet20-{percent}" for percent in (80, 90, 95, 99)),
)


@dataclass(frozen=True)
class ImageSettings:
    """The images: `path` as `load_images` takes it, "" for the embedded digits.

    In training an image is moved by up to `pad` pixels, zeros coming in, and mirrored half of
    the time if `flip`. Pixels are standardised by the training images' mean and deviation.
    """

    path: str = ""
    pad: int = 4
    flip: bool = True


@dataclass(frozen=True)
class ClassifierSettings:
    """The network: "cnn", "resnet", or a module of the user's, and its sizes.

    Any other `kind` is a class "package.module:Class" or "file.py:Class", built as
    `Class(in_channels, classes, **sizes)`, that maps (batch, channel, y, x) to logits.
    """

    kind: str = "cnn"
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FitSettings:
    """How long, on how many images at a time, by which optimiser; every method alike."""

    length: str = "50 epochs"
    batch: int = 256
    optimizer: Literal["adam", "sgd"] = "sgd"
    lr: float = 0.1
    warmup: str = "3 epochs"
    clip: float = 0.0
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class QuerySettings:
    """Sparsity, and the estimates of CGE, RGE and DeepZero.

    `mu` is in the units of the weights. `sparsity` is the share of the weights of convolutions
    and linear layers that is NOT asked for (DeepZero), not updated (FO-sparse-gradient) or
    pruned (FO-sparse-weights); `score` shares the rest out over the layers, once, on
    `score_images` images of each class, "zo-grasp" from `score_directions` directions (a method
    with back-propagation takes its exact twin "grasp"). The mask is drawn anew every
    `resample`. `directions` is RGE's q; 0: as many as weights. `chunk` probes share a pass.
    """

    mu: float = 5e-3
    scheme: Literal["forward", "central"] = "forward"
    sparsity: float = 0.9
    score: Literal["random", "magnitude", "grasp", "zo-grasp"] = "zo-grasp"
    score_directions: int = 192
    score_images: int = 25
    resample: str = "5 epochs"
    directions: int = 0
    chunk: int = 32


@dataclass(frozen=True)
class ClassifyRunSettings:
    """Which methods, which seeds, where; as in a correction run.

    Probes are answered by `workers` processes of `threads` threads each (0: by this process),
    or by an `executor` of Dask.
    """

    methods: tuple[str, ...] = ("FO", "DeepZero")
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    workers: int = 0
    threads: int = 1
    executor: str = ""
    scratch: str = ""


@dataclass(frozen=True)
class ClassificationConfig:
    """Everything that decides a classification run. Checked when built.

    Raises:
        InputError: If a value is outside its legal range.
    """

    data: ImageSettings = field(default_factory=ImageSettings)
    network: ClassifierSettings = field(default_factory=ClassifierSettings)
    training: FitSettings = field(default_factory=FitSettings)
    zo: QuerySettings = field(default_factory=QuerySettings)
    run: ClassifyRunSettings = field(default_factory=ClassifyRunSettings)

    def __post_init__(self) -> None:
        check_settings(self, _LEGAL)
        check_distinct("run.seeds", self.run.seeds)
        check_distinct("run.methods", self.run.methods)
        for method in self.run.methods:
            check_choice("run.methods", method, METHODS)
        check_device("run.device", self.run.device)
        check_executor(self.run)


_LEGAL: Legal = (
    (
        check_count,
        {"training": "batch", "zo": "score_directions score_images chunk", "run": "threads"},
    ),
    (check_positive, {"training": "lr", "zo": "mu", "run": "checkpoint_seconds"}),
    (
        check_not_negative,
        {
            "data": "pad",
            "training": "clip weight_decay",
            "zo": "directions",
            "run": "workers seeds",
        },
    ),
    (check_share, {"zo": "sparsity"}),
    (Span.parse, {"training": "warmup"}),
    (check_length, {"training": "length", "zo": "resample"}),
)


def load_classification(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> ClassificationConfig:
    """A preset, with more and more particular settings laid over it.

    Args:
        preset: "quick" (digits, minutes), "cnn-730" ... "cnn-12610" or "resnet20-80" ...
            "resnet20-99" (CIFAR-10), embedded in the package.
        file: TOML file laid over the preset.
        changes: Texts "table.key=value" laid over that.
        tables: Nested dicts laid over all.

    Returns:
        The checked settings.

    Raises:
        InputError: On an unknown preset or key (naming the nearest), a wrong type or value.
    """
    check_choice("preset", preset, PRESETS)
    tree = read_toml(Path(str(_FOLDER / f"{preset}.toml")))
    return build(ClassificationConfig, merge(tree, choices(file, changes, tables)))
