"""Delta propagation: a probe that differs from the base in ONE channel stays one channel wide.

A moved weight of a convolution changes one channel of the output. Until the next layer that
mixes channels, norm, activation, pooling and skips are computed for that channel alone. The
mixing layer then needs one channel's difference:

    conv(x + d (x) e_c) = conv(x) + conv_c(d)

with conv_c the convolution by the weights of input channel c. Both are exact to round-off.

Such a channel is best ONE stretch of memory, (probe, batch, *space): values are "channel-major".
On a CPU that is what convolution taps, statistics and pooling run fastest on, by several times,
since a few probes at a time stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

Images = Float[Tensor, "batch channel *space"]
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
@dataclass(frozen=True)
class OneChannel:
    """k probes that differ from the base in one channel each."""

    # (batch, k, ...), the channel of each probe: a state whose channels are probes, so that
    # whatever works channel by channel works on it as it is
    value: Tensor
    channels: Tensor  # (k,), which channel of the base it stands for

    def widen(self, base: Tensor) -> Tensor:
        """(k * batch, channel, ...): the base with each probe's channel put in its place."""
        k = len(self.channels)
        # Not `repeat`, which would lose the memory format.
        whole = torch.cat([base] * k).view(k, *base.shape)
        whole[torch.arange(k), :, self.channels] = self.value.transpose(0, 1)
        return whole.flatten(0, 1)

    def difference(self, base: Tensor) -> Tensor:
        """(batch, k, ...): how far each channel is from the base's."""
        return self.value - base[:, self.channels]


@final
@dataclass
class Visit:
    """One block of probes at a node of the network's graph."""

    node: fx.Node
    layer: Any  # the module that it calls; None for a function
    probes: dict[
        fx.Node, Any
    ]  # source node -> those there; absent where they have the base's value
    values: dict[fx.Node, Any]  # node -> the base's value
    run: Callable[[Callable[[fx.Node], Any]], Any]  # (source -> value) -> the node's value

    @property
    def x(self) -> Tensor:
        """The base's first input, (batch, channel, ...)."""
        value: Tensor = self.values[self.node.all_input_nodes[0]]
        return value

    @property
    def first(self) -> OneChannel:
        """The probes there, each one channel wide."""
        probes: OneChannel = self.probes[self.node.all_input_nodes[0]]
        return probes

    def again(self, value: Tensor) -> Any:  # noqa: ANN401
        """Run the node, which has one state, with another one."""
        return self.run(lambda _: value)


Answer = OneChannel | Tensor | None
"""Still one channel; or (k * batch, ...), widened by a mixing layer; or None: not known here."""


def channel_major(x: Images) -> Images:
    """The same values with strides of (channel, batch, *space): each channel's lie together."""
    if x.dim() == 4 and x.stride(1) == 1:
        # Channels last: a matrix to transpose, three times as fast as the axes one by one.
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        channels = rows.t().contiguous().view(x.shape[1], len(x), *x.shape[2:])
        return channels.transpose(0, 1)
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def is_channel_major(x: Images) -> bool:
    """Whether they lie so already."""
    return x.dim() > 2 and x.transpose(0, 1).is_contiguous()


def every(step: int, first: int, count: int) -> slice:
    """`count` places of an axis, `step` apart, from `first` on."""
    return slice(first, first + step * (count - 1) + 1, step)


def batch_norm(x: Images, weight: Tensor | None, bias: Tensor | None, eps: float) -> Images:
    """BatchNorm by the batch's own statistics, of a channel-major state."""
    channels = x.transpose(0, 1)
    mean, variance = moments(channels)
    normalised = F.batch_norm(
        channels.flatten(1)[None], mean, variance, weight, bias, training=False, eps=eps
    )
    return normalised.view(channels.shape).transpose(0, 1)


def moments(x: Float[Tensor, "k batch *space"]) -> tuple[Tensor, Tensor]:
    """Mean and variance (k,) over all other axes: sums of sums, which run at memory's speed."""
    by_image = x.flatten(2) if x.dim() > 2 else x[..., None]
    size = max(1, by_image[:1].numel())
    mean = by_image.sum(dim=2).double().sum(dim=1) / size
    # Norms of single images first: one long sum of squares would lose digits.
    squares = torch.linalg.vector_norm(by_image, dim=2).double().square().sum(dim=1) / size
    variance = (squares - mean.square()).clamp_min(0)
    return mean.to(x), variance.to(x)


def max_pool(module: nn.MaxPool2d, x: Tensor) -> Any:  # noqa: ANN401 - with indices, a pair
    """What `module(x)` gives, of windows that do not overlap by elementwise maxima."""
    sizes = windows_apart(module, x)
    if sizes is None:
        return module(x)
    high, wide = sizes
    rows = _maximum([x[:, :, i::high] for i in range(high)])
    return _maximum([rows[..., i::wide] for i in range(wide)])


