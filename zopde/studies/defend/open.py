"""From the settings of a defence run to the objects that train: here the settings end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.blackbox import Store
from zopde.data import ImageBatches, ImageData, in_unit_range, load_images
from zopde.data.images import Images
from zopde.errors import InputError
from zopde.progress import Progress
from zopde.seeding import generator, global_stream
from zopde.studies.certificates import Sampling
from zopde.studies.classifiers import (
    Classifier,
    Scaled,
    content_of,
    frozen,
    identity_of,
    named_classifier,
    to_device,
    with_answers,
)
from zopde.studies.defend.blackbox import BlackBox, Ledger
from zopde.studies.defend.budget import Budget
from zopde.studies.defend.settings import DefenceConfig, DefenceQuerySettings, DefenceSettings
from zopde.studies.defend.surrogate import Surrogate
from zopde.studies.defended import Defence
from zopde.studies.run import Trainings, records_of, run_study, study_named
from zopde.studies.scores import queries_of
from zopde.studies.settings import iterations_in
from zopde.training import Optimise

TRAINING, PRETRAINING, WATCHING = 0, 1, 2  # different noise for each
DENOISER, AUTOENCODER = "start-denoiser", "start-autoencoder"
CONTENT = "classifier.digest"


@dataclass(frozen=True)
class NoisyImages:
    """The images of a run, scaled to [0, 1], and the noise on them."""

    data: ImageData  # the images, in the units of the file
    scale: float  # what a pixel is divided by: the brightest training pixel
    sigma: float  # deviation of the noise
    pad: int  # pixels by which a training image is moved at most
    flip: bool  # whether half of them are mirrored
    device: str  # where the run computes

    @classmethod
    def of(cls, data: ImageData, sigma: float, pad: int, flip: bool, device: str) -> Self:
        """The images, scaled so that the brightest training pixel is 1; they must be square."""
        pixels = data.train.pixels
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high <= 0:
            expected = "values >= 0, some of them > 0"
            raise InputError("pixels", got=f"[{low}, {high}]", expected=expected)
        if pixels.shape[-1] != pixels.shape[-2]:
            raise InputError("images", got=f"{tuple(pixels.shape[2:])}", expected="square ones")
        return cls(data, high, sigma, pad, flip, device)

    def inputs(self, pixels: Tensor) -> Float[Tensor, "batch channel y x"]:
        """Pixels in [0, 1] on the run's device."""
        return in_unit_range(pixels.to(self.device), self.scale)

    def batches(self, seed: int, batch: int) -> ImageBatches:
        """The training batches of a seed; the same for every label."""
        return ImageBatches(self.data.train, batch, seed, self.pad, self.flip)

    def pair(self, pixels: Tensor, seed: int, purpose: int, index: int) -> tuple[Tensor, Tensor]:
        """Images in [0, 1], and the same with noise, a function of (seed, purpose, index)."""
        clean, draw = self.inputs(pixels), generator(seed, "noise", 3 * index + purpose)
        noise = self.sigma * torch.randn(clean.shape, generator=draw).to(clean)
        return clean, clean + noise

    def watched(self, seed: int, count: int) -> tuple[Tensor, Tensor]:
        """Training images under noise of their own, by which networks of a seed are compared."""
        train = self.data.train
        chosen = torch.randperm(len(train), generator=generator(seed, "order", 2**31))[:count]
        return self.pair(train.pixels[chosen], seed, WATCHING, 0)

    def first(self, seed: int, count: int) -> Float[Tensor, "count channel y x"]:
        """Clean training images, drawn by the seed: all, in another order, where so many."""
        train = self.data.train
        chosen = torch.randperm(len(train), generator=generator(seed, "order", 2**31 + 1))[:count]
        return self.inputs(train.pixels[chosen])

    def judged(self, count: int) -> Images:
        """Test images that are certified: evenly spread over all."""
        test = self.data.test
        count = min(count, len(test))
        chosen = torch.arange(count) * len(test) // count
        return Images(test.pixels[chosen], test.labels[chosen])


