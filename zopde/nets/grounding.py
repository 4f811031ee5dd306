"""Finding what a sentence tells of in a video, from features of single frames."""

from __future__ import annotations

from typing import Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.errors import InputError
from zopde.nets.classifiers import stage
from zopde.validate import check_count, checked

PADDING = 0
"""The number that fills up a sentence that is shorter than the longest of its batch."""
_EPS = 1e-12  # of every LayerNorm
# Of places and words at the start. 0.02 as published is lost beside features that are untrained.
_SPREAD = 0.3


@final
class FrameFeatures(nn.Module):
    """Turns single frames into maps of features: the first blocks of a small residual network.

        blocks(relu(BatchNorm(conv3x3(x)))),   conv3x3 of every second pixel

    A block is that of `CifarResNet`.

    Args:
        channels: Channels of a frame.
        width: Channels of the map.
        blocks: How many there are, >= 1.
    """

    def __init__(self, channels: int, width: int, blocks: int = 1) -> None:
        super().__init__()
        self.channels = width
        self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = stage(width, width, blocks)

    def forward(self, x: Float[Tensor, "frame channel y x"]) -> Float[Tensor, "frame width i j"]:
        """Features, at half the resolution."""
        features: Tensor = self.blocks(torch.relu(self.norm(self.conv(x))))
        return features


@final
class GroundingModel(nn.Module):
    """Says from when to when in a video happens what a sentence tells: temporal grounding.

    The features of every frame become cells, which lose their time, and the words become vectors:

        v_ij  = LayerNorm(mean over frames(relu(maxpool2(conv3x3(features))))_ij + r_i + c_j + a)
        w_k   = LayerNorm(embedding of word k + p_k + b)
        h     = encoder([text prompts, w_1 ... w_n, v_11 ... v_IJ])
        (start, end) = sigmoid(W_2 relu(W_1 tanh(W_0 h_1)))

    r, c, p, a, b are learned: row, column, position in the sentence, and what a vector is of. Each
    layer of the encoder is attention and a two-layer perceptron, LayerNorm behind both. h_1 is the
    first vector: a text prompt where there is one, else the first word, which should be
    the same in every sentence. (Zhang et al., CVPR 2023; 12 layers of 768 there, on a ResNet-50.)
    Unlike there, nothing is dropped out in training.

    When it fails: the mean over the frames forgets their order. The model knows of time only what
    single frames show of it, and what frame-aware prompts put there.

    Args:
        features: Maps frames (n, channel, y, x) to (n, `features.channels`, i, j).
        words: How many words there are, the padding included.
        width: Length of a vector; `heads` divides it.
        depth: Layers of the encoder.
        heads: Of its attention.
        hidden: Width inside of its perceptrons.
        longest: Most words of a sentence.
        side: Most rows, and most columns, of cells.

    Raises:
        InputError: If a size is no whole number >= 1, or `heads` does not divide the width.
    """

    @checked
    def __init__(
        self,
        features: nn.Module,
        words: int,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        longest: int = 512,
        side: int = 100,
    ) -> None:
        super().__init__()
        sizes = {"words": words, "width": width, "depth": depth, "heads": heads, "hidden": hidden}
        for name, size in {**sizes, "longest": longest, "side": side}.items():
            check_count(name, size)
        if width % heads:
            raise InputError("width", got=width, expected=f"a multiple of the {heads} heads")
        self.features = features
        self.grid = nn.Conv2d(int(features.channels), width, 3, padding=1, bias=False)  # type: ignore[arg-type]
        self.row, self.column = nn.Embedding(side, width), nn.Embedding(side, width)
        self.word = nn.Embedding(words, width, padding_idx=PADDING)
        self.position = nn.Embedding(longest, width)
        self.cell_type, self.word_type = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.cell_norm, self.word_norm = (nn.LayerNorm(width, _EPS) for _ in range(2))
        layer = nn.TransformerEncoderLayer(
            *(width, heads, hidden, 0.0), F.gelu, layer_norm_eps=_EPS, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.pool, self.inner, self.outer = (
            *(nn.Linear(width, width), nn.Linear(width, 2 * width)),
            nn.Linear(2 * width, 2),
        )
        for table in (self.row, self.column, self.word, self.position):
            nn.init.normal_(table.weight, std=_SPREAD)

    def forward(
        self,
        frames: Float[Tensor, "batch frame channel y x"],
        words: Int[Tensor, "batch word"],
        prompts: Float[Tensor, "prompt width"] | None = None,
    ) -> Float[Tensor, "batch 2"]:
        """Start and end of each sentence's event, in shares of the video.

        Args:
            frames: The sampled frames of each video.
            words: Each sentence, as numbers of words; `PADDING` behind shorter ones.
            prompts: Vectors in front of every sentence; None or empty for none.
        """
        cells, sentence = self.cells(frames), self.sentence(words)
        before = sentence[:, :0] if prompts is None else prompts.expand(len(words), -1, -1)
        hidden = torch.cat([before, sentence, cells], dim=1)
        unused = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=words.device)
        first = before.shape[1]
        unused[:, first : first + words.shape[1]] = words == PADDING
        read = self.encoder(hidden, src_key_padding_mask=unused)[:, 0]
        span: Tensor = self.outer(torch.relu(self.inner(torch.tanh(self.pool(read))))).sigmoid()
        return span

    def cells(
        self, frames: Float[Tensor, "batch frame channel y x"]
    ) -> Float[Tensor, "batch cell width"]:
        """What the encoder sees of the videos, row by row."""
        maps = torch.relu(F.max_pool2d(self.grid(self.features(frames.flatten(0, 1))), 2))
        mean = maps.unflatten(0, frames.shape[:2]).mean(dim=1).permute(0, 2, 3, 1)
        rows, columns = (torch.arange(size, device=frames.device) for size in mean.shape[1:3])
        placed = mean + self.row(rows)[:, None] + self.column(columns)
        cells: Tensor = self.cell_norm((placed + self.cell_type).flatten(1, 2))
        return cells

    def sentence(self, words: Int[Tensor, "batch word"]) -> Float[Tensor, "batch word width"]:
        """What it sees of the sentences."""
        position = self.position(torch.arange(words.shape[1], device=words.device))
        vectors: Tensor = self.word_norm(self.word(words) + position + self.word_type)
        return vectors