def _maximum(values: list[Tensor]) -> Tensor:
    greatest = values[0]
    for value in values[1:]:
        greatest = torch.maximum(greatest, value)
    return greatest


def windows_apart(module: nn.MaxPool2d, x: Tensor) -> tuple[int, int] | None:
    """Size of windows that do not overlap and cover all; None where torch's code is needed."""
    kernel, stride, padding, dilation = (
        value if isinstance(value, tuple) else (value, value)
        for value in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    plain = kernel == stride and padding == (0, 0) and dilation == (1, 1)
    if not plain or module.return_indices or x.device.type != "cpu" or x.dim() != 4:
        return None
    if x.shape[2] % kernel[0] or x.shape[3] % kernel[1] or max(kernel) > 4:
        return None
    return int(kernel[0]), int(kernel[1])


def pad(conv: Conv, x: Tensor) -> Tensor:
    """(batch, any channels, ...) with the convolution's padding around it."""
    sides: list[int] = []  # as `F.pad` wants them: last axis first, before and after
    for axis in reversed(range(len(conv.kernel_size))):
        if conv.padding == "valid":
            before = after = 0
        elif conv.padding == "same":
            total = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(conv.padding[axis])
        sides += [before, after]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, sides, mode=mode) if any(sides) else x


def windows(conv: Conv, padded: Tensor) -> Tensor:
    """(batch, channel, *padded) -> (batch, channel, *kernel, *out): what each tap reads; a view."""
    n = len(conv.kernel_size)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    sizes = zip(padded.shape[2:], reach, conv.stride, strict=True)
    out = [(size - r - 1) // s + 1 for size, r, s in sizes]
    steps = padded.stride()[2:]
    strides = [
        *padded.stride()[:2],
        *(steps[i] * conv.dilation[i] for i in range(n)),
        *(steps[i] * conv.stride[i] for i in range(n)),
    ]
    shape = [*padded.shape[:2], *conv.kernel_size, *out]
    return padded.as_strided(shape, strides, padded.storage_offset())


def _each_channel(call: Callable[[Tensor], Any], probes: OneChannel) -> Answer:
    """Call what treats every channel alike, on the channels in the order in which they lie."""
    turned = is_channel_major(probes.value)
    answer = call(probes.value.transpose(0, 1) if turned else probes.value)
    if not isinstance(answer, Tensor):
        return None
    return OneChannel(answer.transpose(0, 1) if turned else answer, probes.channels)


def _by_channel(visit: Visit) -> Answer:
    return _each_channel(visit.again, visit.first)


def _max_pool(visit: Visit) -> Answer:
    return _each_channel(partial(max_pool, visit.layer), visit.first)


def _prelu(visit: Visit) -> Answer:
    channels, weight = visit.first.channels, visit.layer.weight
    own = weight if weight.numel() == 1 else weight[channels]
    return OneChannel(F.prelu(visit.first.value, own), channels)


def _linear(visit: Visit) -> Answer:
    if visit.x.dim() != 2:
        return None  # its channels are counted on the last axis
    weight = visit.layer.weight[:, visit.first.channels].t()
    change = visit.first.difference(visit.x).t()[..., None] * weight[:, None]
    answer: Tensor = (change + visit.values[visit.node]).flatten(0, 1)
    return answer


def _conv(visit: Visit) -> Answer:
    """conv(x) + conv_c(difference), neighbouring probes of the same channel together."""
    conv, y = visit.layer, visit.values[visit.node]
    if conv.groups != 1:
        return None
    differences = visit.first.difference(visit.x).transpose(0, 1)
    answers, first = [], 0
    kernel = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(conv.kernel_size)]
    channels, counts = torch.unique_consecutive(visit.first.channels, return_counts=True)
    for c, count in zip(channels.tolist(), counts.tolist(), strict=True):
        difference = differences[first : first + count].flatten(0, 1)[:, None]
        weight = conv.weight[:, c : c + 1]
        if y.dim() == 4 and y.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)  # and so its answer
        change = kernel(pad(conv, difference), weight, None, conv.stride, 0, conv.dilation)
        answers.append(change.view(count, *y.shape).add_(y).flatten(0, 1))
        first += count
    return torch.cat(answers) if len(answers) > 1 else answers[0]


def _flatten(visit: Visit) -> Answer:
    """One entry per channel: (batch, k, 1, ...) -> (batch, k)."""
    layer, node, probes = visit.layer, visit.node, visit.first
    if layer is not None:
        from_channels = (layer.start_dim, layer.end_dim) == (1, -1)
    else:
        from_channels = (node.args[1:] or tuple(node.kwargs.values())) == (1,)
    if not from_channels or probes.value[0, 0].numel() != 1:
        return None
    return OneChannel(probes.value.flatten(1), probes.channels)


