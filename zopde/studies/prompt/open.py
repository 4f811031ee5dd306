"""From the settings of a prompting run to the objects that train: here the settings end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Network, ask_shared
from zopde.data import Look, VideoData, Videos, Vocabulary, digit_videos, load_videos
from zopde.data.videos import START
from zopde.errors import InputError
from zopde.files import digest_of
from zopde.nets import FrameFeatures, GroundingModel, GroundingPrompts, temporal_distance
from zopde.progress import Progress
from zopde.seeding import generator, global_stream
from zopde.studies.prompt.labels import Label
from zopde.studies.prompt.settings import (
    ModelSettings,
    PromptConfig,
    PromptQuerySettings,
    PromptSettings,
    VideoSettings,
)
from zopde.studies.run import Trainings
from zopde.studies.settings import iterations_in
from zopde.training import Optimise

_VIDEOS = 2**31 - 1  # the seed of the videos, the same for every training


@dataclass(frozen=True)
class GroundingLoss:
    """l = mean over a batch of the temporal distance between spans found and true."""

    frames: Float[Tensor, "batch frame channel y x"]  # the videos
    words: Int[Tensor, "batch word"]  # the sentences
    spans: Float[Tensor, "batch 2"]  # the true ones

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.contracts.Objective`."""
        found = ask_shared(network, num_probes, self.frames, self.words)
        losses = temporal_distance(found, self.spans.repeat(num_probes, 1))
        return losses.view(num_probes, -1).mean(dim=1)


@dataclass(frozen=True)
class Asked:
    """Videos with their sentences in numbers, on the run's device."""

    videos: Videos  # the videos
    words: Int[Tensor, "video word"]  # the sentences

    @classmethod
    def of(cls, videos: Videos, vocabulary: Vocabulary, device: str) -> Self:
        """Videos whose sentences a vocabulary numbers."""
        moved = videos.frames.to(device), videos.sentences, videos.spans.to(device)
        return cls(Videos(*moved), vocabulary.encode(videos.sentences).to(device))

    def loss(self, numbers: Int[Tensor, " batch"]) -> GroundingLoss:
        """The loss on the videos of these numbers."""
        whole = self.videos.frames, self.words, self.videos.spans
        return GroundingLoss(*(part[numbers.to(part.device)] for part in whole))

    def at(self, batch: int, seed: int, iteration: int) -> GroundingLoss:
        """The loss on the batch of an iteration, a function of (seed, iteration)."""
        return self.loss(self.videos.batch(batch, seed, iteration))


@dataclass(frozen=True)
class Opened(Trainings):
    """A prompting run that is ready to train."""

    name: str  # what the videos are called
    base: Mapping[str, Asked]  # "train", "test" -> those that the model learns from
    other: Mapping[str, Asked]  # likewise, those to which prompts adapt it
    build: Callable[[int], GroundingModel]  # seed -> the model, untrained
    base_iterations: int  # updates of the model
    base_batch: int  # videos at a time in that
    base_optimise: Optimise  # how gradients become updates in that
    prompts: PromptSettings  # how large they are
    updates: Mapping[str, int]  # label -> updates of its prompts
    per_update: Mapping[str, int]  # label -> queries of one
    batch: int  # videos at a time
    optimise: Mapping[str, Optimise]  # label -> how gradients become updates
    queries: PromptQuerySettings  # the estimates
    # Seed -> the frozen model; until `begin` an untrained one
    model: Callable[[int], GroundingModel]

    @property
    def records(self) -> dict[str, tuple[str, str]]:
        """A resumption must see the same videos, sentences and spans."""
        parts = [*self.base.values(), *self.other.values()]
        digest = digest_of(
            values for p in parts for values in (p.videos.frames, p.words, p.videos.spans)
        )
        return {"data.sha256": (digest, "videos")}

    def prompted(self, label: Label, seed: int) -> GroundingPrompts:
        """The frozen model of a seed with a label's prompts, as they start."""
        shape = tuple(self.other["train"].videos.frames.shape[1:])
        border, tokens = self.prompts.border, self.prompts.tokens
        sizes = border if label.visual else 0, tokens if label.text else 0
        model = self.model(seed)
        return GroundingPrompts(model, shape, *sizes, START).to(model.word_type.device)


def open_prompting(
    config: PromptConfig,
    root: Path,  # noqa: ARG001 - other studies keep data beside it
    progress: Progress,  # noqa: ARG001
    base: VideoData | None = None,
    other: VideoData | None = None,
) -> Opened:
    """The videos, those given or the settings', and all that is made of the settings."""
    data, sizes, device = config.data, config.model, config.run.device
    base = base or _videos(data, data.base, Look(), 0)
    look = Look(data.noise, data.background, (data.least, data.most))
    other = other or _videos(data, data.other, look, 2)
    shapes = [tuple(of.train.frames.shape[1:]) for of in (base, other)]
    if shapes[0] != shapes[1]:
        raise InputError("other videos", got=f"shape {shapes[1]}", expected=f"{shapes[0]}")
    vocabulary = Vocabulary.of(base.train.sentences)
    asked = partial(_asked, vocabulary=vocabulary, device=device)
    both = asked(base), asked(other)
    longest = max(part.words.shape[1] for of in both for part in of.values())
    build = partial(_model, sizes, shapes[0], len(vocabulary), longest, device)
    # What does not suit must be known now.
    first = build(config.run.seeds[0])
    GroundingPrompts(first, shapes[0], config.prompts.border, config.prompts.tokens, START)
    per_epoch = -(-len(base.train) // sizes.batch)
    training, methods = config.training, config.run.methods
    return Opened(
        other.name,
        both[0],
        both[1],
        build,
        iterations_in(sizes.length, per_epoch),
        sizes.batch,
        Optimise("adam", sizes.lr, iterations_in(sizes.warmup, per_epoch)),
        config.prompts,
        {name: config.updates(name) for name in methods},
        {name: config.queries_per_update(name) for name in methods},
        training.batch,
        {name: _optimise(config, name) for name in methods if name in training.lr},
        config.zo,
        build,
        labels=methods,
        seeds=config.run.seeds,
        every_seconds=config.run.checkpoint_seconds,
        hours=config.run.hours,
    )


def _asked(data: VideoData, vocabulary: Vocabulary, device: str) -> dict[str, Asked]:
    return {
        "train": Asked.of(data.train, vocabulary, device),
        "test": Asked.of(data.test, vocabulary, device),
    }


def _videos(data: VideoSettings, spec: str, look: Look, index: int) -> VideoData:
    if spec:
        return load_videos(spec)
    return digit_videos(look, data.train, data.test, _VIDEOS - index, data.classes)


def _optimise(config: PromptConfig, name: str) -> Optimise:
    lr = config.training.lr[name]
    if name.startswith("ZIP"):
        return Optimise("sgd", lr, clip=config.zo.dimension**0.5)
    return Optimise("adam", lr)


def _model(
    sizes: ModelSettings,
    shape: tuple[int, ...],
    words: int,
    longest: int,
    device: str,
    seed: int,
) -> GroundingModel:
    with global_stream(generator(seed, "weights")):
        features = FrameFeatures(shape[1], sizes.channels, sizes.blocks)
        inner = sizes.width, sizes.depth, sizes.heads, sizes.hidden
        model = GroundingModel(features, words, *inner, longest, max(shape[2:]))
    # Once, so that frames too small for the convolutions are refused before anything is trained.
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape), torch.ones(1, 1, dtype=torch.int64))
    except RuntimeError as error:
        expected = "frames of four pixels or more a side"
        raise InputError("frames", got=f"shape {shape}", expected=expected) from error
    return model.to(device)
