"""What a rollout is judged by."""

import math

import numpy as np
import pytest
import torch

from zopde import (
    ConvCorrector,
    Grid,
    InputError,
    Mesh,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
)
from zopde.hybrid import LastLoss, MomentsLoss, RelativeLoss, SensorsLoss, SpectrumLoss
from zopde.hybrid.losses import check_loss
from zopde.report.spectrum import energy_spectrum

GRID = Grid((12, 16), (3.0, 4.0), 0.1, ("u", "v"), boundary="periodic")
SCALE = torch.tensor([2.0, 0.5], dtype=torch.float64)
READY = {
    "relative": RelativeLoss(SCALE),
    "last": LastLoss(SCALE),
    "moments": MomentsLoss(SCALE),
    "spectrum": SpectrumLoss(),
    "sensors": SensorsLoss([[0.3, 0.4], [2.9, 3.95]], SCALE),
}


def states(windows=3, time=4, grid=GRID):
    gen = torch.Generator().manual_seed(0)
    return torch.randn(windows, time, *grid.state_shape, generator=gen, dtype=torch.float64)


@pytest.mark.parametrize("loss", READY.values(), ids=READY)
def test_each_is_zero_at_the_reference_alone_and_has_a_gradient(loss):
    reference = states()
    assert torch.equal(loss(reference, reference, GRID), torch.zeros(3, dtype=torch.float64))
    assert (loss(1.1 * reference, reference, GRID) > 0).all()
    assert check_loss("loss", loss, reference, GRID)


def test_formulas_by_hand_exact():
    r, u = states(), states().roll(1, 0)
    off = (u - r) / SCALE[:, None, None]
    square, size = (x.square().mean(dim=(2, 3, 4)) for x in (off, r / SCALE[:, None, None]))
    torch.testing.assert_close(READY["relative"](u, r, GRID), (square / size).mean(dim=1))
    torch.testing.assert_close(READY["last"](u, r, GRID), square[:, -1])
    assert float(RelativeLoss()(2 * r, r, GRID)[0]) == pytest.approx(1.0)


def test_moments_see_no_order_and_do_see_covariance():
    r, loss = states(), READY["moments"]
    assert loss(r[:, [2, 0, 3, 1]], r, GRID).max() < 1e-25
    turned = r * torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None]
    around = r - r.mean(dim=1, keepdim=True)
    same_mean = r.mean(dim=1, keepdim=True) + (turned - turned.mean(dim=1, keepdim=True))
    covariance = (around[:, :, 0] * around[:, :, 1]).mean(dim=1) / SCALE.prod()
    expected = 2 * (2 * covariance).square().mean(dim=(1, 2)) / 4
    torch.testing.assert_close(loss(same_mean, r, GRID), expected)


def test_spectrum_is_that_of_the_report():
    """One shell made e times as strong is off by 1 in the logarithm of that shell alone."""
    r = states(1, 1)
    wave = energy_spectrum(r[0, 0, :1].numpy(), GRID.extent)
    modes = torch.fft.fftn(r, dim=(-2, -1))
    k = [torch.fft.fftfreq(n) * n for n in GRID.shape]
    shell = ((k[0][:, None] ** 2 + (k[1] * 3 / 4) ** 2).sqrt() + 0.5).floor() == 2
    louder = torch.fft.ifftn(torch.where(shell, modes * math.e**0.5, modes), dim=(-2, -1)).real
    stronger = energy_spectrum(louder[0, 0, :1].numpy(), GRID.extent).energy / wave.energy
    np.testing.assert_allclose(stronger[1:7], [1, math.e, 1, 1, 1, 1])
    assert float(SpectrumLoss()(louder, r, GRID)[0]) == pytest.approx(1 / 6)
    with pytest.raises(InputError, match="a grid without a mask"):
        SpectrumLoss()(r, r, Grid((12, 16), (3.0, 4.0), 0.1, ("u", "v"), mask=np.eye(12, 16) == 0))


@pytest.mark.parametrize("falling", [False, True])
def test_sensors_interpolate_linearly_and_across_a_periodic_edge(falling):
    rows = [0.5, 1.5, 3.5, 4.5][:: -1 if falling else 1]
    grid = Grid(
        (4, 8), (5.0, 8.0), 0.1, ("u",), boundary=("open", "periodic"), coordinates={"y": rows}
    )
    y, x = torch.tensor(rows)[:, None], torch.tensor(grid.centres(1))
    field = (3 * y + (x - 4).abs()).double()[None, None, None]

    def felt(*position):
        return float(SensorsLoss([position])(field, torch.zeros_like(field), grid)[0].sqrt())

    assert felt(2.0, 2.25) == pytest.approx(3 * 2.0 + 1.75)
    assert felt(3.5, 7.9) == pytest.approx(3 * 3.5 + 3.5)  # between 7.5 and 0.5, both 3.5 off
    assert felt(0.1, 2.5) == pytest.approx(3 * 0.5 + 1.5)  # beyond the last centre
    bad = {(1.0,): "2 numbers for each", ("a", "b"): "positions", (6.0, 1.0): "6 along y"}
    for position, what in {**bad, (math.nan, 1.0): "nan along y"}.items():
        with pytest.raises(InputError, match=what):
            felt(*position)


