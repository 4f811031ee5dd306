"""From the settings of a classification to the objects that train: here the settings end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from zopde.data import ImageBatches, ImageData, load_images, standardised
from zopde.data.images import Images, per_class
from zopde.errors import InputError, first_line
from zopde.identity import content_of_code
from zopde.memory import check_fits
from zopde.oracle.unit_checks import check_unmixed
from zopde.progress import Progress
from zopde.seeding import generator, global_stream
from zopde.studies.classifiers import build_classifier
from zopde.studies.classify.labels import LABELS
from zopde.studies.classify.settings import ClassificationConfig, QuerySettings
from zopde.studies.model_file import check_storable, named_network
from zopde.studies.run import Trainings, records_of
from zopde.studies.settings import iterations_in
from zopde.training import CrossEntropy, Optimise

NETWORK = "network.digest"


@dataclass(frozen=True)
class TrainingImages:
    """The images of a run, and how a network gets them."""

    data: ImageData  # the images
    mean: Tensor  # (channel,), of the training images, on the run's device
    deviation: Tensor  # (channel,), likewise

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network gets for some pixels."""
        return standardised(pixels.to(self.mean.device), self.mean, self.deviation)

    def objective(self, pixels: Tensor, labels: Tensor) -> CrossEntropy:
        """The loss on some images."""
        return CrossEntropy(self.inputs(pixels), labels.to(self.mean.device))

    def for_scores(self, of_each_class: int, seed: int) -> CrossEntropy:
        """The loss on so many training images of each class, drawn by the seed."""
        train = self.data.train
        order = torch.randperm(len(train), generator=generator(seed, "scores", 1))
        mixed = Images(train.pixels[order], train.labels[order])
        chosen = per_class(mixed, of_each_class)
        return self.objective(mixed.pixels[chosen], mixed.labels[chosen])


@dataclass(frozen=True)
class Opened(Trainings):
    """A classification that is ready to train."""

    images: TrainingImages  # the images
    kind: str  # of network
    sizes: dict[str, int]  # of the network
    # Seed -> an untrained network in train mode, the same for every label
    new_network: Callable[[int], nn.Module]
    batches: Callable[[int], ImageBatches]  # seed -> the training batches, the same for every label
    iterations: int  # updates of a training
    optimise: Optimise  # how gradients become updates, for every label alike
    queries: QuerySettings  # the estimates of CGE, RGE and DeepZero, and the sparsity
    resample: int  # updates after which a mask is drawn anew
    code: str  # a digest of the files of the user's own network

    @property
    def records(self) -> dict[str, tuple[str, str]]:
        """A resumption must see the same images, and the same network of the user's own."""
        own = {NETWORK: (self.code, f"network {self.kind!r}")} if self.code else {}
        return {**records_of(self.images.data), **own}


def open_classification(
    config: ClassificationConfig,
    root: Path,  # noqa: ARG001 - other studies keep data beside it
    progress: Progress,  # noqa: ARG001
    data: ImageData | None = None,
) -> Opened:
    """The images, `data` or those of the settings, and all that is made of the settings."""
    data = data or load_images(config.data.path)
    mean, deviation = data.scale()
    images = TrainingImages(data, mean.to(config.run.device), deviation.to(config.run.device))
    training, network = config.training, config.network
    pad, flip = config.data.pad, config.data.flip

    def batches(seed: int) -> ImageBatches:
        return ImageBatches(data.train, training.batch, seed, pad, flip)

    per_epoch = batches(0).per_epoch
    new_network = partial(_new_network, network.kind, network.sizes, data, config.run.device)
    made = new_network(config.run.seeds[0])  # one that does not suit must be known now
    by_queries = any(LABELS[name].gradient == "cge" for name in config.run.methods)
    if by_queries and config.zo.estimator == "units":
        check_unmixed(made)
    return Opened(
        images,
        network.kind,
        network.sizes,
        new_network,
        batches,
        iterations_in(training.length, per_epoch),
        Optimise(
            training.optimizer,
            training.lr,
            iterations_in(training.warmup, per_epoch),
            training.clip,
            training.weight_decay,
        ),
        config.zo,
        iterations_in(config.zo.resample, per_epoch),
        content_of_code(named_network(network.kind)) if ":" in network.kind else "",
        labels=config.run.methods,
        seeds=config.run.seeds,
        workers=config.run.probed_by(),
        every_seconds=config.run.checkpoint_seconds,
        hours=config.run.hours,
    )


def _new_network(
    kind: str, sizes: dict[str, int], data: ImageData, device: str, seed: int
) -> nn.Module:
    shape, classes = tuple(data.train.pixels.shape[1:]), len(data.classes)
    with global_stream(generator(seed, "weights")):
        try:
            if ":" not in kind:
                with torch.device("meta"):  # nothing is allocated
                    weights = build_classifier(kind, data.channels, classes, sizes).parameters()
                check_fits("network.sizes", sum(weight.numel() for weight in weights))
            network = build_classifier(kind, data.channels, classes, sizes)
            network.eval()
            with torch.no_grad():
                answer = network(torch.zeros(2, *shape))
        except InputError:
            raise
        except Exception as error:  # a user's module may raise anything
            got = f"{kind!r} with sizes {sizes}: {first_line(error)}"
            expected = f"a network for images {shape}"
            raise InputError("network", got=got, expected=expected) from error
    if not isinstance(answer, Tensor) or answer.shape != (2, classes) or answer.is_complex():
        what = type(answer).__name__
        if isinstance(answer, Tensor):
            what = f"{'complex ' * answer.is_complex()}{tuple(answer.shape)}"
        raise InputError("network", got=f"an answer {what}", expected="(batch, classes)")
    check_storable(network)
    return network.train().to(device)