def _mean(visit: Visit) -> Answer:
    dim: Any = (*visit.node.args[1:], visit.node.kwargs.get("dim"))[0]
    axes = (dim,) if isinstance(dim, int) else dim or (0,)
    behind_channels = all(axis % visit.x.dim() >= 2 for axis in axes)
    return _as_it_is(visit) if behind_channels else None


def _getitem(visit: Visit) -> Answer:
    index: Any = visit.node.args[1]
    all_channels = isinstance(index, tuple) and index[:2] == (slice(None),) * 2
    return _as_it_is(visit) if all_channels else None


def _as_it_is(visit: Visit) -> OneChannel:
    return OneChannel(visit.again(visit.first.value), visit.first.channels)


def _pad(visit: Visit) -> Answer:
    """`F.pad` of the axes behind the channels; padding the channels renumbers them."""
    names = ("pad", "mode", "value")
    given: Any = {**dict(zip(names, visit.node.args[1:], strict=False)), **visit.node.kwargs}
    sides, space, shift = list(given["pad"]), 2 * (visit.x.dim() - 2), 0
    if len(sides) > space:
        if len(sides) > space + 2 or given.get("mode", "constant") != "constant":
            return None
        shift = sides[space]
        if min(sides[space:]) < 0:
            return None
    given["pad"] = sides[:space]
    value, channels = visit.first.value, visit.first.channels
    return OneChannel(F.pad(value, **given) if any(sides[:space]) else value, channels + shift)


def _cat(visit: Visit) -> Answer:
    """Values laid side by side along the channels, one of them with probes."""
    inputs, *rest = visit.node.args or (None,)
    dim: Any = (*rest, visit.node.kwargs.get("dim", 0))[0]
    if not isinstance(inputs, list | tuple) or not all(isinstance(n, fx.Node) for n in inputs):
        return None
    nodes: list[Any] = list(inputs)
    at, *others = [i for i, node in enumerate(nodes) if node in visit.probes]
    if others or dim % visit.values[nodes[at]].dim() != 1:
        return None
    before = sum(visit.values[node].shape[1] for node in nodes[:at])
    probes = visit.probes[nodes[at]]
    return OneChannel(probes.value, probes.channels + before)


def _meet(visit: Visit) -> Answer:
    """Values that meet channel by channel, as in a skip."""
    channels, *others = [probes.channels for probes in visit.probes.values()]
    tensors = [v for n in visit.node.all_input_nodes if isinstance(v := visit.values[n], Tensor)]
    shapes = {(v.dim(), *v.shape[1:2]) for v in tensors if v.dim()}
    same = all(torch.equal(other, channels) for other in others)
    if len(visit.node.args) != 2 or len(shapes) != 1 or not same:
        return None

    def own(source: fx.Node) -> Any:  # noqa: ANN401
        if source in visit.probes:
            return visit.probes[source].value
        base = visit.values[source]
        return base[:, channels] if isinstance(base, Tensor) and base.dim() else base

    return OneChannel(visit.run(own), channels)


_LAYERS_BY_CHANNEL = """
    ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Softplus Softshrink Softsign Hardshrink
    Hardsigmoid Hardswish Hardtanh Tanh Sigmoid LogSigmoid Tanhshrink Threshold Identity
    Dropout Dropout1d Dropout2d Dropout3d AlphaDropout Upsample
"""
_LAYERS_BY_CHANNEL_IN_1D_TO_3D = """
    MaxPool AvgPool AdaptiveMaxPool AdaptiveAvgPool LPPool
    ReflectionPad ReplicationPad ZeroPad ConstantPad CircularPad
"""
_FUNCTIONS_BY_CHANNEL = """
    relu relu6 leaky_relu elu selu celu gelu silu mish softplus hardtanh hardswish hardsigmoid
    tanh sigmoid abs neg exp sin cos square sqrt pow clamp clamp_min clamp_max clone contiguous
    float double max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate
"""
Rule = Callable[[Visit], Answer]

LAYERS: dict[type[nn.Module], Rule] = {
    **{getattr(nn, name): _by_channel for name in _LAYERS_BY_CHANNEL.split()},
    **{
        getattr(nn, f"{name}{n}d"): _by_channel
        for name in _LAYERS_BY_CHANNEL_IN_1D_TO_3D.split()
        for n in (1, 2, 3)
    },
    **dict.fromkeys(CONVS, _conv),
    nn.MaxPool2d: _max_pool,
    nn.PReLU: _prelu,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
}
"""Type of a module of one state -> how probes of one channel pass it."""

FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(_FUNCTIONS_BY_CHANNEL.split(), _by_channel),
    "mean": _mean,
    "getitem": _getitem,
    "flatten": _flatten,
    "pad": _pad,
    "_pad": _pad,
}
"""Name of a function or method of one state -> the same."""

MEETINGS: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "mul", "truediv", "div", "maximum", "minimum"), _meet),
    "cat": _cat,
}
"""Name of a function or method of several states -> the same."""
