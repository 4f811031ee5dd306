"""What a network has found inside the solver: in figures, in files, and as a picture."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from zopde import (
    Grid,
    Mesh,
    Trajectories,
    draw_figures,
    load_config,
    load_corrector,
    load_solver,
    run_correction,
    save_trajectories,
    write_report,
)
from zopde.data import load_rollout
from zopde.report.fields import draw_parameter
from zopde.studies.correct.parameter import Recorded, first_guess, found_in

SOLVER = """
import torch
import zopde


class Decay:
    grid = zopde.Grid((6,), (6.0,), 0.1, ("u",), ("rate", "gain"), units={"rate": "1/s"})

    def step(self, state, forcing=None):
        rate, gain = forcing[:, :1], forcing[:, 1:]
        return state * torch.exp(-0.1 * rate) + 0.1 * gain


class Field(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(outputs, 6))

    def forward(self, x):
        return self.values.expand(x.shape[0], *self.values.shape)
"""


@pytest.fixture(scope="module", params=[1, 2])
def finished(request, tmp_path_factory):
    """A rate that is twice the first guess in one half: (folder, metrics, every)."""
    folder, every = tmp_path_factory.mktemp("parameter"), request.param
    (folder / "decay.py").write_text(SOLVER)
    spec = f"{folder / 'decay.py'}"
    solver = load_solver(f"{spec}:Decay")
    truth = torch.tensor([[1.0, 1, 1, 2, 2, 2], [0.5] * 6]).expand(5, 2, 6)
    states, guess = [torch.rand(5, 1, 6) + 1], torch.tensor([1.0, 0.5]).view(2, 1)
    for _ in range(12):
        states.append(solver.step(states[-1], truth))
    whole = torch.stack(states, dim=1)
    forcing = guess.expand(5, 13, 2, 6).contiguous()
    save_trajectories(Trajectories(solver.grid, whole, forcing), folder / "mine.nc")
    config = load_config(
        tables={
            "solver": {"spec": f"{spec}:Decay"},
            "data": {"path": str(folder / "mine.nc"), "train": 3, "test": 2},
            "corrector": {"kind": f"{spec}:Field", "inject": "parameter", "every": every},
            "training": {"length": "60 iterations", "unroll": 2, "lr": 5e-2, "init": "scratch"},
            "interface": {"way": "dense"},
            "run": {"labels": ["SRC", "ZO-interface"], "seeds": [0, 1]},
        }
    )
    return folder / "run", run_correction(config, folder / "run"), every


def test_the_figures_are_those_of_the_network_itself_agrees(finished):
    folder, metrics, every = finished
    told = metrics["learned_parameter"]
    assert told["first_guess"]["rate"] == {"mean": 1.0, "min": 1.0, "max": 1.0}
    assert list(told) == ["first_guess", "ZO-interface"]
    fields = []
    for seed in (0, 1):
        place = folder / "ZO-interface" / f"seed-{seed}"
        network = load_corrector(place / "model.safetensors")
        kept = load_rollout(place / "parameter.nc")
        guess = torch.tensor([1.0, 0.5]).view(1, 2, 1).expand(1, 2, 6)
        with torch.no_grad():
            field = (guess * network(torch.ones(1, 1, 6), guess).exp())[0]
        assert kept.states.shape == (2, 12 // every, 2, 6)
        torch.testing.assert_close(kept.states, field.expand(kept.states.shape))
        assert (kept.grid.channels, kept.grid.unit("rate")) == (("rate", "gain"), "1/s")
        assert kept.grid.dt == pytest.approx(0.1 * every)
        fields.append(field)
    rates = torch.stack(fields)[:, 0]
    assert 1.5 < float(rates[:, 3:].min()) < float(rates.max()) < 2.3  # it is found
    assert told["ZO-interface"]["rate"]["mean"] == pytest.approx(float(rates.mean()), rel=1e-5)
    assert told["ZO-interface"]["rate"]["min"] == pytest.approx(float(rates.min()), rel=1e-5)
    assert told["ZO-interface"]["rate"]["max"] == pytest.approx(float(rates.max()), rel=1e-5)
    assert json.loads((folder / "metrics.json").read_text())["learned_parameter"] == told


def test_the_picture_has_the_first_guess_beside_what_was_found(finished):
    folder, metrics, _ = finished
    found = load_rollout(folder / "ZO-interface" / "seed-0" / "parameter.nc").states[0, 0]
    figure = draw_figures(folder)["parameter"]
    known = found, (1.0, 0.5), ("rate", "gain")
    for panel, channel, guess, name in zip(figure.axes, *known, strict=True):
        lines = {line.get_label(): line.get_ydata() for line in panel.lines}
        np.testing.assert_array_equal(lines["first guess"], np.full(6, guess))
        np.testing.assert_allclose(lines["ZO-interface"], channel)
        assert panel.get_ylabel().startswith(name)
    html = write_report([folder], folder.parent / "page.html").read_text()
    least = metrics["learned_parameter"]["ZO-interface"]["rate"]["min"]
    assert "<h2>Learned parameter</h2>" in html
    assert f"<td>{least:.4g}</td>" in html
    assert (folder / "parameter.png").exists()


def test_the_mean_is_over_the_fluid_by_the_weights_of_the_cells_exact():
    mask, weights = torch.tensor([True, True, False]), torch.tensor([3.0, 1.0, 9.0])
    grid = Grid((3,), (3.0,), 0.1, ("u",), ("k",), mask=mask, weights=weights, boundary="open")
    forcing = torch.tensor([1.0, 5.0, 99.0]).expand(2, 3, 1, 3).contiguous()
    test = Trajectories(grid, torch.ones(2, 3, 1, 3), forcing)
    guess = first_guess(test, ["k"])
    gone = guess.clone()
    gone[1, 1] = torch.nan
    told = found_in(test, ["k"], {"SRC": [None], "NOG": [2 * guess] * 2, "ID": [gone]})
    assert told["first_guess"]["k"] == {"mean": 2.0, "min": 1.0, "max": 5.0}
    assert told["NOG"]["k"] == {"mean": 4.0, "min": 2.0, "max": 10.0}
    assert told["ID"]["k"] == {"mean": None, "min": None, "max": None}
    assert "SRC" not in told


def test_twins_with_a_seed_keep_in_the_same_place_exact():
    class Noisy:
        grid = Grid((2,), (1.0,), 0.1, ("u",), ("k",))

        def with_seed(self, seed):
            return Noisy()

        def step(self, state, forcing=None):
            return state + forcing

    solver, given = Recorded(Noisy()), torch.ones(1, 1, 2)
    for k in range(4):
        solver.with_seed(k).step(torch.zeros(1, 1, 2), k * given)
    assert solver.given(2).tolist() == [[[[0.0, 0.0]], [[2.0, 2.0]]]]


def domains():
    flat = Grid((4, 6), (2.0, 2.0), 0.1, ("k", "nu"), units={"k": "m"})
    yield flat
    yield replace(flat, mask=torch.arange(24).reshape(4, 6) > 3)
    yield Grid((4, 6, 8), (1.0, 3.0, 2.0), 0.1, ("k", "nu"))
    yield from (Mesh(torch.rand(30, axes).numpy(), 0.1, ("k", "nu")) for axes in (1, 2, 3))


@pytest.mark.parametrize(
    "domain", list(domains()), ids=["map", "land", "box", "mesh1", "mesh2", "mesh3"]
)
def test_a_field_is_drawn_on_any_domain(domain):
    """A row for each channel, a column for each label, one scale for a row, none of land."""
    values = torch.rand(2, *domain.shape)
    if getattr(domain, "fluid", None) is not None:
        values[:, ~domain.fluid] = 99.0
    fields = {"first guess": torch.ones_like(values), "SOL": 1 + values, "NOG": values * torch.nan}
    figure = draw_parameter(fields, domain)
    figure.canvas.draw()
    panels = figure.axes[:6]
    assert [panel.get_title() for panel in panels] == [*fields] * 2
    for row in (0, 1):
        drawn = [(p.images or p.collections)[0] for p in panels[3 * row : 3 * row + 3]]
        inside = domain.fluid_values(values)[row]
        for image in drawn:
            low, high = image.get_clim()
            assert low == pytest.approx(1.0)
            assert high <= 2.0
        if not isinstance(domain, Mesh) and len(domain.shape) == 2:
            assert drawn[0].get_clim()[1] == pytest.approx(1 + float(inside.max()))


@pytest.mark.parametrize(("extent", "columns"), [((1.0, 1.0), 4), ((1.0, 8.0), 2)])
def test_many_labels_go_on_in_a_row_of_their_own_exact(extent, columns):
    labels = ["first guess", "ID", "ZO-weights", "ZO-interface", "SOL"]
    grid = Grid((4, 6), extent, 0.1, ("k", "nu"))
    figure = draw_parameter({label: torch.rand(2, 4, 6) for label in labels}, grid)
    shown = [axes.get_title() for axes in figure.axes if axes.axison]
    assert [title for title in shown if title] == labels * 2
    assert figure.axes[0].get_gridspec().ncols == columns
    (named,) = [axes for axes in figure.axes if axes.get_xlabel()]
    assert (named.get_title(), named.get_ylabel()) == ("SOL", "y [-]")