@dataclass(frozen=True)
class Opened(Trainings):
    """A defence run that is ready to train."""

    images: NoisyImages  # the images, and their noise
    judged: Images  # those that are certified
    sampling: Sampling  # how they are
    sizes: DefenceSettings  # of a `Defence`
    # "start-denoiser", "start-autoencoder" -> iterations of training by mean square
    start: Mapping[str, int]
    start_batch: int  # images at a time in that
    start_optimise: Optimise  # how gradients become updates in that
    optimise: Mapping[str, Optimise]  # label -> how they do in the training through the classifier
    budget: Budget  # how long that is
    mse: float  # weight of the reconstruction in its loss
    queries: DefenceQuerySettings  # the estimates
    resample: int  # updates after which a mask is drawn anew
    below: float  # least cosine at which a surrogate is trusted
    # Seed -> the classifier; until `begin` an untrained one, where there is none
    classifier: Callable[[int], Classifier]
    box: BlackBox  # it as a black box, at its price, but of no seed
    spec: str  # its name; "" where it has none
    content: str  # a digest of its file, wherever it lies
    # (folder, resume, overwrite, progress): trains it; None where there is one
    train_classifier: Callable[[Path, bool, bool, Progress], object] | None
    open_store: Callable[[], Store] | None  # opens what keeps its answers; None where nothing does
    # Seed -> the file of a classifier that `begin` has trained
    model_file: Callable[[int], Path | None] = lambda _: None
    clean_accuracy: float = 0.0  # of the classifier without noise, in percent; known after `begin`

    @property
    def records(self) -> dict[str, tuple[str, str]]:
        """A resumption must see the same images, and the same classifier where one is named."""
        named = {CONTENT: (self.content, f"classifier {self.spec!r}")} if self.spec else {}
        return {**records_of(self.images.data), **named}

    def black_box(self, seed: int, budget: int = 0, queries: int = 0) -> BlackBox:
        """The classifier of a seed, behind a ledger that allows for a budget."""
        return replace(
            self.box,
            classifier=self.classifier(seed),
            ledger=Ledger(self.box.ledger.price, budget, queries),
            identity=identity_of(self.spec, self.box.answers, self.model_file(seed)),
        )

    def new_surrogate(self, seed: int) -> Surrogate:
        """One that knows nothing yet."""
        data = self.images.data
        shape = data.channels, data.train.pixels.shape[-1], self.box.classes
        return Surrogate(*shape, seed, self.images.device)

    def new_defence(self, seed: int, autoencoder: bool) -> Defence:
        """An untrained one; the denoisers of a seed are alike."""
        data, sizes = self.images.data, self.sizes
        latent = sizes.latent if autoencoder else 0
        side = data.train.pixels.shape[-1]
        with global_stream(generator(seed, "weights")):
            defence = Defence(data.channels, side, sizes.depth, sizes.width, latent)
        return defence.to(self.images.device)


def open_defence(
    config: DefenceConfig,
    root: Path,
    progress: Progress,
    data: ImageData | None = None,
    classifier: Classifier | None = None,
) -> Opened:
    """The images and the classifier, those given or the settings', and all that is made of them."""
    data = data or load_images(config.data.path)
    training, start, run = config.training, config.pretraining, config.run
    moved = config.data.pad, config.data.flip
    images = NoisyImages.of(data, config.defence.sigma, *moved, run.device)
    train_classifier, named = None, config.classifier
    if classifier is None:
        classifier, train_classifier = _classifier(config, images, root, progress)
    ledger, classes = Ledger(named.price), len(data.classes)
    box = BlackBox(classifier, classes, ledger, named.answers, named.votes, named.vote_sigma)
    budget = Budget(
        training.queries,
        training.iterations,
        config.evaluations(data.channels),
        config.zo.sides,
        named.votes if named.answers == "labels" else 1,
        queries_of(config.zo.score, config.zo.score_directions),
        len(data.train),
        training.batch,
        training.watch,
        min(training.watch_images, len(data.train)),
        min(config.surrogate.first, len(data.train)),
        config.surrogate.updates,
    )
    for label in run.methods:
        budget.iterations_of(label)  # one that pays for nothing must be known now
    per_epoch = images.batches(0, training.batch).per_epoch
    start_epoch = images.batches(0, start.batch).per_epoch
    warmup = iterations_in(training.warmup, per_epoch)
    certify = config.certify
    return Opened(
        images,
        images.judged(certify.images),
        Sampling(certify.n0, certify.n, certify.alpha, certify.batch),
        config.defence,
        {
            DENOISER: iterations_in(start.denoiser, start_epoch),
            AUTOENCODER: iterations_in(start.autoencoder, start_epoch),
        },
        start.batch,
        Optimise("adam", start.lr),
        {label: Optimise("adam", lr, warmup) for label, lr in training.lr.items()},
        budget,
        training.mse,
        config.zo,
        iterations_in(config.zo.resample, per_epoch),
        config.surrogate.below,
        lambda _: classifier,
        box,
        named.spec,
        content_of(named.spec, root / CONTENT),
        train_classifier,
        partial(Store, Path(run.store), run.store_gib) if run.store else None,
        labels=run.methods,
        seeds=run.seeds,
        every_seconds=run.checkpoint_seconds,
        hours=run.hours,
    )


def _classifier(
    config: DefenceConfig, images: NoisyImages, root: Path, progress: Progress
) -> tuple[Classifier, Callable[[Path, bool, bool, Progress], object] | None]:
    """The classifier, and what trains it; one that the run must train is untrained here."""
    named = config.classifier
    if named.spec:
        model = named_classifier(named.spec, images.scale, named.timeout, named.retries)
        return to_device(model, images.device), None
    study, settings = study_named("classify"), config.classifier_training()
    own = study.open(settings, root, progress, images.data)
    untrained = frozen(Scaled(own.new_network(config.run.seeds[0]), images.scale))
    train_classifier = partial(run_study, replace(study, open=lambda *_: own), settings)
    return with_answers(untrained, named.answers), train_classifier
