import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from zopde import ConvCorrector, InputError, Normalised, ResidualCorrector
from zopde.nets import build_corrector

SHAPES = {1: (9,), 2: (6, 7), 3: (4, 5, 6)}


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_sizes_golden():
    """1,026 is design's quick corrector; 261,154 and 260,354 are Um et al.'s networks."""
    assert count(ConvCorrector(4, 2)) == 1_026
    assert count(ResidualCorrector(4, 2)) == 261_154
    assert count(ResidualCorrector(3, 2)) == 260_354


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("padding", ["periodic", "zero"])
@pytest.mark.parametrize("channels", [(1, 1), (3, 2), (5, 3)])
def test_any_channels_start_at_no_correction(kind, padding, channels):
    network = build_corrector(kind, *channels, padding, {"width": 4})
    answer = network(torch.randn(2, channels[0], 8, 6))
    assert answer.shape == (2, channels[1], 8, 6)
    assert answer.abs().max() == 0


def test_periodic_padding_commutes_with_shifts(corrector):
    state, forcing = torch.randn(1, 2, 8, 8).double(), torch.randn(1, 2, 8, 8).double()
    shifted = corrector(state.roll((3, 2), (2, 3)), forcing.roll((3, 2), (2, 3)))
    torch.testing.assert_close(shifted, corrector(state, forcing).roll((3, 2), (2, 3)))


def test_normalisation_is_units_free(corrector):
    """In units a thousand times smaller the correction is the same physical one."""
    state, forcing = torch.randn(1, 2, 8, 8).double(), torch.randn(1, 2, 8, 8).double()
    milli = Normalised(corrector.body, 1e3 * corrector.state_scale, 1e3 * corrector.input_scale[2:])
    torch.testing.assert_close(milli(1e3 * state, 1e3 * forcing), 1e3 * corrector(state, forcing))


def test_normalisation_travels_with_the_weights(corrector):
    assert {"state_scale", "input_scale"} <= set(corrector.state_dict())


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ({"widht": 4}, r"corrector\.sizes: got 'widht', expected one of .* did you mean 'width'"),
        ({"width": 0}, r"corrector\.sizes\.width: got 0, expected a whole number"),
        ({"depth": 2, "width": 1.5}, r"corrector\.sizes\.width: got 1\.5"),
        ({"kernel": 4}, r"corrector\.sizes\.kernel: got 4, expected an odd width"),
    ],
)
def test_bad_sizes_raise(sizes, line):
    with pytest.raises(InputError, match=line):
        build_corrector("conv", 4, 2, "zero", sizes)


@pytest.mark.parametrize(("kind", "names"), [("conv", "layers.0"), ("residual", "enter")])
def test_two_dimensions_are_as_before_golden(kind, names):
    """Names, draws and numbers of a version that had no other: files of models hold them."""
    torch.manual_seed(0)
    network = build_corrector(kind, 2, 1, "periodic", {"width": 2})
    assert next(iter(network.state_dict())) == f"{names}.weight"
    torch.manual_seed(0)
    size = 3 if kind == "conv" else 5
    assert torch.equal(next(network.parameters()), torch.nn.Conv2d(2, 2, size).weight)


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize(
    ("dims", "words"),
    [
        (1, ("periodic",)),
        (1, ("zero",)),
        (2, ("zero", "periodic")),
        (3, ("periodic", "zero", "periodic")),
        (3, ("zero", "zero", "periodic")),
        (3, ("periodic", "periodic", "zero")),
    ],
)
def test_each_axis_is_padded_its_way_exact(kind, dims, words, gen):
    """Only along its periodic axes does a corrector commute with shifts."""
    network = build_corrector(kind, 2, 1, words, {"width": 3, "kernel": 3}, dims).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=gen)
    x = torch.randn(2, 2, *SHAPES[dims], generator=gen, dtype=torch.float64)
    assert network(x).shape == (2, 1, *SHAPES[dims])
    for axis, word in enumerate(words, start=2):
        same = torch.allclose(network(x.roll(1, axis)), network(x).roll(1, axis))
        assert same == (word == "periodic")
    padded = x
    for axis, word in enumerate(words):
        sides = [0] * 2 * dims
        sides[2 * (dims - 1 - axis)] = sides[2 * (dims - 1 - axis) + 1] = 1
        padded = F.pad(padded, sides, "circular" if word == "periodic" else "constant")
    enter = network.enter if kind == "residual" else network.layers[0]
    weight, bias = enter.parameters()
    convolved = (F.conv1d, F.conv2d, F.conv3d)[dims - 1](padded, weight, bias)
    torch.testing.assert_close(enter(x), convolved)


def test_weights_by_dimensions_golden():
    counts = [count(ConvCorrector(2, 1, 4, 2, dims=dims)) for dims in (1, 2, 3)]
    assert counts == [2 * 3**n * 4 + 4 + 4 * 3**n + 1 for n in (1, 2, 3)]


@pytest.mark.parametrize("dims", [0, 4, -1])
def test_other_numbers_of_dimensions_raise(dims):
    with pytest.raises(InputError, match="dims: got"):
        ConvCorrector(2, 1, dims=dims)
    with pytest.raises(InputError, match="padding: got"):
        ConvCorrector(2, 1, padding=("zero",) * 2, dims=3)


def test_an_unknown_kind_names_the_nearest_raises():
    with pytest.raises(
        InputError, match=r"corrector\.kind: got 'resdual'.*did you mean 'residual'"
    ):
        build_corrector("resdual", 2, 1, "zero")
