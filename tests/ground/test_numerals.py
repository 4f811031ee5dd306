import math

import pytest

from zopde.numerals import change, count, measured, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12345678, "12,345,678"),
        (3.0, "3"),
        (0.031, "0.031"),
        (0.00012345, "0.0001234"),
        (9999.99, "10,000"),
        (12345.6, "12,346"),
        (1e20, "1e+20"),
        (1 / 3, "0.3333"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_the_digits_it_needs(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "deviations", "decimals", "shown"),
    [
        (93.12, (0.85,), 2, ["93.12", "0.85"]),
        (93.1, (0.0003,), 2, ["93.10000", "0.00030"]),  # an error bar is not hidden
        (0.0564, (0.0012, 0.02), 4, ["0.0564", "0.0012", "0.0200"]),
        (0.0564, (0.0012, None), 4, ["0.0564", "0.0012", ""]),
        (3.2e-6, (1e-7,), 4, ["0.00000320", "0.00000010"]),  # nor is a small number
        (3.2e-12, (1e-13,), 4, ["3.2e-12", "1e-13"]),
        (0.0, (0.0,), 4, ["0.0000", "0.0000"]),
        (12345.678, (1.0,), 4, ["12,345.7", "1.0"]),
        (93.12, (1e-17,), 2, ["93.120000", "1e-17"]),  # round-off is not worth 17 digits
        (1e30, (1e20,), 2, ["1e+30", "1e+20"]),
        (100.0, (), 1, ["100.0"]),
        (math.inf, (None,), 1, ["inf", ""]),
    ],
)
def test_a_measured_number_shows_its_deviation(value, deviations, decimals, shown):
    assert measured(value, *deviations, decimals=decimals) == shown


def test_counts_are_whole_and_changes_have_a_sign():
    assert count(12.333) == "12"
    assert [change(-0.03), change(12.345), change(0.0, 2)] == ["-0.0300", "+12.3", "+0.00"]
