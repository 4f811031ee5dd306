"""Networks that people bring, and how their probes are to be answered."""

import warnings

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, prune

MODULES = {}
STACKED, PLAIN, EITHER = "stacked", "one at a time", "either"


def case(name, way, *shape):
    """Register what makes a module: `way` says whether probes share passes, all of them or not."""

    def register(make):
        MODULES[name] = (make, way, shape)
        return make

    return register


def layers(name, way, shape, *parts, train=True, init=None):
    """A chain of layers, each made anew by (class, arguments, options)."""

    def make():
        made = [kind(*args) if not isinstance(kind, nn.Module) else kind for kind, *args in parts]
        network = nn.Sequential(*made).train(train)
        return network if init is None else init(network)

    MODULES[name] = (make, way, shape)


IMAGE, LINE, VECTOR, TOKENS = (2, 3, 6, 6), (2, 3, 9), (3, 5), (2, 4, 6)
layers("linear chain", STACKED, VECTOR, (nn.Linear, 5, 4), (nn.Tanh,), (nn.Linear, 4, 2))
for mode in (True, False):
    how = "train" if mode else "eval"
    for norm in ("BatchNorm2d", "InstanceNorm2d"):
        layers(
            f"{norm}, {how}", STACKED, IMAGE, (nn.Conv2d, 3, 4, 3), (getattr(nn, norm), 4),
            (nn.ReLU,), (nn.Conv2d, 4, 2, 1), train=mode,
        )  # fmt: skip
    layers(
        f"GroupNorm, {how}", STACKED, IMAGE, (nn.Conv2d, 3, 4, 3), (nn.GroupNorm, 2, 4),
        (nn.GELU,), (nn.Conv2d, 4, 2, 1), train=mode,
    )  # fmt: skip
    layers(
        f"LayerNorm, {how}", STACKED, TOKENS, (nn.Linear, 6, 4), (nn.LayerNorm, 4), (nn.SiLU,),
        (nn.Linear, 4, 2), train=mode,
    )  # fmt: skip
layers("conv1d", STACKED, LINE, (nn.Conv1d, 3, 4, 3), (nn.Tanh,), (nn.Conv1d, 4, 2, 3, 2))
layers("conv3d", STACKED, (2, 2, 3, 4, 4), (nn.Conv3d, 2, 2, 2), (nn.Tanh,), (nn.Conv3d, 2, 1, 1))
layers("transposed", EITHER, IMAGE, (nn.Conv2d, 3, 4, 3), (nn.Tanh,), (nn.ConvTranspose2d, 4, 2, 2))
layers("PReLU", EITHER, VECTOR, (nn.Linear, 5, 4), (nn.PReLU, 4), (nn.Linear, 4, 2))
layers("embedding", EITHER, (3,), (nn.Embedding, 7, 4), (nn.Tanh,), (nn.Linear, 4, 2))
layers("dropout layer", EITHER, VECTOR, (nn.Linear, 5, 8), (nn.Dropout, 0.3), (nn.Linear, 8, 2))
layers("RReLU", PLAIN, VECTOR, (nn.Linear, 5, 8), (nn.RReLU,), (nn.Linear, 8, 2))
for mode in (True, False):
    for first in (True, False):
        MODULES[f"TransformerEncoderLayer, {mode}, {first}"] = (
            lambda mode=mode, first=first: nn.Sequential(
                nn.Linear(6, 4),
                nn.TransformerEncoderLayer(4, 2, 6, 0.1 * mode, batch_first=first),
                nn.Linear(4, 2),
            ).train(mode),
            EITHER,
            TOKENS,
        )


def chain(*changed):
    """A module whose code is a function of itself and the input; `changed` are its layers."""

    def made(forward):
        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                for name, make in changed:
                    setattr(self, name, make())

        Module.forward = forward
        return Module

    return made


AB = (("a", lambda: nn.Linear(5, 4)), ("b", lambda: nn.Linear(4, 2)))
CD = (("c", lambda: nn.Conv2d(3, 4, 3, padding=1)), ("d", lambda: nn.Conv2d(4, 2, 3)))


def simple(name, way, shape, parts):
    """Register a module by its code alone."""

    def register(forward):
        MODULES[name] = (chain(*parts)(forward), way, shape)
        return forward

    return register


@simple("strided and dilated", STACKED, IMAGE, (
    ("c", lambda: nn.Conv2d(3, 6, 3, stride=2, groups=3, padding=1)),
    ("d", lambda: nn.Conv2d(6, 2, 2, dilation=2)),
))  # fmt: skip
def _(self, x):
    return self.d(torch.relu(self.c(x)))


