"""A corrector of the user's own in a correction run."""

import math
import re

import pytest
import torch
import xarray as xr

from zopde import (
    CorrectedSolver,
    Grid,
    InputError,
    Trajectories,
    load_corrector,
    load_solver,
    rollout,
    save_trajectories,
)
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.check import check_gradient, check_solver

NETWORKS = """
import torch
from torch import nn
import helper


class UNet(nn.Module):
    def __init__(self, inputs, outputs, width=2):
        super().__init__()
        self.enter = nn.Conv2d(inputs, width, 3, padding=1, padding_mode="circular")
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, width, 1), nn.GELU())
        self.up = nn.Upsample(scale_factor=2)
        self.leave = nn.Conv2d(2 * width, outputs, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        top = torch.tanh(self.enter(x))
        return self.gain * self.leave(torch.cat([top, self.up(self.down(top))], dim=1))


class Tied(UNet):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.again = self.leave


class Spectral(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.modes = nn.Parameter(torch.full((outputs, inputs, 2, 2), 1e-3j))

    def forward(self, x):
        modes = torch.fft.rfft2(x)[:, :, :2, :2]
        mixed = torch.einsum("oiyx,biyx->boyx", self.modes.to(modes), modes)
        return torch.fft.irfft2(mixed, s=x.shape[2:])


class Cropped(UNet):
    def forward(self, x):
        return super().forward(x)[..., 1:]


class Doubled(UNet):
    def forward(self, x):
        return super().forward(x).double()


class Dropped(UNet):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x))


class Mixed(UNet):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0, keepdim=True))


class Raising(UNet):
    def forward(self, x):
        raise RuntimeError("sizes\\nthat do not fit")


class Normed(UNet):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.norm = nn.BatchNorm2d(inputs)

    def forward(self, x):
        return super().forward(self.norm(x))


class Pair(UNet):
    def forward(self, x):
        return super().forward(x), x


class Weightless(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return 0 * x[:, :self.outputs]


class Huge(Spectral):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.odd = nn.Parameter(torch.ones(1, dtype=torch.complex128))


class Anywhere(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, x):
        return torch.einsum("oi,bi...->bo...", self.mix, x)


number = 7
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "helper.py").write_text("width = 2\n")
    (tmp_path / "mine.py").write_text(NETWORKS)
    return tmp_path


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def config_of(home, spec, tiny, name, *changes):
    changes = [*tiny, f'corrector.kind="{home / "mine.py"}:{name}"', *changes]
    changes = [change for change in changes if not change.startswith("corrector.sizes={width")]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def model_of(folder, label):
    return load_corrector(folder / label / "seed-0" / "model.safetensors")


def test_a_network_in_a_file_is_trained_in_every_way(home, toy_spec, tiny):
    """Its file makes the network that rolled out; and its imports are not the solver's."""
    labels, notes = ["SRC", "NON", "NOG", "ZO-weights", "ZO-interface", "SOL"], Notes()
    config = config_of(home, toy_spec, tiny, "UNet", f"run.labels={labels}".replace("'", '"'))
    metrics = run_correction(config, home / "run", progress=notes)
    assert metrics["parameters"] == 4 * 2 * 9 + 2 + 2 * 2 + 2 + 4 * 2 + 2 + 1
    assert not [line for line in notes.lines if "imports" in line]
    assert not (home / "run" / "imports.digest").exists()
    for label in labels[1:]:
        network = model_of(home / "run", label)
        assert network.body.gain.abs() > 0
        assert (network.inject, network.training) == ("after", False)
        with xr.open_dataset(home / "run" / label / "seed-0" / "rollout.nc") as kept:
            states = torch.from_numpy(kept["velocity_x"].values)
        solver = load_solver(toy_spec, {"shape": (4, 4)})
        (data,) = home.glob("*.nc")
        with xr.open_dataset(data) as truth:
            first, force = (
                torch.from_numpy(truth[[f"{k}_y", f"{k}_x"]].to_array().values[:, 3:])
                for k in ("velocity", "force")
            )
        again = rollout(
            CorrectedSolver(solver, network),
            first[:, :, 0].transpose(0, 1),
            12,
            lambda step, force=force: force[:, :, step].transpose(0, 1),
        )
        torch.testing.assert_close(again[:, :, 1], states)


