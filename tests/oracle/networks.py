"""Networks of the kinds that people train, small."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zopde.contracts import ask_shared


@dataclass
class MeanSquare:
    """An objective that workers can be sent."""

    x: Tensor

    def __call__(self, network, num_probes):
        y = ask_shared(network, num_probes, self.x)
        return y.view(num_probes, -1).square().mean(dim=1)


class Block(nn.Module):
    """Two convolutions around a skip that pads its channels, as in ResNets for CIFAR."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = F.relu(self.norm_one(self.one(x)), inplace=True)
        y = self.norm_two(self.two(y))
        if self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        y += x
        return F.relu(y)


class ResNet(nn.Module):
    """Skips, strides, BatchNorm, values overwritten in place, a size read from the input."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2))
        self.leave = nn.Linear(8, 3)

    def forward(self, x):
        x = self.blocks(F.relu(self.norm(self.enter(x))))
        return self.leave(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))


class UNet(nn.Module):
    """Down, up, and a concatenation across."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.merge = nn.Conv2d(10, 4, 3, padding=1, padding_mode="circular")
        self.norm, self.leave = nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        top = torch.tanh(self.enter(x))
        both = torch.cat([top, self.up(self.down(top))], dim=1)
        return self.leave(F.gelu(self.norm(self.merge(both))))


class Transformer(nn.Module):
    """Attention, whose projections have no rank-one rule, between layers that have one."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.before, self.after = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.embed(x)
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.narrow(F.gelu(self.wide(self.after(x))))


def mlp():
    """Linear layers, their norms and activations."""
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 4), nn.PReLU(4),
        nn.LayerNorm(4), nn.Linear(4, 2),
    )  # fmt: skip


def cnn():
    """A stack with pools, in place."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


NETWORKS = {
    "resnet": (ResNet, (3, 3, 8, 8)),
    "resnet, eval": (lambda: ResNet().eval(), (3, 3, 8, 8)),
    "u-net": (UNet, (2, 3, 8, 8)),
    "transformer": (Transformer, (2, 4, 3)),
    "mlp": (mlp, (6, 5)),
    "cnn": (cnn, (2, 3, 8, 8)),
}