@simple("residual", STACKED, IMAGE, (*CD, ("e", lambda: nn.Conv2d(4, 4, 3, padding=1))))
def _(self, x):
    y = torch.relu(self.c(x))
    return self.d(y + torch.tanh(self.e(y)))


@simple("u-net", STACKED, IMAGE, (
    *CD[:1], ("down", lambda: nn.Conv2d(4, 5, 2, 2)), ("e", lambda: nn.Conv2d(9, 2, 1)),
))  # fmt: skip
def _(self, x):
    top = torch.relu(self.c(x))
    return self.e(torch.cat([top, F.interpolate(torch.tanh(self.down(top)), scale_factor=2)], 1))


@simple("one channel meets many", STACKED, IMAGE, (*CD, ("gate", lambda: nn.Conv2d(4, 1, 1))))
def _(self, x):
    y = torch.relu(self.c(x))
    return self.d(self.gate(y) + y)


@simple("LSTM, batch first", STACKED, (2, 4, 5), (
    *AB[:1], ("r", lambda: nn.LSTM(4, 3, batch_first=True)), ("o", lambda: nn.Linear(3, 2)),
))  # fmt: skip
def _(self, x):
    y, _ = self.r(self.a(x))
    return self.o(y[:, -1])


@simple("GRU, sequence first", PLAIN, (2, 24, 5), (
    *AB[:1], ("r", lambda: nn.GRU(4, 3)), ("o", lambda: nn.Linear(3, 2)),
))  # fmt: skip
def _(self, x):
    return self.o(self.r(self.a(x.transpose(0, 1)))[0]).transpose(0, 1)


@simple("linear layers, sequence first", PLAIN, (2, 64, 5), AB)
def _(self, x):
    return self.b(torch.tanh(self.a(x.transpose(0, 1)))).transpose(0, 1)


@simple("attention, unpacked", EITHER, (2, 4, 5), (
    *AB[:1], ("m", lambda: nn.MultiheadAttention(4, 2, batch_first=True)), *AB[1:],
))  # fmt: skip
def _(self, x):
    x = self.a(x)
    y, _ = self.m(x, x, x, need_weights=False)
    return self.b(x + y)


@simple("DeepONet", PLAIN, VECTOR, (
    *AB[:1], ("t", lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4))),
))  # fmt: skip
def _(self, x):
    points = torch.linspace(0, 1, 48, dtype=x.dtype).view(24, 2)
    return self.a(x) @ self.t(points).t()


@simple("time embedding", PLAIN, IMAGE, (*CD, ("t", lambda: nn.Linear(1, 4))))
def _(self, x):
    time = torch.tanh(self.t(x.new_full((1, 1), 0.3)))
    return self.d(torch.tanh(self.c(x) + time[:, :, None, None]))


@simple("hypernetwork", PLAIN, VECTOR, (*AB[:1], ("h", lambda: nn.Linear(3, 8))))
def _(self, x):
    weight = self.h(torch.ones(1, 3, dtype=x.dtype)).view(2, 4)
    return F.linear(torch.tanh(self.a(x)), weight)


@simple("tied", EITHER, VECTOR, AB[:1])
def _(self, x):
    return F.linear(torch.tanh(self.a(x)), self.a.weight.t())


@simple("tied behind a branch", PLAIN, VECTOR, AB[:1])
def _(self, x):
    y = torch.tanh(self.a(x))
    if y.sum() > 1e9:
        y = 2 * y
    return F.linear(y, self.a.weight.t())


@simple("F.batch_norm", PLAIN, IMAGE, CD)
def _(self, x):
    return self.d(F.relu(F.batch_norm(self.c(x), None, None, training=True)))


@simple("global mean", PLAIN, (1, 5), AB)
def _(self, x):
    y = self.a(x)
    return self.b((y - y.mean()) / (y.std() + 0.1))


@simple("a little of the batch's mean", PLAIN, VECTOR, AB)
def _(self, x):
    y = torch.tanh(self.a(x))
    return self.b(y - 0.01 * y.mean(0))


@simple("divided by the batch", PLAIN, VECTOR, AB)
def _(self, x):
    return self.b(torch.tanh(self.a(x))) / x.shape[0]


@simple("softmax over the batch", PLAIN, VECTOR, AB)
def _(self, x):
    return self.b(torch.softmax(self.a(x), dim=0))


@simple("batch reversed", PLAIN, VECTOR, AB)
def _(self, x):
    y = torch.tanh(self.a(x))
    return self.b(y + 0.5 * y.flip(0))


@simple("cumulated over the batch", PLAIN, VECTOR, AB)
def _(self, x):
    return self.b(torch.tanh(self.a(x)).cumsum(0))