def test_sensors_on_land_are_refused_and_a_mesh_has_the_nearest_point():
    mask = np.ones((4, 4), dtype=bool)
    mask[0, 0] = False
    grid = Grid((4, 4), (4.0, 4.0), 0.1, ("u",), mask=mask)
    field = states(1, 1, grid)
    with pytest.raises(InputError, match="beside land"):
        SensorsLoss([[0.6, 0.6]])(field, field, grid)
    SensorsLoss([[1.5, 0.5]])(field, field, grid)  # on a centre: land has no share
    points = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    mesh = Mesh(points, 0.1, ("u",), cells=[[0, 1, 2]])
    here = torch.tensor([1.0, 2.0, 5.0]).reshape(1, 1, 1, 3)
    assert float(SensorsLoss([[0.1, 0.8]])(here, torch.zeros_like(here), mesh)[0]) == 25.0
    for outside in ([0.1, 1.8], [math.nan, 0.1]):
        with pytest.raises(InputError, match="places between"):
            SensorsLoss([outside])(here, here, mesh)


@pytest.mark.parametrize("positions", [[], [[1.0, 2.0]], [1.0], [[1.0], []]])
def test_positions_of_another_kind_are_refused(positions):
    line = Grid((4,), (4.0,), 0.1, ("u",))
    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 0.1, ("u",), cells=[[0, 1, 2]])
    field = states(1, 1, line)
    with pytest.raises(InputError, match=r"expected \[\[x\], \.\.\.\], 1 number for each position"):
        SensorsLoss(positions)(field, field, line)
    here = torch.zeros(1, 1, 1, 3)
    with pytest.raises(InputError, match=r"\[\[x, y\], \.\.\.\], 2 numbers for each position"):
        SensorsLoss([[1.0]])(here, here, mesh)


def test_cells_count_by_their_weight_and_land_not_at_all():
    mask = np.ones((2, 2), dtype=bool)
    mask[0, 0] = False
    weights = np.array([[9.0, 1.0], [1.0, 2.0]])
    grid = Grid((2, 2), (2.0, 2.0), 0.1, ("u",), mask=mask, weights=weights)
    off = torch.tensor([[100.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 1, 2, 2)
    assert float(LastLoss()(off, torch.zeros_like(off), grid)[0]) == pytest.approx((1 + 4 + 18) / 4)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda u, r, _: (u - r).square().mean(), "a floating-point tensor of one number a window"),
        (lambda u, r, _: u.detach().numpy().sum(axis=(1, 2, 3, 4)), "got ndarray"),
        (lambda u, r, _: (u - r).sum(dim=(1, 2, 3, 4)) / 0, "finite numbers"),
        (lambda u, r, _: (u - r).square().mean().expand(len(u)), "each window judged by itself"),
        (lambda u, r, _: u.nonsense, "AttributeError"),
        (lambda u, r, _: (u > r).sum(dim=(1, 2, 3, 4)), "a floating-point tensor"),
        (lambda u, r, _: torch.rand(len(u)), "depend on the windows alone"),
    ],
)
def test_a_loss_that_will_not_do_is_named(loss, what):
    with pytest.raises(InputError, match=what):
        check_loss("training.loss", loss, states(), GRID)


def test_a_mean_over_two_windows_is_seen():
    """Two that are off by each other would have the mean of either."""
    with pytest.raises(InputError, match="each window judged by itself"):
        check_loss("m", lambda u, r, _: (u - r).abs().mean().expand(len(u)), states(2), GRID)


def test_a_loss_of_positive_numbers_meets_positive_numbers():
    def of_logarithms(u, r, _):
        return (u.log() - r.log()).square().mean(dim=(1, 2, 3, 4))

    assert check_loss("loss", of_logarithms, states().exp(), GRID)
    assert check_loss("loss", of_logarithms, states(1, 1).exp(), GRID)


def test_a_loss_without_a_gradient_is_told():
    def of_numpy(u, r, _):
        return torch.from_numpy((u.detach() - r).numpy() ** 2).mean(dim=(1, 2, 3, 4))

    def of_plain_numpy(u, r, _):
        return torch.from_numpy((u.numpy() - r.numpy()) ** 2).mean(dim=(1, 2, 3, 4))

    def of_nothing(u, r, _):
        return (0 * u + r.square()).mean(dim=(1, 2, 3, 4))

    assert not check_loss("loss", of_numpy, states(), GRID)
    assert not check_loss("loss", of_plain_numpy, states(), GRID)
    assert not check_loss("loss", of_nothing, states(), GRID)


class Sine:
    grid = GRID

    def step(self, state, forcing=None):
        return state + 0.1 * state.sin()


def test_probes_side_by_side_are_probes_alone():
    """A loss of one's own is called with all probes at once, each as if it were by itself."""
    start, targets = states()[:, 0], states()
    window = Window(None, targets, initial=start)
    torch.manual_seed(0)
    network = Normalised(ConvCorrector(2, 2, 2, 2), torch.ones(2), torch.ones(0)).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    objective = UnrolledObjective(Sine(), window, SCALE, loss=MomentsLoss(SCALE))
    oracle = WeightOracle(network, objective, chunk=7)
    some = torch.arange(0, 50, 3)
    together = oracle.coordinates(some, 1e-3)
    for index, value in zip(some.tolist()[:5], together[:5].tolist(), strict=True):
        moved = WeightOracle(network, objective, chunk=1, verify=False)
        assert float(moved.coordinates(torch.tensor([index]), 1e-3)[0]) == pytest.approx(
            value, rel=1e-9
        )
    predicted, state = [], start
    for _ in range(4):
        stepped = Sine().step(state)
        state = stepped + network(stepped)
        predicted.append(state)
    by_hand = MomentsLoss(SCALE)(torch.stack(predicted, dim=1), targets, GRID).mean()
    torch.testing.assert_close(objective(network)[0], by_hand)