def test_tied_weights_are_written_and_read(home, toy_spec, tiny):
    labels = 'run.labels=["SRC","NON"]'
    run_correction(config_of(home, toy_spec, tiny, "Tied", labels), home / "run")
    body = model_of(home / "run", "NON").body
    assert body.again is body.leave
    assert body.leave.weight.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_complex_weights_stay_complex(dtype, home, toy_spec, tiny):
    labels = 'run.labels=["SRC","NOG","ZO-weights"]'
    config = config_of(home, toy_spec, tiny, "Spectral", labels, f"run.dtype={dtype}")
    run_correction(config, home / "run")
    for label in ("NOG", "ZO-weights"):
        modes = model_of(home / "run", label).body.modes
        assert modes.dtype == torch.complex64
        assert (modes.real != 0).any()
        assert (modes.imag != 1e-3).any()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Cropped", r"an answer \(2, 2, 4, 3\), torch.float32, expected an answer \(2, 2, 4, 4\)"),
        ("Doubled", "torch.float64, expected .* torch.float32"),
        ("Pair", "an answer tuple, expected"),
        ("Raising", "RuntimeError: sizes.*expected a network for states of 4 channels on"),
        ("Dropped", "random numbers, expected the same answer"),
        ("Mixed", "another answer for a state alone"),
        ("Normed", "its buffers, expected .*GroupNorm"),
        ("Weightless", "no weights to train"),
        ("Huge", "complex128"),
        ("UNnet", "did you mean 'UNet'"),
        ("number", "the class of a network"),
    ],
)
def test_a_network_that_will_not_do_is_refused_before_a_step(home, toy_spec, tiny, name, words):
    """Nothing is simulated, nothing written; by each command."""
    config = config_of(home, toy_spec, tiny, name)
    before = set(home.iterdir())
    for work in (run_correction, check_gradient, check_solver):
        with pytest.raises(InputError, match=words) as caught:
            work(config, *([home / "run"] if work is run_correction else []))
        assert "\n" not in str(caught.value)
    assert {path for path in home.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("corrector.kind=conf", r"corrector\.kind: got 'conf', .*did you mean 'conv'"),
        ("corrector.padding=zero", r"corrector\.padding: got 'zero', expected \"auto\""),
        ("corrector.sizes={depth=2}", "unexpected keyword argument 'depth'"),
        ("corrector.kind=gone.py:Net", "gone.py, expected an existing Python file"),
    ],
)
def test_settings_that_do_not_suit_it_raise(home, toy_spec, tiny, change, words):
    with pytest.raises(InputError, match=words):
        run_correction(config_of(home, toy_spec, tiny, "UNet", change), home / "run")


def test_a_run_goes_on_with_the_same_network_alone(home, toy_spec, tiny):
    """The content of the file and of what it imports counts, the class, and not the path."""
    labels = 'run.labels=["SRC","NON"]'
    run_correction(config_of(home, toy_spec, tiny, "UNet", labels), home / "run")
    moved = home / "elsewhere"
    moved.mkdir()
    for name in ("mine.py", "helper.py"):
        (moved / name).write_bytes((home / name).read_bytes())
    again = config_of(moved, toy_spec, tiny, "UNet", labels)
    run_correction(again, home / "run", resume=True)
    for path, more in ((moved / "mine.py", "# edited\n"), (moved / "helper.py", "width = 3\n")):
        content = path.read_text()
        path.write_text(content + more)
        with pytest.raises(InputError, match=r"network .*mine\.py:UNet'.*--overwrite"):
            run_correction(again, home / "run", resume=True)
        path.write_text(content)
    with pytest.raises(InputError, match=r"network .*mine\.py:Anywhere'"):
        run_correction(
            config_of(moved, toy_spec, tiny, "Anywhere", labels), home / "run", resume=True
        )
    run_correction(again, home / "run", overwrite=True)


def test_a_model_without_its_class_is_one_line_raises(home, toy_spec, tiny):
    config = config_of(home, toy_spec, tiny, "UNet", 'run.labels=["SRC","NON"]')
    run_correction(config, home / "run")
    source = home / "mine.py"
    source.write_text(NETWORKS.replace("width=2", "width=3"))
    with pytest.raises(InputError, match=r"unreadable \(Error.* in loading state_dict"):
        model_of(home / "run", "NON")
    source.unlink()
    with pytest.raises(InputError, match=r"mine\.py, expected an existing Python file") as caught:
        model_of(home / "run", "NON")
    assert "\n" not in str(caught.value)


FOUR = """
import torch, zopde


class Four:
    def __init__(self, shape):
        size = (1.0,) * len(shape)
        dims = "abcd"[: len(shape)]
        self.grid = zopde.Grid(tuple(shape), size, 0.1, ("u",), dims=tuple(dims))

    def step(self, state, forcing=None):
        return state + 0.1 * (state.roll(1, 2) - state)
"""


def test_a_grid_of_four_dimensions_takes_a_network_of_ones_own(home, tiny):
    (home / "four.py").write_text(FOUR)
    shape = (3, 2, 3, 2)
    grid = Grid(shape, (1.0,) * 4, 0.1, ("u",), dims=tuple("abcd"))
    draw = torch.rand(5, 13, 1, *shape, generator=torch.Generator().manual_seed(0))
    save_trajectories(Trajectories(grid, draw), home / "four.nc")
    changes = [*tiny, "solver.options.shape=[3,2,3,2]", f'data.path="{home / "four.nc"}"']
    changes += ["data.coarse=[]", 'run.labels=["SRC","NOG","ZO-interface"]', "corrector.sizes={}"]
    tables = {"solver": {"spec": f"{home / 'four.py'}:Four"}}
    kind = f'corrector.kind="{home / "mine.py"}:Anywhere"'
    metrics = run_correction(load_config("quick", None, [*changes, kind], tables), home / "run")
    assert all(math.isfinite(error["mean"]) for error in metrics["mae"].values())
    assert model_of(home / "run", "NOG").state_scale.shape == (1, 1, 1, 1, 1)
    for work in (lambda config: run_correction(config, home / "no"), check_solver):
        with pytest.raises(InputError, match=re.escape("'conv' on a grid of [3, 2, 3, 2] cells")):
            work(load_config("quick", None, changes, tables))
