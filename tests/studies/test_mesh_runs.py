"""A correction on a mesh, from the solver to the page."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from zopde import InputError, load_config, load_corrector, run_correction, write_report
from zopde.mesh import Mesh
from zopde.report import on_mesh
from zopde.report.fields import draw_fields
from zopde.report.panels import save
from zopde.solvers.heat_mesh import HeatMesh

SMALL = (
    "data.fine=[289]",
    "data.coarse=[81]",
    "data.steps=12",
    "data.train=3",
    "data.test=2",
    "corrector.sizes={width=4,rounds=1}",
    'non.length="20 iterations"',
    'training.length="6 iterations"',
    "training.unroll=3",
    'run.labels=["SRC","NON","ZO-interface","SOL"]',
)


def config(*changes, tables=None):
    tables = {"solver": {"spec": "heat-mesh"}, **(tables or {})}
    return load_config("quick", None, [*SMALL, *changes], tables)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh") / "run"
    changes = "interface.radius=[]", "interface.allow_bias=false", "interface.way=dense"
    return folder, run_correction(config(*changes), folder)


def test_exact_queries_train_as_the_twin_does(finished):
    mae = finished[1]["mae"]
    assert mae["ZO-interface"]["mean"] == pytest.approx(mae["SOL"]["mean"], rel=1e-3)
    assert mae["SOL"]["mean"] != pytest.approx(mae["SRC"]["mean"], rel=1e-3)


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(finished, tmp_path):
    folder, metrics = finished
    for data in folder.parent.glob("*.nc"):
        shutil.copy(data, tmp_path)
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "SOL")
    (tmp_path / "run" / "metrics.json").unlink()
    changes = "interface.radius=[]", "interface.allow_bias=false", "interface.way=dense"
    again = run_correction(config(*changes), tmp_path / "run", resume=True)
    assert again["mae"] == metrics["mae"]


def test_its_page_has_triangles_and_says_that_spectra_are_left_out(finished, monkeypatch):
    drawn = []
    monkeypatch.setattr(on_mesh.Triangulation, "set_mask", lambda *_: drawn.append(1))
    page = write_report([finished[0]], finished[0] / "page.html").read_text()
    assert "on a mesh there are no wave numbers" in page
    assert len(drawn) >= 9  # reference, four labels and their errors


def test_its_model_is_read_back_with_the_mesh(finished):
    folder = finished[0]
    network = load_corrector(folder / "SOL" / "seed-0" / "model.safetensors")
    mesh = HeatMesh((81,)).grid
    assert torch.equal(network.edges, mesh.edges)
    state = torch.rand(2, 1, 81)
    assert network(state).shape == state.shape
    assert network(state).any()


def test_coloured_bank_and_random_run_and_auto_chooses_one(tmp_path):
    few = 'run.labels=["SRC","ZO-interface","ZO-bank","ZO-random"]'
    changes = few, "interface.radius=[]", "interface.allow_bias=false", "interface.way=auto"
    metrics = run_correction(config(*changes, "interface.snapshots=2"), tmp_path / "run")
    assert all(one["mean"] < 0.5 for one in metrics["mae"].values())
    chosen = json.loads((tmp_path / "run" / "way.json").read_text())
    assert chosen["way"] in ("coloured", "bank")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("corrector.kind=conv", "corrector.sizes={}"), "'conv' on a mesh, expected \"graph\""),
        (("corrector.kind=residual", "corrector.sizes={}"), "'residual' on a mesh"),
        (('run.labels=["SRC","ZO-tangent"]',), "'tangent' on a mesh"),
        (("interface.radius=[2,2]",), "1 numbers of cells"),
        (("data.coarse=[100]",), "(81,), (289,)"),
        (("data.fine=[32,32]",), "one number of cells for each of point"),
    ],
)
def test_what_does_not_suit_a_mesh_is_refused_in_one_line(changes, words, tmp_path):
    with pytest.raises(InputError) as caught:
        run_correction(config(*changes), tmp_path / "run")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_network_on_a_grid_is_refused(tmp_path):
    changes = ["corrector.kind=graph"]
    with pytest.raises(InputError, match="'graph' on a grid, expected \"conv\""):
        run_correction(load_config("quick", None, changes), tmp_path / "run")


OWN = """
import torch
class Own(torch.nn.Module):
    def __init__(self, inputs, outputs, edges, positions, width=3):
        super().__init__()
        self.register_buffer("edges", edges)
        self.into = torch.nn.Conv1d(inputs + positions.shape[1], width, 1)
        self.out = torch.nn.Conv1d(width, outputs, 1)
        self.register_buffer("positions", positions.T[None])
    def forward(self, x):
        where = self.positions.expand(x.shape[0], -1, -1)
        h = torch.tanh(self.into(torch.cat([x, where], dim=1)))
        return self.out(h.index_add(2, self.edges[:, 1], h[..., self.edges[:, 0]]))
"""


def test_a_network_of_ones_own_is_handed_edges_and_positions(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = {"corrector": {"kind": f"{tmp_path / 'own.py'}:Own", "sizes": {"width": 2}}}
    small = [change for change in SMALL if not change.startswith("corrector")]
    tables = {"solver": {"spec": "heat-mesh"}, **own}
    found = load_config("quick", None, [*small, 'run.labels=["SRC","NON"]'], tables)
    metrics = run_correction(found, tmp_path / "run")
    assert metrics["mae"]["NON"]["mean"] != metrics["mae"]["SRC"]["mean"]
    network = load_corrector(tmp_path / "run" / "NON" / "seed-0" / "model.safetensors")
    assert torch.equal(network.body.edges, HeatMesh((81,)).grid.edges)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_points_of_any_mesh_are_drawn(axes, tmp_path):
    mesh = Mesh(torch.rand(30, axes).numpy(), 0.1, ("u",))
    states = torch.rand(2, 1, 30)
    gone = torch.full_like(states, torch.nan)
    figure = draw_fields({"reference": states, "SRC": states + 1, "NON": gone}, mesh)
    save(figure, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_data_need_a_downsample(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from zopde.solvers.heat_mesh import HeatMesh as H\n"
        "class Mine:\n"
        "    def __init__(self, shape=(81,)):\n"
        "        self.inside = H(shape)\n"
        "        self.grid, self.step, self.scenario = (\n"
        "            self.inside.grid, self.inside.step, self.inside.scenario)\n"
        "    options = {}\n"
        "    def at(self, shape):\n"
        "        return Mine(shape)\n"
    )
    mine = config(tables={"solver": {"spec": f"{tmp_path / 'mine.py'}:Mine"}})
    mine = replace(mine, corrector=replace(mine.corrector, sizes={}))
    with pytest.raises(InputError, match="no `downsample`"):
        run_correction(mine, tmp_path / "run")


def test_a_run_of_before_whose_kind_was_named_goes_on(finished, tmp_path):
    """Its record says "graph", or "conv", with sizes; the preset leaves both to the domain now."""
    folder, metrics = finished
    for data in folder.parent.glob("*.nc"):
        shutil.copy(data, tmp_path)
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    changes = "interface.radius=[]", "interface.allow_bias=false", "interface.way=dense"
    auto = config("corrector.kind=auto", *changes)
    auto = replace(auto, corrector=replace(auto.corrector, sizes={}))
    again = run_correction(auto, tmp_path / "run", resume=True)
    assert again["parameters"] == metrics["parameters"]