@final
class GroundingPrompts(nn.Module):
    """Adapts a frozen `GroundingModel` by inputs that all videos and sentences have in common.

        frames + d, d zero but in a border of every frame;   words behind q_1 ... q_m

    d, the visual prompt, is one for each of the sampled frames: it tells the model which frame it
    sees. It starts at zero, which changes nothing. q, the text prompts, start as what the model
    makes of the first word. (Zhang et al., CVPR 2023; both start at random there.)

    Args:
        model: What is prompted; it is frozen: in eval mode, its weights no longer trainable.
        frames: Shape of a video: (frame, channel, y, x).
        border: Width of the border in pixels; 0: no visual prompt.
        tokens: m, how many text prompts; 0: none.
        first: Number of the word that every sentence begins with.

    Raises:
        InputError: If a border leaves nothing of the frame, or a size is negative.
    """

    @checked
    def __init__(
        self,
        model: GroundingModel,
        frames: tuple[int, ...],
        border: int,
        tokens: int,
        first: int,
    ) -> None:
        super().__init__()
        if not 0 <= 2 * border < min(frames[2:]):
            expected = f"a number in [0, {min(frames[2:])} / 2), half the side of a frame"
            raise InputError("border", got=border, expected=expected)
        if tokens < 0:
            raise InputError("tokens", got=tokens, expected="a whole number >= 0")
        self.model = model.eval().requires_grad_(False)
        self.frames = frames
        inside = torch.zeros(frames[2:], dtype=torch.bool)
        inside[border : frames[2] - border, border : frames[3] - border] = True
        self.register_buffer("places", (~inside).flatten().nonzero().flatten())
        if border:
            self.visual = nn.Parameter(torch.zeros(*frames[:2], len(self.places)))
        if tokens:
            with torch.no_grad():
                start = model.sentence(torch.tensor([[first]], device=model.word_type.device))[0]
            self.text = nn.Parameter(start.repeat(tokens, 1))

    places: Tensor

    def train(self, mode: bool = True) -> Self:
        """Let the prompts, and never the model, be in training mode."""
        super().train(mode)
        self.model.eval()
        return self

    def picture(self) -> Float[Tensor, "frame channel y x"]:
        """The visual prompt d as it is added to the frames."""
        empty = torch.zeros(*self.frames[:2], self.frames[2] * self.frames[3])
        empty = empty.to(self.places.device)
        visual = getattr(self, "visual", None)
        full = empty if visual is None else empty.index_copy(2, self.places, visual)
        return full.view(self.frames)

    def forward(
        self,
        frames: Float[Tensor, "batch frame channel y x"],
        words: Int[Tensor, "batch word"],
    ) -> Float[Tensor, "batch 2"]:
        """Start and end, in shares of the video, of the prompted model."""
        span: Tensor = self.model(frames + self.picture(), words, getattr(self, "text", None))
        return span
