import numpy as np
import torch

from zopde import Grid
from zopde.report.figures import Curve, save_error_over_time, save_fields

GRID = Grid((4, 4), (1.0, 1.0), 0.1, ("v", "u"))
PNG = b"\x89PNG\r\n\x1a\n"


def test_error_over_time_also_with_a_diverged_label(tmp_path):
    curves = [
        Curve("SRC", np.linspace(0, 1, 5), np.full(5, 0.1)),
        Curve("mine", np.array([0.1, np.inf, np.nan, np.nan, np.nan]), np.full(5, np.nan)),
    ]
    save_error_over_time(tmp_path / "error.png", curves, GRID)
    assert (tmp_path / "error.png").read_bytes().startswith(PNG)


def test_fields_also_with_a_diverged_label(tmp_path):
    states = {
        "reference": torch.randn(2, 4, 4),
        "SRC": torch.randn(2, 4, 4),
        "mine": torch.full((2, 4, 4), float("nan")),
        "huge": torch.full((2, 4, 4), 1e30),
    }
    save_fields(tmp_path / "fields.png", states, GRID, 10)
    assert (tmp_path / "fields.png").read_bytes().startswith(PNG)