@simple("bilinear", EITHER, VECTOR, (*AB[:1], ("m", lambda: nn.Bilinear(4, 5, 2))))
def _(self, x):
    return self.m(torch.tanh(self.a(x)), x)


@simple("a parameter without a layer", EITHER, VECTOR, (
    *AB, ("g", lambda: nn.Parameter(torch.ones(4)))
))  # fmt: skip
def _(self, x):
    return self.b(self.g * torch.tanh(self.a(x)))


@simple("keywords", STACKED, VECTOR, AB)
def _(self, x):
    return self.b(input=torch.tanh(self.a(input=x)))


@simple("keyword-only option", STACKED, VECTOR, AB)
def _(self, x, *, scale=1.5, shift=None):
    y = self.b(torch.tanh(self.a(x))) * scale
    return y if shift is None else y + shift


@simple("any arguments", STACKED, VECTOR, AB)
def _(self, *states, **options):
    return self.b(torch.tanh(self.a(states[0]))) * options.get("scale", 2.0)


@simple("dead parameter", EITHER, VECTOR, (*AB, ("unused", lambda: nn.Linear(3, 3))))
def _(self, x):
    return self.b(torch.tanh(self.a(x)))


@simple("a branch on the data", EITHER, VECTOR, AB)
def _(self, x):
    y = self.a(x)
    return self.b(torch.tanh(y) if y.sum() > -1e9 else y)


@simple("F.dropout", PLAIN, VECTOR, AB)
def _(self, x):
    return self.b(F.dropout(self.a(x), 0.3, self.training))


@simple("noise", PLAIN, VECTOR, AB)
def _(self, x):
    y = self.a(x)
    return self.b(y + 0.1 * torch.randn_like(y))


@simple("noise of one shape", EITHER, VECTOR, AB)
def _(self, x):
    return self.b(torch.tanh(self.a(x)) * torch.randn(4, dtype=x.dtype))


@simple("stochastic depth", EITHER, VECTOR, (*AB, ("e", lambda: nn.Linear(4, 4))))
def _(self, x):
    y = torch.tanh(self.a(x))
    if torch.rand(()) < 0.5:
        y = y + torch.sin(self.e(y))
    return self.b(y)


@simple("a hook on a layer", STACKED, VECTOR, (
    ("a", lambda: _hooked(nn.Linear(5, 4))), *AB[1:]
))  # fmt: skip
def _(self, x):
    return self.b(torch.tanh(self.a(x)))


def _hooked(layer):
    layer.register_forward_hook(lambda _m, _a, y: 3 * y)
    return layer


@simple("a pass in pieces", EITHER, (4, 5), AB)
def _(self, x):
    return self.b(torch.cat([torch.tanh(self.a(part)) for part in x.split(2)]))


class _Buffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(4))
        self.count, self.plain = 0, torch.zeros(2)


@simple("buffer written", PLAIN, VECTOR, (*AB, ("m", _Buffer)))
def _(self, x):
    y = self.a(x)
    self.m.mean.mul_(0.9).add_(0.1 * y.detach().mean(0))
    return self.b(y / self.m.mean)


@simple("buffer assigned", PLAIN, VECTOR, (*AB, ("m", _Buffer)))
def _(self, x):
    y = self.a(x)
    self.m.mean = 0.9 * self.m.mean + 0.1 * y.detach().mean(0)
    self.m.count += 1
    self.m.plain.add_(1)
    return self.b(y / self.m.mean)


def _empty():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Linear(5, 0)


def _wrapped(name, wrap, way=EITHER):
    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = nn.Sequential(wrap(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2))
            return torch.jit.script(made) if "whole" in name else made

    MODULES[name] = (make, way, VECTOR)


_wrapped("weight_norm, old", nn.utils.weight_norm)
_wrapped("weight_norm", parametrizations.weight_norm)
_wrapped("spectral_norm, old", nn.utils.spectral_norm)
_wrapped("spectral_norm", parametrizations.spectral_norm)
_wrapped("pruned", lambda layer: prune.l1_unstructured(layer, "weight", 0.5))
_wrapped("TorchScript inside", torch.jit.script)
_wrapped(
    "TorchScript, norm inside",
    lambda layer: torch.jit.script(nn.Sequential(layer, nn.BatchNorm1d(4))),
)
_wrapped("TorchScript, the whole", lambda layer: layer)


@simple("empty parameter", STACKED, VECTOR, (("a", lambda: nn.Linear(5, 4)), ("e", _empty)))
def _(self, x):
    return torch.cat([self.a(x), self.e(x)], 1)
