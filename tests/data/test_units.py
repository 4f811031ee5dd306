"""Units of a data file against those of the grid."""

from dataclasses import replace

import pytest
import torch

from zopde import Grid, InputError, Trajectories
from zopde.data import from_dataset, to_dataset
from zopde.data.units import same_unit

GRID = Grid((4, 3), (4.0, 3.0), 0.2, ("tracer", "speed"), units={"tracer": "kg/m3"})


@pytest.fixture
def dataset():
    states = torch.rand(2, 3, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    return to_dataset(Trajectories(GRID, states))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("m s-1", "m/s", True),
        ("m s**-1", "m.s^-1", True),
        ("metre second-1", "m/s", True),
        ("kg m-3", "kg/m**3", True),
        ("N/m2", "Pa", True),
        ("mbar", "hPa", True),
        ("m/s/K", "m K-1 s-1", True),
        ("kg/m3", "g/m3", False),
        ("km/h", "m/s", False),
        ("degC", "K", False),
        ("m2", "m", False),
        ("PSU", "PSU", True),
        ("PSU", "g/kg", None),
        ("kg/(m s)", "Pa s", None),
        ("km99999", "m", None),
        ("10 m", "m", None),
    ],
)
def test_spellings_of_one_unit(one, other, same):
    assert same_unit(one, other) is same
    assert same_unit(other, one) is same


@pytest.mark.parametrize("unit", ["kg m-3", "1", "", None])
def test_the_grids_unit_in_another_spelling_or_none_exact(dataset, unit):
    before = from_dataset(dataset, GRID).states
    dataset["tracer"].attrs = {} if unit is None else {"units": unit}
    assert torch.equal(from_dataset(dataset, GRID).states, before)
    dataset["speed"].attrs["units"] = "furlong"  # the grid names none
    assert torch.equal(from_dataset(dataset, GRID).states, before)


def test_another_unit_is_refused_by_both_names_raises(dataset):
    dataset["tracer"].attrs["units"] = "g/m3"
    words = "data 'tracer': got units 'g/m3', expected the grid's 'kg/m3'"
    with pytest.raises(InputError, match=words):
        from_dataset(dataset, GRID)


@pytest.mark.parametrize(
    ("given", "own", "alike"),
    [
        ("%", "1", False),
        ("1", "%", False),
        ("1", "g/kg", False),
        ("m/s", "1", False),
        ("kg kg-1", "1", True),
        ("1", "1", True),
        ("0.01", "%", True),  # not known: told, not refused
        ("1", "m/s", True),  # zopde writes it where a grid names no unit
    ],
)
def test_a_share_is_not_a_percentage_raises(dataset, given, own, alike):
    grid = replace(GRID, units={"tracer": own})
    dataset["tracer"].attrs["units"] = given
    if alike:
        from_dataset(dataset, grid)
        return
    with pytest.raises(InputError, match=f"got units '{given}', expected the grid's '{own}'"):
        from_dataset(dataset, grid)


def test_a_unit_that_is_not_known_is_told(dataset, caplog):
    grid = replace(GRID, units={"tracer": "PSU"})
    from_dataset(dataset, grid)
    assert "data 'tracer': in kg/m3, the grid's in PSU: not compared" in caplog.text
