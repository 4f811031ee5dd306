"""A trained corrector as a file for other programs."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr

from zopde import (
    ConvCorrector,
    InputError,
    Normalised,
    load_corrector,
    load_solver,
    run_correction,
)
from zopde.cli.app import main
from zopde.studies.correct import export, export_corrector, load_config, save_corrector
from zopde.studies.correct.network import body_of

# Of torch itself: its C++ goes on to read these files
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

BRANCHING = """
import torch
from torch import nn


class Branching(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        y = self.mix(x)
        return y if x.mean() > 0 else 2 * y
"""


LINEAR = """
import torch


class Linear(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.mix = torch.nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.mix(x)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_spec, tiny):
    """A run with forcing, its two seeds trained in two ways."""
    folder = tmp_path_factory.mktemp("export") / "run"
    changes = [*tiny, 'run.labels=["SRC","NON","SOL"]', "run.seeds=[4,7]"]
    tables = {"solver": {"spec": toy_spec}}
    return folder, run_correction(load_config("quick", None, changes, tables), folder)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, with its data beside it."""
    shutil.copytree(finished[0].parent, tmp_path / "home")
    return tmp_path / "home" / "run"


def network_of(inject="after", mask=None, dtype=torch.float32, every=1):
    """A corrector that is not zero, of other weights than any run's."""
    torch.manual_seed(2)
    body = ConvCorrector(4 + (mask is not None), 2, width=3, depth=2)
    scales = torch.tensor([1.5, 0.7]), torch.tensor([0.3, 0.4])
    for weight in body.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return Normalised(body, *scales, inject=inject, mask=mask, every=every).to(dtype).eval()


def exchanged(run, network, kind="conv", sizes=None):
    """The same run with another model."""
    path = run / "NON" / "seed-4" / "model.safetensors"
    sizes = {"width": 3, "depth": 2} if sizes is None else sizes
    save_corrector(network, kind, sizes, "toy", path)


def asked(path, *fields):
    """What a file answers, without zopde."""
    if path.suffix == ".onnx":
        ort = pytest.importorskip("onnxruntime")
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        assert names == ["state", "forcing"][: len(fields)]
        given = {n: v.numpy() for n, v in zip(names, fields, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(*fields)
    return torch.jit.load(path)(*fields)


FORMATS = ["onnx", "pt2", "pt", "ts"]
SLOW_ONNX = pytest.param("onnx", marks=pytest.mark.slow)
SLOW_ONNX_MESH = pytest.param("onnx", 1, marks=pytest.mark.slow)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_answers_as_its_network_for_any_batch(suffix, run, gen, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    made = export_corrector(run, tmp_path / f"c.{suffix}", "NON", 7)
    network = load_corrector(run / "NON" / "seed-7" / "model.safetensors")
    assert made.model.parent.name == "seed-7"
    assert made.difference < 1e-7
    assert "run on 8 states of the data" in made.agreement
    for batch in (1, 2, 5):
        fields = [torch.randn(batch, 2, 4, 4, generator=gen) for _ in range(2)]
        answer, wanted = asked(made.card.with_suffix(""), *fields), network(*fields).detach()
        torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-7)


def test_a_network_in_a_file_with_dots_in_its_name_is_exported(run, gen, tmp_path):
    (tmp_path / "my.net-2.1.py").write_text(LINEAR)
    kind = f"{tmp_path / 'my.net-2.1.py'}:Linear"
    body = body_of(kind, 4, 2, "zero", {}, 2, {})
    network = Normalised(body, torch.ones(2), torch.ones(2)).eval()
    exchanged(run, network, kind, {})
    export_corrector(run, tmp_path / "c.pt", "NON")
    fields = [torch.randn(2, 2, 4, 4, generator=gen) for _ in range(2)]
    torch.testing.assert_close(asked(tmp_path / "c.pt", *fields), network(*fields).detach())


@pytest.mark.parametrize("suffix", [SLOW_ONNX, "pt"])
def test_a_parameter_is_a_factor_and_land_counts_nothing(suffix, run, gen, tmp_path):
    """Whatever a cell of land holds, its factor is 1."""
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    mask = torch.arange(16).view(4, 4) % 3 > 0
    network = network_of("parameter", mask)
    exchanged(run, network)
    made = export_corrector(run, tmp_path / f"c.{suffix}", "NON")
    fields = [torch.randn(3, 2, 4, 4, generator=gen) for _ in range(2)]
    wet = [torch.where(mask, values, torch.nan) for values in fields]
    answer = asked(made.card.with_suffix(""), *wet)
    torch.testing.assert_close(answer, network(*fields).detach().exp(), rtol=1e-5, atol=1e-6)
    assert (answer[..., ~mask] == 1).all()
    card = made.card.read_text()
    assert "u' = S(u, f exp(C(u, f)))" in card
    assert "The file answers exp(C), as `factor`." in card
    assert "| output | `factor` |" in card


def test_numbers_stay_doubles(run, gen, tmp_path):
    exchanged(run, network_of(dtype=torch.float64))
    made = export_corrector(run, tmp_path / "c.pt", "NON")
    fields = [torch.randn(2, 2, 4, 4, generator=gen, dtype=torch.float64) for _ in range(2)]
    wanted = network_of(dtype=torch.float64)(*fields).detach()
    torch.testing.assert_close(
        asked(made.card.with_suffix(""), *fields), wanted, rtol=1e-13, atol=1e-13
    )
    assert "real(c_double) :: state(4, 4, 2, batch)" in made.card.read_text()


@pytest.mark.parametrize(("suffix", "every"), [("pt", 1), ("pt", 2), SLOW_ONNX_MESH])
def test_a_mesh_and_no_forcing(suffix, every, tmp_path):
    """From the run folder alone: its solver and its data are not asked for."""
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    changes = ["data.fine=[289]", "data.coarse=[81]", "data.steps=4", "data.train=1", "data.test=1"]
    changes += ['run.labels=["SRC","NON"]', 'non.length="3 iterations"', "training.unroll=2"]
    changes += ['training.length="1 iteration"', "corrector.sizes={width=4,rounds=2}"]
    changes += [f"corrector.every={every}"]
    config = load_config("quick", None, changes, {"solver": {"spec": "heat-mesh"}})
    run_correction(config, tmp_path / "run")
    for data in tmp_path.glob("*.nc"):
        data.unlink()
    made = export_corrector(tmp_path / "run", tmp_path / f"c.{suffix}")
    state, network = torch.rand(3, 1, 81), load_corrector(tmp_path / "run")
    torch.testing.assert_close(asked(made.card.with_suffix(""), state), network(state).detach())
    card, dt = made.card.read_text(), load_solver("heat-mesh").grid.dt
    assert "a mesh of 81 points" in card
    assert f"S one step of the solver ({dt:g}" in card
    assert ("S^2(u; f[1], .., f[2])" in card) == (every == 2)
    assert (f"u' is the state behind them, {2 * dt:g}" in card) == (every == 2)
    assert "`forcing`" not in card


HELD = {
    "after": "v = S^4(u; f[1], .., f[4]), u' = v + C(v, f[1]).",
    "before": "u' = S^4(u + C(u, f[1]); f[1], .., f[4]).",
    "forcing": "u' = S^4(u; f[1] + c, .., f[4] + c), c = C(u, f[1]).",
    "parameter": "u' = S^4(u; f[1] exp(c), .., f[4] exp(c)), c = C(u, f[1]).",
}


@pytest.mark.parametrize("inject", HELD)
def test_the_card_says_that_several_steps_share_a_correction(inject, run, tmp_path):
    exchanged(run, network_of(inject, every=4))
    card = export_corrector(run, tmp_path / "c.pt", "NON").card.read_text()
    for words in (
        *(HELD[inject], "` once in 4 of its steps. zopde trained it"),
        *("one step of the solver (0.1 s)", "S^4 is 4 such steps in a row", "0.4 s later"),
        *("asked once in 4 steps, not at each", "`forcing` is f[1], that of the first of them"),
        "mean absolute error over the times of the corrections of runs",
    ):
        assert words in card, words
    for words in ("each of its steps", "S(u", "all steps"):
        assert words not in card, words


def partial(run, left):
    """The run's data with a hole in every state but those `left`, as a user's own."""
    (file,) = run.parent.glob("*.nc")
    with xr.open_dataset(file) as data:
        holes = data.load()
    for name in ("velocity_y", "velocity_x"):
        values = holes[name].values  # (simulation, time, y, x)
        values[:, [t for t in range(values.shape[1]) if t not in left], 0, 0] = float("nan")
    holes.attrs.pop("settings")
    holes.to_netcdf(run.parent / "part.nc", engine="h5netcdf")
    config = (run / "config.toml").read_text()
    path = f'path = "{run.parent / "part.nc"}"'
    config = re.sub(r"^path = .*$", lambda _: path, config, flags=re.MULTILINE)
    (run / "config.toml").write_text(config.replace("partial = false", "partial = true"))


def test_a_file_is_tried_on_whole_states_alone(run, tmp_path):
    partial(run, left=(0, 5))
    made = export_corrector(run, tmp_path / "c.pt", "NON")
    assert made.difference < 1e-7
    assert "run on 8 states of the data" in made.agreement


def test_without_a_whole_state_there_is_no_file(run, tmp_path):
    partial(run, left=())
    with pytest.raises(InputError, match="data: got no whole state"):
        export_corrector(run, tmp_path / "c.pt", "NON")
    assert not list(tmp_path.glob("c.pt*"))


@pytest.mark.parametrize("suffix", ["pt", "pt2"])
@pytest.mark.parametrize(
    ("own", "space"),
    [
        ("11_viscosity.py:Field", (16, 16)),
        ("14_lorenz96.py:Values", (40,)),
        ("14_lorenz96.py:OfPlace", (40,)),
    ],
)
def test_the_networks_of_the_examples_can_leave(suffix, own, space, tmp_path):
    examples = Path(__file__).parents[2] / "examples"
    body = body_of(f"{examples}/{own}", 2, 1, "periodic", {}, len(space), {})
    for weight in body.parameters():
        torch.nn.init.normal_(weight)
    scales, dims = (torch.ones(1), torch.ones(1)), len(space)
    network = Normalised(body, *scales, dims=dims, inject="parameter").eval()
    fields = torch.rand(8, 1, *space), torch.rand(8, 1, *space)
    physical = export._Physical(network.requires_grad_(False))
    _, off, largest = export._tried(physical, tmp_path / f"c.{suffix}", fields)
    assert off < 1e-5 * largest


@pytest.mark.parametrize("suffix", ["pt", "pt2"])
def test_a_len_is_told_with_what_to_write_instead(suffix, run, tmp_path):
    told = BRANCHING.replace(
        "y if x.mean() > 0 else 2 * y", "y + self.mix.bias.sum().expand(len(x), 1, 1, 1)"
    )
    (tmp_path / "mine.py").write_text(told)
    kind = f"{tmp_path / 'mine.py'}:Branching"
    body = body_of(kind, 4, 2, "periodic", {}, 2, {})
    exchanged(run, Normalised(body, torch.ones(2), torch.ones(2)), kind, {})
    with pytest.raises(InputError, match=r"write x\.shape\[0\] in place of len\(x\)"):
        export_corrector(run, tmp_path / f"c.{suffix}", "NON")


def test_the_least_error_of_a_black_box_is_taken(run, finished, tmp_path):
    """SOL errs less, but needs the solver's gradient."""
    assert finished[1]["mae"]["SOL"]["mean"] < finished[1]["mae"]["NON"]["mean"]
    made = export_corrector(run, tmp_path / "c.pt")
    assert made.model == run / "NON" / "seed-4" / "model.safetensors"
    one, other = (load_corrector(path).state_dict() for path in (run, made.model))
    assert all(torch.equal(values, other[name]) for name, values in one.items())


def test_the_card_says_what_is_needed(run, finished, tmp_path):
    made = export_corrector(run, tmp_path / "mine.pt", "NON")
    card, mae = made.card.read_text(), finished[1]["mae"]["NON"]["mean"]
    assert made.card == tmp_path / "mine.pt.md"
    digest = (run / "data.sha256").read_text().strip()
    for words in (
        *("v = S(u, f), u' = v + C(v, f)", "y: 4 cells in 8 m, periodic", digest),
        *(
            "one step of the solver (0.1 s)",
            "velocity_y m/s, velocity_x m/s",
            "seeds 4, 7",
            f"{mae:.4f}",
        ),
        *("torch.kFloat32".replace(".", "::"), "real(c_float) :: state(4, 4, 2, batch)"),
        *("run.seeds=[4, 7]", f"zopde export {run} --label NON --seed 4 --to mine.pt"),
        *(torch.__version__, f"{made.agreement}."),
    ):
        assert words in card, words


@pytest.mark.parametrize("suffix", ["pt", "pt2", "onnx"])
def test_a_branch_by_values_is_told_in_one_line_and_leaves_no_file(suffix, run, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    (tmp_path / "mine.py").write_text(BRANCHING)
    kind = f"{tmp_path / 'mine.py'}:Branching"
    body = body_of(kind, 4, 2, "periodic", {}, 2, {})
    network = Normalised(body, torch.ones(2), torch.ones(2))
    exchanged(run, network, kind, {})
    with pytest.raises(InputError, match=r"c\.\w+: got a network that it cannot hold") as caught:
        export_corrector(run, tmp_path / f"c.{suffix}", "NON")
    assert "\n" not in str(caught.value)
    others = {"pt": ".onnx, .pt2", "pt2": ".onnx, .pt, .ts", "onnx": ".pt2, .pt, .ts"}[suffix]
    assert str(caught.value).endswith(f"another format may do: {others}")
    assert not list(tmp_path.glob("c.*"))


@pytest.mark.parametrize("off", [0.01, float("nan")])
def test_a_file_that_disagrees_is_not_left(off, run, tmp_path, monkeypatch):
    def wrong(module, fields):
        content, ask = export._as_script(module, fields)
        return content, lambda *fields: off + ask(*fields)

    monkeypatch.setitem(export._FORMATS, ".pt", wrong)
    with pytest.raises(InputError, match=r"answers off by .* expected the network's, up to round"):
        export_corrector(run, tmp_path / "c.pt", "NON")
    assert not list(tmp_path.glob("c.pt*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "c.txt"], "suffix of --to: got '.txt', expected one of ['.onnx', '.pt2', '.pt',"),
        (["--to", "c.pt", "--label", "SRC"], "label: got 'SRC', expected one of ['NON', 'SOL']"),
        (["--to", "c.pt", "--seed", "1"], "seed: got 1, expected one of [4, 7]"),
        (["--to", "taken.pt"], "--to: got taken.pt, which exists, expected a new file; add --over"),
        (["--to", "card.pt"], "--to: got card.pt.md, which exists"),
        (["--to", "c.onnx"], "c.onnx: got no onnx"),
    ],
)
def test_what_will_not_do_is_one_line(words, said, run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    for name in ("taken.pt", "card.pt.md"):
        (run.parent / name).write_text("mine")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(sys, "argv", ["zopde", "export", "run", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"zopde: {said}"), line
    assert ("pip install 'zopde[export]'" in line) == (words[-1] == "c.onnx")
    assert (run.parent / "taken.pt").read_text() == "mine"


def test_data_that_are_gone_are_named(run, tmp_path):
    for data in run.parent.glob("*.nc"):
        data.unlink()
    with pytest.raises(InputError, match="data file"):
        export_corrector(run, tmp_path / "c.pt", "NON")


def test_the_command_prints_the_difference(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    (run.parent / "c.pt").write_text("old")
    monkeypatch.setattr(sys, "argv", ["zopde", "export", "run", "--to", "c.pt", "--overwrite"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert (
        "wrote c.pt of run/NON/seed-4/model.safetensors: run on 8 states of the data, its" in said
    )
    assert len(torch.jit.load("c.pt")(torch.ones(2, 2, 4, 4), torch.ones(2, 2, 4, 4))) == 2


def test_a_run_that_is_not_finished_needs_a_label(run, tmp_path):
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"label: got '', expected one of \['NON', 'SOL'\]"):
        export_corrector(run, tmp_path / "c.pt")
    made = export_corrector(run, tmp_path / "c.pt", "NON")
    assert "The run was not finished: there are no scores." in made.card.read_text()


def test_a_run_of_another_job_has_no_corrector(tmp_path):
    (tmp_path / "config.toml").write_text('study = "certify"\nmodel = "a"\nseed = 0\n')
    with pytest.raises(InputError, match="a run of zopde certify, expected a run of zopde correct"):
        export_corrector(tmp_path, tmp_path / "c.pt")
