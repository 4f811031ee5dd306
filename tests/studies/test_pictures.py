"""Tables and pages of runs in one, two and three dimensions, from made-up rollouts."""

import re
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from zopde import Grid, rollout_error
from zopde.cli import console
from zopde.studies.correct import page
from zopde.studies.correct.evaluate import Evaluation
from zopde.studies.correct.rollouts import Rollouts
from zopde.studies.correct.table import measure_heads, table_of

LABELS = ["SRC", "NON", "NOG", "ID", "ZO-weights", "ZO-weights-scratch", "ZO-interface", "SOL"]


def metrics(seeds=(0, 1, 2), checking=1280):
    """Figures of a large run, one label of which diverged."""

    def each(value):
        return dict.fromkeys(LABELS, value)

    nothing = {"mean": None, "channels": {"velocity_y": None, "velocity_x": None}}
    nrmse = {"mean": 0.2345, "channels": {"velocity_y": 0.12345, "velocity_x": 0.3456}}
    diverged = {"mean": None, "std": None, "std_over_seeds": None}
    return {
        "labels": LABELS,
        "seeds": list(seeds),
        **{"test_runs": 5, "steps": 300, "parameters": 261154, "stored_solver_steps": 9000},
        "mae": each({"mean": 0.0166, "std": 0.0058, "std_over_seeds": 0.00123}) | {"NON": diverged},
        "percent_of_src": each(-77.1),
        "init": each("non") | {"SRC": "none", "ZO-weights-scratch": "scratch"},
        **{"iterations": each(12000), "queries": each(204567), "checking": each(checking)},
        **{"solver_steps": each(1158152), "seconds": each(21178.2)},
        "diverged": each(0) | {"NON": 7},
        "nrmse": each(nrmse) | {"NON": nothing},
        "correlation_time": each({"mean": 23.42, "std": 1.0}),
        "time": {"length": 30.0, "unit": "s"},
        **{"failures": {}, "skipped_iterations": {}, "stopped_early": {}, "skipped": {}},
    }


def test_the_widest_tables_fit_into_a_terminal_of_120_columns(capsys):
    console.show(table_of(metrics()))
    tables = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(tables) == 2 * 4 + 1 + 2 * len(LABELS)
    assert max(map(len, tables)) <= 120
    row = next(line for line in tables if "ZO-weights-scratch" in line)
    assert re.findall(r"[^│ ][^│]*[^│ ]", row)[1:4] == ["0.0166", "0.0058", "0.0012"]


def test_the_share_of_diverged_rollouts_stands_in_the_table_exact():
    found = {row[0]: row[1:] for row in table_of(metrics()).also.rows}
    assert found["NON"] == ["7/15", "23.42", "-", "-", "-"]
    assert found["SRC"] == ["0/5", "23.42", "0.234", "0.123", "0.346"]
    assert table_of(metrics()).rows[1][1] == "diverged"


def test_columns_that_say_nothing_are_left_out():
    assert "checking" in table_of(metrics()).columns
    columns = table_of(metrics(seeds=[0], checking=0)).columns
    assert not {"checking", "± seeds"} & set(columns)
    assert measure_heads(["u"], "1") == ["diverged", "corr. time", "nRMSE"]
    many = [f"concentration_{i}" for i in range(9)]
    assert measure_heads(many, "s") == ["diverged", "corr. time [s]", "nRMSE"]


def test_a_run_of_an_earlier_version_has_its_table():
    old = metrics()
    for name in ("nrmse", "correlation_time", "time", "checking"):
        del old[name]
    assert table_of(old).also is None
    assert len(table_of(old).rows) == len(LABELS)


@pytest.mark.parametrize("shape", [(16,), (8, 8), (4, 6, 8)])
def test_pictures_of_a_page_in_any_dimension(shape):
    channels = ("velocity_z", "velocity_y", "velocity_x")[-len(shape) :]
    grid = Grid(shape, tuple(0.5 * n for n in shape), 0.1, channels)
    reference = torch.randn(2, 9, len(channels), *shape)
    made = {}
    for label, size in (("SRC", 0.5), ("NOG", 0.1), ("ZO-interface", float("nan"))):
        predicted = reference + size * torch.randn_like(reference)
        error = rollout_error(predicted[:, 1:], reference[:, 1:])
        made[label] = [Evaluation(predicted, error)]
    rollouts, run = Rollouts(grid, reference, made), SimpleNamespace(seeds=[0], metrics=None)
    assert rollouts.best == "NOG"
    if len(shape) == 2:
        run.root = run.settings = None  # no solver to ask for a vorticity
    assert list(page._fields_section(run, rollouts).figures) == ["fields"]
    assert list(page._spectrum_section(rollouts).figures) == ["energy_spectrum"]
    assert "<td>2/2</td>" in page._result(run, rollouts)
    section, gif = page._motion(run, rollouts)
    if len(shape) == 1:
        assert (section.html, gif) == ("", None)
    else:
        assert Image.open(BytesIO(gif())).n_frames == 9
        assert section.html.count("data:image/gif") == 1


@pytest.mark.parametrize(
    "cells",
    [
        {"mask": torch.eye(8).bool()},
        {"coordinates": {"y": [0.25 * n + n**2 / 64 for n in range(8)]}},
    ],
)
def test_waves_are_not_counted_over_land_nor_over_cells_that_differ(cells):
    grid = Grid((8, 8), (3.0, 4.0), 0.1, ("T",), boundary="open", **cells)
    states = torch.randn(2, 9, 1, 8, 8)
    error = rollout_error(states[:, 1:] + 1, states[:, 1:], grid=grid)
    rollouts = Rollouts(grid, states, {"SRC": [Evaluation(states + 1, error)]})
    run = SimpleNamespace(seeds=[0], metrics=None, root=None, settings=None)
    assert (
        page._spectrum_section(rollouts).html
        == "<p>None: it would need cells of one size, all of them fluid.</p>"
    )
    assert list(page._fields_section(run, rollouts).figures) == ["fields"]
    assert Image.open(BytesIO(page._motion(run, rollouts)[1]())).n_frames == 9
