import numpy as np
import pytest

from zopde import Grid
from zopde.report.panels import save
from zopde.report.spectrum import draw_spectra, energy_spectrum, name_of, vector_channels


def plane(ny, nx):
    return np.meshgrid(np.arange(ny) / ny, np.arange(nx) / nx, indexing="ij")


@pytest.mark.parametrize(
    ("modes", "extent", "shell"),
    [((3, 0), (2.0, 2.0), 3), ((3, 4), (2.0, 2.0), 5), ((6, 0), (4.0, 2.0), 3)],
)
def test_a_single_fourier_mode_is_in_one_shell_exact(modes, extent, shell):
    """u = a sin(k.x) holds a^2 / 4, all of it at |k|, whatever the shape of the domain."""
    y, x = plane(32, 16)
    wave = 0.6 * np.sin(2 * np.pi * (modes[0] * y + modes[1] * x))
    found = energy_spectrum(np.stack([wave, 0 * wave]), extent)
    step = found.wave_numbers[1]
    assert step == pytest.approx(2 * np.pi / min(extent))
    expected = np.zeros_like(found.energy)
    expected[shell] = 0.6**2 / 4 / step
    np.testing.assert_allclose(found.energy, expected, atol=1e-15)


@pytest.mark.parametrize(
    ("modes", "shape", "extent", "shell"),
    [
        ((5,), (32,), (3.0,), 5),
        ((0, 0, 4), (8, 12, 16), (2.0, 2.0, 2.0), 4),
        ((2, 3, 6), (16, 16, 16), (2.0, 2.0, 2.0), 7),
        ((4, 0, 3), (16, 8, 16), (2.0, 1.0, 1.0), 4),  # |k| / dk = sqrt(2^2 + 3^2) = 3.6
    ],
)
def test_a_single_wave_of_a_line_or_a_box_is_in_one_shell_exact(modes, shape, extent, shell):
    cells = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    phase = 2 * np.pi * sum(m * x for m, x in zip(modes, cells, strict=True))
    found = energy_spectrum((0.6 * np.sin(phase))[None], extent)
    step = 2 * np.pi / min(extent)
    expected = np.zeros_like(found.energy)
    expected[shell] = 0.6**2 / 4 / step
    np.testing.assert_allclose(found.wave_numbers[shell], shell * step)
    np.testing.assert_allclose(found.energy, expected, atol=1e-15)


@pytest.mark.parametrize("shape", [(16, 16), (15, 8), (12,), (4, 6, 5)])
def test_parseval_exact(shape):
    """The sum over the shells is half the mean square, odd and even sizes alike."""
    fields = np.random.default_rng(0).normal(size=(3, 2, len(shape), *shape)) + 0.5
    found = energy_spectrum(fields, [1.0 + a for a in range(len(shape))])
    whole = found.energy.sum() * found.wave_numbers[1]
    assert whole == pytest.approx(0.5 * (fields**2).mean(axis=(0, 1)).sum(axis=0).mean())


def test_the_mean_is_in_the_first_shell_exact():
    found = energy_spectrum(np.full((1, 8, 8), 3.0), (1.0, 1.0))
    assert found.energy[0] * found.wave_numbers[1] == pytest.approx(4.5)
    assert np.abs(found.energy[1:]).max() < 1e-15


def test_only_one_kind_of_channel_makes_an_energy():
    units = {"height": "m", "u": "m/s", "v": "m/s"}
    assert vector_channels(Grid((4, 4), (1, 1), 1, ("u", "height", "v"), units=units)) == [0, 2]
    named = Grid((4, 4), (1, 1), 1, ("density", "velocity_y", "velocity_x"))
    assert vector_channels(named) == [1, 2]
    water = {"eta": "m", "u": "m/s", "v": "m/s"}
    assert vector_channels(Grid((4, 4), (1, 1), 1, ("eta", "u", "v"), units=water)) == [0]
    assert vector_channels(Grid((4, 4), (1, 1), 1, ("u", "v", "b"))) == [0, 1]
    assert vector_channels(Grid((4, 4), (1, 1), 1, ("a", "b"))) == [0]


@pytest.mark.parametrize(
    ("channels", "chosen", "name"),
    [
        (("eta", "u", "v"), [0], "eta"),
        (("u", "v", "b"), [0, 1], "(u, v)"),
        (("velocity_y", "velocity_x"), [0, 1], "u"),
    ],
)
def test_pictures_say_what_they_show(channels, chosen, name):
    assert name_of(Grid((4, 4), (1, 1), 1, channels), chosen) == name


def test_picture(tmp_path):
    found = energy_spectrum(np.random.default_rng(0).normal(size=(2, 8, 8)), (1.0, 1.0))
    grid = Grid((8, 8), (1.0, 1.0), 1.0, ("velocity_y", "velocity_x"))
    save(draw_spectra({"reference": found, "SRC": found}, grid), tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
