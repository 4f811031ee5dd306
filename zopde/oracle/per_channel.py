"""Fast ways through states whose channels lie one after the other, plane by plane.

A probe that is one channel wide is one stretch of memory: (probe, batch, *space). On a CPU
that is what convolution taps, statistics and pooling run fastest on, by several times, since a
few probes at a time stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

Planes = Float[Tensor, "batch channel *space"]


def in_planes(x: Planes) -> Planes:
    """The same values, each channel's together: strides of (channel, batch, *space)."""
    if x.dim() == 4 and x.stride(1) == 1:
        # Channels last: a matrix to transpose, three times as fast as the axes one by one.
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        planes = rows.t().contiguous().view(x.shape[1], len(x), *x.shape[2:])
        return planes.transpose(0, 1)
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def lies_in_planes(x: Planes) -> bool:
    """Whether it does so already."""
    return x.dim() > 2 and x.transpose(0, 1).is_contiguous()


def every(step: int, first: int, count: int) -> slice:
    """`count` places of an axis, `step` apart, from `first` on."""
    return slice(first, first + step * (count - 1) + 1, step)


def plane_by_plane(call: Callable[[Tensor], Any], x: Planes) -> Any:  # noqa: ANN401
    """Call something that treats every plane alike, in the order in which they lie."""
    if not lies_in_planes(x):
        return call(x)
    found = call(x.transpose(0, 1))
    return found.transpose(0, 1) if isinstance(found, Tensor) else found


def batch_norm(x: Planes, weight: Tensor | None, bias: Tensor | None, eps: float) -> Planes:
    """BatchNorm by the batch's own statistics, of a state that lies in planes."""
    planes = x.transpose(0, 1)
    mean, variance = moments(planes)
    found = F.batch_norm(
        planes.flatten(1)[None], mean, variance, weight, bias, training=False, eps=eps
    )
    return found.view(planes.shape).transpose(0, 1)


def moments(x: Float[Tensor, "k batch *space"]) -> tuple[Tensor, Tensor]:
    """Mean and variance (k,) over all other axes: sums of sums, which run at memory's speed."""
    apart = x.flatten(2) if x.dim() > 2 else x[..., None]
    size = max(1, apart[:1].numel())
    mean = apart.sum(dim=2).double().sum(dim=1) / size
    # Norms of single planes first: one long sum of squares would lose digits.
    squares = torch.linalg.vector_norm(apart, dim=2).double().square().sum(dim=1) / size
    variance = (squares - mean.square()).clamp_min(0)
    return mean.to(x), variance.to(x)


def max_pool(module: nn.MaxPool2d, x: Tensor) -> Tensor:
    """What `module(x)` gives, of windows that do not overlap by elementwise maxima."""
    across = windows_apart(module, x)
    if across is None:
        found: Tensor = module(x)
        return found
    high, wide = across
    rows = _maximum([x[:, :, i::high] for i in range(high)])
    return _maximum([rows[..., i::wide] for i in range(wide)])


def _maximum(parts: list[Tensor]) -> Tensor:
    found = parts[0]
    for part in parts[1:]:
        found = torch.maximum(found, part)
    return found


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
